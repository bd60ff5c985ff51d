"""Answers taught to LVLMs: the loss is the model's own, batches do not matter, prompts learn and nothing else does."""

from __future__ import annotations

import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import visprompt as vp
from visprompt.data.labelled.dataset import Labelled
from visprompt.data.labelled.splits import Splits
from visprompt.data.scenes.answers import answer_splits, scene_answers
from visprompt.data.scenes.questions import scene_questions
from visprompt.models.chat import Chat
from visprompt.models.lvlm.answer_likelihood import answer_ids, ending
from visprompt.models.lvlm.inputs import prepare
from visprompt.testing.conformance import differences, image, snapshot
from visprompt.testing.tiny import tiny
from visprompt.testing.tiny_lvlm import tiny_lvlm, tiny_lvlm_names
from visprompt.training.gradient_checkpointing import checkpointed
from visprompt.training.objectives.language import LanguageModelling
from visprompt.training.settings import FitSettings

NAMES = [name for name in tiny_lvlm_names() if not name.startswith("qwen")]
ASKED = [("what is the red star", "a dog"), ("what is this", "red"), ("a photo of a", "the blue circle on the left")]
SIZES = [(96, 64), (50, 100), (64, 64)]


def questions(count: int = 3) -> Labelled:
    items = [(image(SIZES[place], place), ASKED[place]) for place in range(count)]
    return Labelled(items, (), kind="answers", name="asked")


def wrapped(name: str) -> Any:
    made = tiny_lvlm(name)
    return vp.wrap(made.module, made.processor, name=name)


def objective(model: Any, data: Labelled, strategy: str = "gated", **options: Any) -> LanguageModelling:
    prompter: Any = vp.Prompter.from_name(strategy, prompts=3, **options)
    prompter.build(model, 0)
    return LanguageModelling(model, prompter, {"train": data}, FitSettings(batch_size=4))


def batch_of(taught: LanguageModelling, *indices: int) -> dict[str, Any]:
    samples: Any = taught.samples("train")
    found = taught.collate([samples[index, 0] for index in indices])
    assert found is not None
    return found


# -- every family -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_and_leaves_the_model_alone(name: str) -> None:
    """A few steps make the answers likelier, `score` and `generate` use what was learned, the model is as before."""
    model = wrapped(name)
    data, plain = questions(), vp.Runner(model)
    prompter: Any = vp.Prompter.from_name("gated", prompts=4, gamma=0.0, dropout=0.0)
    request = vp.Request(data.image(0), query=ASKED[0][0])
    before, state = plain.score(request, ["a dog"]), snapshot(model.module)
    fitted = prompter.fit(
        model, data, epochs=3, batch_size=3, optimizer="adamw", lr=0.05, warmup_epochs=0, progress=False
    )
    losses = [row["train"]["loss"] for row in fitted.history]
    assert losses[-1] < losses[0]
    assert fitted.metric == "loss"
    assert not differences(state, snapshot(model.module))
    assert torch.equal(plain.score(request, ["a dog"]), before)
    assert prompter.evaluate(model, data)["loss"] < losses[0]
    assert (vp.Runner(model, prompter).score(request, ["a dog"]) - before).abs() > 1e-3
    assert isinstance(vp.Runner(model, prompter).generate(request, max_new_tokens=2)[0], str)


@pytest.mark.parametrize("name", NAMES)
def test_batches_do_not_matter(name: str) -> None:
    """Sums over images of different tiles, questions and answers of different lengths."""
    model = wrapped(name)
    model.module.requires_grad_(False)
    taught = objective(model, questions())
    parameters = list(taught.prompter.parameters.parameters())  # type: ignore[union-attr]

    def gradients(*batches: tuple[int, ...]) -> tuple[float, list[torch.Tensor], dict[str, float]]:
        total, sums = 0.0, None
        for item in parameters:
            item.grad = None
        for indices in batches:
            with taught.loss(batch_of(taught, *indices), None) as loss:
                loss.backward()
            total += float(loss.detach())
            measured = taught.measure(batch_of(taught, *indices))
            sums = measured if sums is None else {key: value + measured[key] for key, value in sums.items()}
        assert sums is not None
        return total, [item.grad for item in parameters if item.grad is not None], taught.figures(sums)

    together, apart = gradients((0, 1, 2)), gradients((2,), (0, 1))
    assert together[0] == pytest.approx(apart[0], rel=1e-4)
    assert together[2] == pytest.approx(apart[2], rel=1e-4)
    assert together[2]["loss"] == pytest.approx(together[0] / 3, rel=1e-5)
    assert len(together[1]) == len(parameters)
    for one, two in zip(together[1], apart[1], strict=True):
        assert one.ne(0).any()
        torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-5 * float(one.abs().max()) + 1e-7)
    assert all(item.grad is None for item in model.module.parameters())


@pytest.mark.parametrize("name", ["llava", "idefics3", "gemma3", "internvl"])
def test_checkpointing_changes_no_gradient(name: str) -> None:
    """Blocks of both towers run again in the backward pass, with the prompts in them."""
    model = wrapped(name)
    model.module.requires_grad_(False)
    taught = objective(model, questions(), "gated", gamma=0.0)
    parameters = list(taught.prompter.parameters.parameters())  # type: ignore[union-attr]
    runs: list[int] = []
    handles = [
        tower.sites[0].module.register_forward_pre_hook(lambda *_: runs.append(0))
        for tower in (model.tower, model.vision_tower)
    ]

    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        taught.settings = FitSettings(checkpointing=checkpointing)
        for item in parameters:
            item.grad = None
        runs.clear()
        with (
            checkpointed(model) if checkpointing else nullcontext(),
            taught.loss(batch_of(taught, 0, 1), [1, 2]) as loss,
        ):
            loss.backward()
        return [item.grad for item in parameters if item.grad is not None]

    gradients(False)  # proofs run once
    plain, before = gradients(False), len(runs)
    again = gradients(True)
    assert len(runs) == 2 * before
    assert not any(module.training for module in model.module.modules())
    for one, two in zip(again, plain, strict=True):
        torch.testing.assert_close(one, two)
    for handle in handles:
        handle.remove()


# -- the loss ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_models_own() -> None:
    """transformers' loss with all labels but the answer's and its end's left out, without prompts."""
    model = wrapped("llava")
    taught = objective(model, questions(1), "vpt", dropout=0.0)
    taught.prompter = vp.Prompter.from_name("vpt", prompts=0)  # type: ignore[assignment]
    taught.prompter.build(model)
    with torch.no_grad(), taught._log_probs(batch_of(taught, 0), None) as log_probs:
        found = -log_probs.log_likelihood.sum() / log_probs.counted.sum()
    inputs = prepare(model, [Chat((vp.VisualPrompt(questions(1).image(0)),), ASKED[0][0])])
    answer = torch.tensor(
        [[*model.tokenizer("a dog", add_special_tokens=False)["input_ids"], model.tokenizer.eos_token_id]]
    )
    tensors = dict(inputs.tensors)
    labels = torch.cat((torch.full_like(tensors["input_ids"], -100), answer), dim=1)
    tensors["input_ids"] = torch.cat((tensors["input_ids"], answer), dim=1)
    tensors["attention_mask"] = torch.ones_like(tensors["input_ids"])
    with torch.no_grad():
        wanted = model.module(**tensors, labels=labels).loss
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_taught_model_says_it_and_stops() -> None:
    """The bundled model learns to see two objects in another colour than they have."""
    model: Any = vp.load_model("bundled:scenes-llava")
    asked = scene_answers("train", 2, ["colour"])
    taught = [(asked.pil_image(place), (str(asked.label(place)[0]), "yellow")) for place in range(2)]  # type: ignore[index]
    data = Labelled(taught, (), kind="answers")
    prompter: Any = vp.Prompter.from_name("vpt", preset="deep", prompts=10, dropout=0.0)
    prompter.fit(model, data, epochs=12, optimizer="adamw", lr=0.05, warmup_epochs=0, progress=False)
    figures = prompter.evaluate(model, data)
    assert figures["answer_accuracy"] == figures["token_accuracy"] == 1.0
    requests = [vp.Request(image, query=question) for image, (question, _) in taught]
    answers = vp.Runner(model, prompter).answer(requests, blocks=[0])
    assert [(answer.text, answer.finished) for answer in answers] == [("yellow", True)] * 2
    plain = vp.Runner(model).answer(requests, blocks=[0])
    assert [answer.text for answer in plain] == [asked.label(place)[1] for place in range(2)]  # type: ignore[index]
    assert (plain[0].maps[0].values - answers[0].maps[0].values).abs().max() > 1e-3


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = wrapped("internvl")
    prompter: Any = vp.Prompter.from_name("gated", prompts=2)
    prompter.fit(model, questions(2), epochs=1, batch_size=2, lr=0.1, progress=False, out=tmp_path / "made")
    loaded = vp.Prompter.from_pretrained(tmp_path / "made")
    request = vp.Request(image((96, 64)), query="what is this")
    assert torch.equal(*(vp.Runner(model, item).score(request, ["red", "a dog"]) for item in (prompter, loaded)))
    with pytest.raises(vp.UnsupportedError, match="was learned on internvl"):
        vp.Runner(wrapped("smolvlm"), loaded).generate(request)


@pytest.mark.parametrize("name", tiny_lvlm_names())
def test_the_token_that_ends_an_answer(name: str) -> None:
    model = wrapped(name)
    assert ending(model) == [model.tokenizer.eos_token_id]
    assert answer_ids(model, "red", ended=True) == [*answer_ids(model, "red", ended=False), *ending(model)]


def test_a_templates_own_ending_goes_first() -> None:
    """As in Qwen's, where a turn ends with another token than a text."""
    model = wrapped("llava")
    turn = model.tokenizer.convert_tokens_to_ids("star")
    model.module.generation_config.eos_token_id = [model.tokenizer.eos_token_id, turn]
    model.processor.chat_template += "{% if messages[-1]['role'] == 'assistant' %} star a dog{% endif %}"
    assert ending(model) == [turn]


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"head": "linear"}, "without a head"), ({"augment": "flip"}, "right answer")],
)
def test_what_does_not_go_with_answers(settings: dict[str, Any], message: str) -> None:
    model = wrapped("llava")
    with pytest.raises(vp.InvalidInputError, match=message):
        vp.Prompter.from_name("gated", prompts=2).fit(model, questions(), progress=False, **settings)


def test_models_that_cannot_be_taught_say_why() -> None:
    packed = wrapped("qwen2-vl")
    with pytest.raises(vp.UnsupportedError, match="packs the patches of all images"):
        vp.Prompter.from_name("gated", prompts=2).fit(packed, questions(), progress=False)
    made = tiny("transformers-clip")
    encoder = vp.wrap(made.module, made.processor, made.tokenizer)
    with pytest.raises(vp.UnsupportedError, match="writes no text"):
        vp.Prompter.from_name("gated", prompts=2).fit(encoder, questions(), progress=False)


def test_bad_images_are_named_or_left_out(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.png")
    items = [(missing, ASKED[0]), (image((64, 64)), ASKED[1])]
    model = wrapped("llava")
    with pytest.raises(vp.InvalidInputError, match=r"missing\.png"):
        vp.Prompter.from_name("vpt", prompts=2).fit(
            model, Labelled(items, (), kind="answers"), epochs=1, progress=False
        )
    skipping = Labelled(items, (), kind="answers", on_bad="skip")
    with pytest.warns(UserWarning, match=r"missing\.png"):
        fitted: Any = vp.Prompter.from_name("vpt", prompts=2).fit(model, skipping, epochs=1, progress=False)
    assert np.isfinite(fitted.history[0]["train"]["loss"])


# -- the bundled questions --------------------------------------------------------------------------------------------


def test_scene_answers_are_scene_questions() -> None:
    data, asked = (
        scene_answers("validation", 6, ["size", "side"]),
        scene_questions("validation", 0, 6, "easy", ["size", "side"]),
    )
    assert [data.label(place) for place in range(6)] == [(item.text, item.answer) for item in asked]
    assert np.array_equal(np.asarray(data.image(5)), np.asarray(asked[5].image))
    again = pickle.loads(pickle.dumps(data))
    assert again.describe() == data.describe()
    assert again.describe()["sha256"] != scene_answers("test", 6, ["size", "side"]).describe()["sha256"]
    splits = Splits(data, None, None, "made here")
    assert splits.train.kind == "answers"
    with pytest.raises(vp.UnknownNameError, match="colour"):
        scene_answers(kinds=["color"])
    with pytest.raises(vp.InvalidInputError, match="no items"):
        scene_answers(count=0)


def test_sets_of_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visprompt.data.scenes.answers.COUNTS", {"train": 3, "validation": 1, "test": 2})
    splits = answer_splits("vqa-size")
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts if part is not None] == [3, 1, 2]
    assert all("small or large" in str(splits.train.label(place)) for place in range(3))
    with pytest.raises(vp.UnknownNameError, match="vqa-relation"):
        answer_splits("vqa-relations")
