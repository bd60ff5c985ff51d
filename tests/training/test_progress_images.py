"""The patch as it develops: which images are kept, what is drawn of them; a run that goes on has the same."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import visprompt as vp
from visprompt.data.labelled.dataset import Splits
from visprompt.data.labelled.unlabelled import unlabelled
from visprompt.testing import conformance
from visprompt.training import loop as fitting
from visprompt.training import run_checkpoints as checkpoints
from visprompt.training.progress_images import FOLDER, MOST, STRIP, ProgressImages, enlarged, sketch_of, strip

QUICK: dict[str, Any] = {"epochs": 3, "batch_size": 4, "warmup_epochs": 0, "checkpoint_every": 2, "progress": False}


def plain(level: int, side: int = 12) -> Image.Image:
    return Image.new("RGBA", (side, side), (level, 0, 0, 255))


def kept(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in (folder / FOLDER).iterdir())


def test_a_few_steps_are_kept_evenly(tmp_path: Path) -> None:
    progress_images = ProgressImages(tmp_path, every=10)
    for step in range(0, 1001, 10):
        progress_images.keep(plain(step % 256), step)
        assert len(kept(tmp_path)) <= MOST
    assert kept(tmp_path) == [*range(0, 1000, 80), 1000]


def test_of_a_killed_run_later_steps_go(tmp_path: Path) -> None:
    progress_images = ProgressImages(tmp_path, every=5)
    for step in (0, 5, 10, 15):
        progress_images.keep(plain(step), step)
    whole = (tmp_path / STRIP).read_bytes()
    ProgressImages(tmp_path, every=5).keep(plain(5), 5)
    assert kept(tmp_path) == [0, 5]
    for step in (10, 15):
        progress_images.keep(plain(step), step)
    assert (tmp_path / STRIP).read_bytes() == whole


def test_every_pixel_becomes_a_square_and_holes_a_chequerboard() -> None:
    image = plain(200, side=24)
    image.putpixel((0, 0), (0, 0, 0, 0))
    found = np.asarray(enlarged(image, 120))
    assert found.shape == (120, 120, 3)
    assert (found[5:, 5:] == (200, 0, 0)).all()
    assert set(np.unique(found[:5, :5])) <= {225, 255}
    assert enlarged(Image.new("RGBA", (512, 512))).size == (512, 512)  # never smaller


def test_a_strip_has_room_for_all(tmp_path: Path) -> None:
    one, many = strip([(plain(9), "step 0")]), strip([(plain(9), "a")] * MOST)
    assert one.width < many.width
    assert many.height > 1.8 * one.height
    found = np.asarray(strip([(plain(50), "a"), (plain(250), "b")]))
    assert {50, 250} <= set(np.unique(found[:, :, 0]))


def test_strategies_without_a_image_are_left_alone() -> None:
    assert sketch_of(vp.Prompter.from_name("vpt")) is None


@pytest.fixture(scope="module")
def model() -> vp.Model:
    return conformance.wrapped("timm-vit")[1]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def data() -> Splits:
    images = [conformance.image((64, 64), number) for number in range(12)]
    return Splits(unlabelled(images[:8]), unlabelled(images[8:]), None, "made up")


class TestRun:
    def test_a_image_while_it_learns(
        self, model: vp.Model, data: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[list[int]] = []
        save = checkpoints.save
        monkeypatch.setattr(checkpoints, "save", lambda *args: (seen.append(kept(tmp_path)), save(*args)))
        prompter: Any = vp.Prompter.from_name("patch")
        prompter.fit(model, data, out=tmp_path, **QUICK)
        assert seen == [[0], [0, 2], [0, 2, 4]]
        assert {path.name for path in tmp_path.iterdir()} == {
            "README.md", "config.json", "metrics.jsonl", "patch-progress.png", "patch.png", "prompt.safetensors",
            "run.json",
        }  # fmt: skip
        assert (Image.open(tmp_path / "patch.png").tobytes()) == prompter.image().tobytes()

    def test_a_killed_run_gives_the_same_files(
        self, model: vp.Model, data: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vp.Prompter.from_name("patch").fit(model, data, out=tmp_path / "whole", **QUICK)  # type: ignore[attr-defined]
        save = checkpoints.save

        def die(folder: Path, found: Any) -> None:
            save(folder, found)
            if found.progress.step == 4:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(fitting.checkpoints, "save", die)
            with pytest.raises(KeyboardInterrupt):
                vp.Prompter.from_name("patch").fit(model, data, out=tmp_path / "killed", **QUICK)  # type: ignore[attr-defined]
        assert not (tmp_path / "killed" / "config.json").exists()
        vp.Prompter.from_name("patch").fit(model, data, out=tmp_path / "killed", **QUICK)  # type: ignore[attr-defined]
        for path in (tmp_path / "whole").iterdir():
            other = (tmp_path / "killed" / path.name).read_bytes()
            if path.name != "metrics.jsonl":  # it tells how long a step took
                assert other == path.read_bytes() or path.name == "run.json", path.name

    def test_a_sweep_shows_the_best_one(self, model: vp.Model, data: Splits, tmp_path: Path) -> None:
        prompter: Any = vp.Prompter.from_name("patch")
        fitted = prompter.fit(model, data, out=tmp_path, sweep={"shape": ["full", "circle"]}, **QUICK)
        best = fitted.sweep[0]["shape"]
        strips = {path.parent.name: path.read_bytes() for path in (tmp_path / "sweep").glob(f"*/{STRIP}")}
        assert (tmp_path / STRIP).read_bytes() == strips[f"shape={best}"]
        assert len(set(strips.values())) == 2


def test_what_is_no_number_is_null_in_run_json(
    model: vp.Model, data: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from visprompt.training.objectives.patch_attention import AttentionTarget

    figures = AttentionTarget.figures
    monkeypatch.setattr(
        AttentionTarget, "figures", lambda self, sums: {**figures(self, sums), "image_gain": float("nan")}
    )

    def strict(_: str) -> None:
        raise AssertionError("no number")

    first = vp.Prompter.from_name("patch").fit(model, data, out=tmp_path, **QUICK)  # type: ignore[attr-defined]
    for name in ("run.json", "config.json"):
        content = (tmp_path / name).read_text("utf-8")
        assert "null" in json.dumps(json.loads(content, parse_constant=strict))
    again = vp.Prompter.from_name("patch").fit(model, data, out=tmp_path, **QUICK)  # type: ignore[attr-defined]
    assert math.isnan(again.validation.pop("image_gain"))
    assert {**first.validation, "image_gain": 0.0} == {**again.validation, "image_gain": 0.0}
    assert "nan" not in (tmp_path / "README.md").read_text("utf-8")
