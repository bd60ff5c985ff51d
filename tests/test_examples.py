"""The scripts in `examples/` run offline as they stand, are short, and find what they say they show."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs an example in a temporary folder and returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run_example(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capfd.readouterr().out

    return run_example


@pytest.fixture
def photo(tmp_path: Path) -> str:
    """A file of another size than the bundled models' input, with one bright square."""
    image = Image.new("RGB", (120, 90), (40, 60, 50))
    image.paste((250, 60, 30), (20, 20, 60, 60))
    image.save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def is_drawn(path: Path) -> bool:
    """Whether a file is an image with more than one colour."""
    with Image.open(path) as image:
        return any(low < high for low, high in image.convert("RGB").getextrema())


def test_there_are_six_short_scripts() -> None:
    assert len(SCRIPTS) == 6
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for name in SCRIPTS:
        text = (EXAMPLES / name).read_text(encoding="utf-8")
        assert len(text.splitlines()) < 60, f"{name} has 60 lines or more"
        assert f"python examples/{name}" in text, f"{name} does not say how it is run"
        assert f"]({name})" in page, f"examples/README.md does not mention {name}"


def test_point_clip_at_a_region(run: Run, tmp_path: Path) -> None:
    printed = run("point_clip_at_a_region.py")
    (marked,) = re.findall(r"In the box is (.+)\.", printed)
    found = dict(re.findall(r"^(no prompt|\w+) +finds (.+) \(", printed, re.MULTILINE))
    assert found["falip"] == found["crop"] == marked != found["no prompt"]
    before, after = map(int, re.findall(r"(\d+)% with", printed))
    assert after > 2 * before
    assert is_drawn(tmp_path / "runs/examples/point_clip_at_a_region.png")


def test_point_clip_at_a_region_of_a_photograph(run: Run, photo: str, tmp_path: Path) -> None:
    printed = run("point_clip_at_a_region.py", photo, "20,20,60,60", "a red square", "a blue star", "--out", "own.png")
    assert printed.count(" finds a ") == 4
    assert is_drawn(tmp_path / "own.png")


def test_where_an_lvlm_looks(run: Run, tmp_path: Path) -> None:
    printed = run("where_an_lvlm_looks.py")
    (right,) = re.findall(r"The right answer is (\w+)", printed)
    answers = dict(re.findall(r"^(without|with FALIP): .+\? (\w+) \(", printed, re.MULTILINE))
    assert answers["with FALIP"] == right != answers["without"]
    without, prompted = map(int, re.findall(r"\((\d+)%", printed))
    assert prompted > 5 * without
    assert is_drawn(tmp_path / "runs/examples/where_an_lvlm_looks.png")


def test_tune_on_a_folder(run: Run, tmp_path: Path) -> None:
    printed = run("tune_on_a_folder.py")
    (accuracy,) = re.findall(r"accuracy on the test part: ([\d.]+)%", printed)
    assert float(accuracy) > 60, "chance is 25 %"
    assert len(re.findall(r"^test.+: [0-3] \(", printed, re.MULTILINE)) >= 6
    folder = tmp_path / "runs/examples/tune_on_a_folder"
    assert sorted(path.name for path in (folder / "digits/train").iterdir()) == ["0", "1", "2", "3"]
    assert (folder / "run/prompt.safetensors").is_file()


def test_learn_a_patch(run: Run, tmp_path: Path) -> None:
    printed = run("learn_a_patch.py")
    gains = {name: float(gain) for name, gain in re.findall(r"patch (.+): from .+ gain of ([\d.]+)", printed)}
    assert gains["learned just now"] > 1
    assert gains["that ships"] > 1
    assert is_drawn(tmp_path / "runs/examples/learn_a_patch/patch.png")


def test_a_strategy_of_ones_own(run: Run, photo: str, tmp_path: Path) -> None:
    printed = run("a_strategy_of_ones_own.py", photo, "20,20,60,60")
    right = {name: int(count) for name, count in re.findall(r"^(\S+) +names .+ in (\d+) of 100", printed, re.MULTILINE)}
    assert right["fade"] > right["none"] + 10
    assert right["fade+falip"] > right["fade"]
    with Image.open(tmp_path / "runs/examples/a_strategy_of_ones_own.png") as image:
        red, green, blue = image.getpixel((100, 80))
        assert red == green == blue, "far from the region the image is grey"
        assert image.getpixel((40, 40)) == (250, 60, 30), "inside of it nothing changes"


def test_a_benchmark_of_ones_own(run: Run, tmp_path: Path) -> None:
    printed = run("a_benchmark_of_ones_own.py")
    right = {name: float(value) for name, value in re.findall(r"^(\w+) +([\d.]+)% right of 60", printed, re.MULTILINE)}
    assert right["falip"] > right["none"]
    folder = tmp_path / "runs/examples/a_benchmark_of_ones_own/results"
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [100 * row["value"] for row in rows] == pytest.approx(list(right.values()), abs=0.05)
    for name in ("report.html", "report.md"):
        assert name in printed
        assert "benchmark of one" in (folder / name).read_text(encoding="utf-8")
