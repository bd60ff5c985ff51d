"""Cards say what a record holds, leave out what it does not, and are read by the hub's own reader."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from visprompt.learned.strategy import Learned
from visprompt.persistence.model_card import _dataset, add_gains, card, figures_of, trained_text
from visprompt.tasks.gain import BlockGain
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


def test_figures_with_intervals_where_images_tell_them(made: Made) -> None:
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


def test_names_of_others_are_shown_as_they_are(made: Made) -> None:
    made.record["classes"] = ["a | b", "<script>x</script>", "*bold*", "[link](http://x)", "two\nlines", "snake_case"]
    made.record["data"] = {"train": {**data(9), "name": "my|data"}}
    text = card(made)
    assert r"Classes: a \| b, &lt;script>x&lt;/script>, \*bold\*, \[link\](http://x), two lines, snake_case." in text
    assert r"| train | my\|data | classification | 9 | 3 |" in text


def test_what_is_no_number_is_left_out(made: Made) -> None:
    made.record["test"] = {"accuracy": float("nan"), "loss": None, "miou": 0.5}
    assert [one.metric for one in figures_of(made.record) if one.split == "test"] == ["miou"]


class Pasted(Made):
    """A patch (a paper's link), for a test."""

    name = "pasted"
    acts_on = frozenset({"pixels"})
    needs = frozenset({"training", "region"})
    transferable = True

    def image(self) -> Image.Image:
        return Image.new("RGBA", (24, 24))

    def about(self) -> str:
        return "A ring of 24 pixels."


def images(n: int) -> dict[str, Any]:
    return {"name": "photos", "kind": "images", "classes": 0, "n": n, "sha256": "cd" * 32}


class TestWithoutLabels:
    @pytest.fixture
    def patch(self) -> Pasted:
        prompter = Pasted()
        prompter.backbone = {"name": "facebook/dinov2-small", "class": "Dinov2Model", "backend": "transformers"}
        prompter.record = {
            "data": {"train": images(4000), "validation": images(200)},
            "protocol": "All images below the folder my_photos.",
            "metric": "gain",
            "task": "attention",
            "validation": {"loss": 0.9, "gain": 2.0, "gain_low": 1.7, "gain_high": 2.3, "image_gain": 20.0,
                           "mass": 0.6, "mass_without": 0.2},
            "classes": [],
            "parameters": {"prompt": 39587},
            "backbone_parameters": 1_000_000,
            "settings": {"epochs": 4},
        }  # fmt: skip
        return prompter

    def test_the_hub_is_told_of_no_classification(self, patch: Pasted) -> None:
        read = huggingface_hub.ModelCard(card(patch)).data.to_dict()
        assert read["model-index"][0]["results"][0]["task"]["type"] == "other"
        assert read["tags"] == ["visual-prompting", "pasted"]
        assert "classification" not in json.dumps(read)
        assert read["base_model"] == "facebook/dinov2-small"

    def test_what_people_read(self, patch: Pasted) -> None:
        text = card(patch)
        for wanted in (
            '<img src="patch.png" alt="the patch"',
            "A ring of 24 pixels.",
            "Learned from 4,000 images without labels.",
            "| train | photos | images | 4000 | – |",
            "| validation | gain | 2.00 | 1.70–2.30 | 200 |",
            "| validation | mass | 60.0 % | – | 200 |",
            "`model` may also be another one",
            "39,587 numbers that drew it, of which the patch alone is kept",
            "No control (a red circle, a patch of random colours) is recorded here.",
            'vp.Request("photo.jpg", region=vp.Box(40, 30, 200, 180))',
            "All images below the folder my_photos.",
            "it may do little: measure it there",
        ):
            assert wanted in text
        for unwanted in ("Classes", "classification", "image_gain", "gain_low", "% of the backbone", "Wilson"):
            assert unwanted not in text

    def test_gains_beside_their_controls(self, patch: Pasted) -> None:
        gains = {
            "patch": BlockGain(5, 2.0, 1.77, 2.27, 0.58, 0.19),
            "red circle": BlockGain(5, 0.72, 0.62, 0.85, 0.33, 0.19),
        }
        add_gains(patch, {"patch": gains["red circle"]}, 10, "Scenes, last block.")
        add_gains(patch, gains, 500, "Scenes, last block.")
        add_gains(patch, gains, 300, "Photos, last block.")
        text = card(patch)
        assert "| red circle | 0.72 | 0.62–0.85 | 19.0 % → 33.0 % | 500 |" in text
        assert "| patch | 2.00 | 1.77–2.27 | 19.0 % → 58.0 % | 300 |" in text
        assert text.count("Scenes, last block.") == text.count("Photos, last block.") == 1
        assert "No control" not in text
        json.dumps(patch.record, allow_nan=False)


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
