"""Cards say what a record holds, leave out what it does not, and are read by the hub's own reader."""

from pathlib import Path
from typing import Any

import pytest

from visprompt.cards import _dataset, card, figures_of, trained_text
from visprompt.learned import Learned
from visprompt.training.result import Fitted

huggingface_hub = pytest.importorskip("huggingface_hub")


class Made(Learned):
    """Something learned (a paper's link), for a test."""

    name = "made"


def data(n: int) -> dict[str, Any]:
    return {"name": "hf:someone/pets", "kind": "classification", "classes": 3, "n": n, "sha256": "ab" * 32}


RECORD = {
    "data": {"train": data(800), "validation": data(100), "test": data(120)},
    "protocol": "The data set's own parts.",
    "settings": {"epochs": 10, "base_lr": 0.1, "lr": None, "workers": 3},
    "metric": "accuracy",
    "validation": {"accuracy": 0.9, "loss": 0.3},
    "test": {"loss": 0.4, "accuracy": 0.85, "mean_class_accuracy": 0.84},
    "classes": ["cat", "dog", "a | b"],
    "head": {"kind": "linear"},
    "parameters": {"prompt": 1000, "head": 300},
    "backbone_parameters": 100_000,
    "epochs": 10,
    "best_epoch": 7,
    "visprompt_version": "0.3.0",
}


@pytest.fixture
def made() -> Made:
    prompter = Made()
    prompter.backbone = {"name": "facebook/vit-mae-base", "class": "ViTMAEModel", "backend": "transformers",
                         "blocks": 12, "width": 768}  # fmt: skip
    prompter.record = dict(RECORD)
    return prompter


def test_figures_with_intervals_where_pictures_tell_them(made: Made) -> None:
    found = {(one.split, one.metric): one for one in figures_of(made.record)}
    accuracy = found["test", "accuracy"]
    assert accuracy.interval == pytest.approx((0.7754, 0.9030), abs=1e-3)
    assert (accuracy.n, accuracy.chosen, accuracy.text()) == (120, True, "85.0 %")
    assert found["test", "mean_class_accuracy"].interval is None
    assert found["test", "loss"].text() == "0.4000"
    assert [one.metric for one in figures_of(made.record)][:2] == ["accuracy", "loss"]


def test_the_hub_reads_it(made: Made) -> None:
    read = huggingface_hub.ModelCard(card(made)).data.to_dict()
    assert read["base_model"] == "facebook/vit-mae-base"
    assert read["datasets"] == ["someone/pets"]
    assert read["library_name"] == "visprompt"
    assert "made" in read["tags"]
    results = read["model-index"][0]["results"]
    assert [row["dataset"]["split"] for row in results] == ["validation", "test"]
    assert results[1]["metrics"][0]["value"] == 0.85
    assert "license" not in read


def test_what_people_read(made: Made) -> None:
    text = card(made)
    for wanted in (
        'vp.load_model("facebook/vit-mae-base")',
        "| test | accuracy | 85.0 % | 77.5–90.3 % | 120 |",
        "33.3 %",
        "prompt 1,000, head 300 numbers: 1.30 % of the backbone",
        "The data set's own parts.",
        "| base_lr | 0.1 |",
        "| epoch whose weights were kept | 7 |",
        "Something learned",
        "No control",
    ):
        assert wanted in text
    assert "workers" not in text
    assert "| lr |" not in text


def test_controls_and_sweep(made: Made) -> None:
    made.record["controls"] = {"head alone": {"accuracy": 0.7}}
    text = card(made, Fitted("accuracy", sweep=[{"lr": 1.0, "accuracy": 0.9}, {"lr": 0.1, "accuracy": 0.8}]))
    assert "| control: head alone | accuracy | 70.0 %" in text
    assert "No control" not in text
    assert "| lr | accuracy |\n|---|---|\n| 1 | 0.9 |" in text
    made.record["sweep"] = [{"lr": 2.0, "accuracy": 0.8}, {"lr": 9.0, "diverged": "the loss is nan"}]
    assert "| 2 | 0.8 | – |\n| 9 | – | the loss is nan |" in card(made)


def test_nothing_has_to_be_known(made: Made) -> None:
    made.record, made.backbone = {}, None
    text = card(made)
    assert "# made" in text
    assert "## Limits" in text
    assert "None" not in text
    made.record = {"validation": {}, "test": None, "data": {"train": None}, "metric": None, "parameters": {"prompt": 7}}
    assert "accuracy" not in card(made)


def test_no_path_of_this_machine(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "my-vit"
    folder.mkdir()
    assert made.backbone is not None
    made.backbone["name"] = str(folder)
    text = card(made)
    assert str(tmp_path) not in text
    assert 'load_model("my-vit")' in text
    assert huggingface_hub.ModelCard(text).data.base_model is None


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("count-train", "count-validation", "count-test"), "count"),
        (("pets", "pets, held out", None), "pets"),
        (("hf:a/b", "hf:a/b", "hf:a/b"), "hf:a/b"),
        (("train", None, "test"), "train"),
        (("photos/train", None, "photos/test"), "photos"),
        ((None, None, None), ""),
    ],
)
def test_the_parts_share_a_name(names: tuple[str | None, ...], wanted: str) -> None:
    assert _dataset({split: {"name": name} for split, name in zip("abc", names, strict=True)}) == ""
    splits = ("train", "validation", "test")
    assert _dataset({split: {"name": name} for split, name in zip(splits, names, strict=True)}) == wanted


def test_questions_are_asked(made: Made) -> None:
    made.record = {"data": {"train": {"name": "q", "kind": "answers", "n": 3}}}
    assert '.generate(vp.Request("photo.jpg", query="What is this?"))' in card(made)


def test_trained_share() -> None:
    assert trained_text({}) == ""
    assert trained_text({"parameters": {"prompt": 12}}) == "prompt 12 numbers"


def test_settings_without_effect_are_left_out(made: Made) -> None:
    made.record["settings"] = {"lr": 0.5, "base_lr": 0.1, "templates": ["a {}"], "head": None}
    assert "| lr | 0.5 |" in card(made)
    assert "base_lr" not in card(made)
    assert "templates" not in card(made)
    made.record["settings"] |= {"head": "zero-shot"}
    assert "templates" in card(made)


def test_without_a_head_the_control_is_the_plain_model(made: Made) -> None:
    assert "No control (a head alone on the same frozen model)" in card(made)
    made.record["head"] = None
    assert "No control (the frozen model without the prompt)" in card(made)
