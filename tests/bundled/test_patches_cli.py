"""The learned patches that ship, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import visprompt as vp
from visprompt import bundled
from visprompt.cli import app as cli
from visprompt.data.scenes.world import scene
from visprompt.persistence.prompt_files import CONFIG


def run(*words: str) -> str:
    found = CliRunner().invoke(cli.app, list(words), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "scene.png"
    scene(3, size_wh=(64, 64)).pil.save(path)
    return str(path)


def test_the_list_of_models_names_them() -> None:
    rows = json.loads(run("list", "models", "--json"))
    assert {row["name"]: row["patch"] for row in rows} == {
        f"bundled:{name}": f"bundled:patch-{name}" for name in bundled.names()
    }
    assert "-p bundled:patch-…" in " ".join(run("list", "models").split())


@pytest.mark.parametrize("words", [[], ["-o", "place=rim", "-o", "opacity=0.5"]])
@pytest.mark.parametrize("model", ["scenes-clip", "scenes-mae"])
def test_showing_one_needs_no_model_but_the_one_it_is_shown_on(
    model: str, words: list[str], image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learned on a model that is not there: a folder that was moved away."""
    vp.Prompter.from_pretrained("bundled:patch-scenes-clip").save_pretrained(tmp_path / "saved")
    config = tmp_path / "saved" / CONFIG
    config.write_text(config.read_text(encoding="utf-8").replace("bundled:scenes-clip", "gone/away"), encoding="utf-8")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    base = ["show", image, "--region", "10,10,40,40", "-m", f"bundled:{model}", *words]
    seen = []
    for number, name in enumerate((str(tmp_path / "saved"), "bundled:patch-scenes-clip")):
        out = tmp_path / f"{number}.png"
        run(*base, "-p", name, "--out", str(out))
        seen.append(np.asarray(Image.open(out).convert("RGB")))
    assert seen[0].shape[0] > 100
    np.testing.assert_array_equal(*(one[40:] for one in seen))  # below the titles, which have the names


def test_scores_with_one_that_ships_and_with_the_models_own(image: str, tmp_path: Path) -> None:
    base = ["score", image, "a red star", "a blue ring", "--region", "10,10,40,40", "--json"]

    def scores(name: str, *words: str) -> list[float]:
        return list(json.loads(run(*base, "-p", name, *words))[0]["scores"].values())

    assert scores("patch") == scores("bundled:patch-scenes-clip")
    assert scores("patch+falip", "-o", "strength=2") == scores("bundled:patch-scenes-clip+falip", "-o", "strength=2")
    assert scores("patch", "-o", "place=rim") == scores("bundled:patch-scenes-clip", "-o", "place=rim")
    assert scores("patch") != scores("bundled:patch-scenes-mae")
    found = CliRunner().invoke(cli.app, [*base, "-p", "bundled:patch-clip"])
    assert isinstance(found.exception, vp.UnknownNameError)
    assert "bundled:patch-scenes-clip" in str(found.exception)
    found = CliRunner().invoke(cli.app, [*base, "-p", "bundled:patch-scenes-clip", "-o", "size=2"])
    assert isinstance(found.exception, vp.InvalidInputError)


def test_a_language_model_is_asked_with_it(image: str) -> None:
    base = ["ask", image, "what colour is it?", "--region", "10,10,40,40", "-m", "bundled:scenes-llava", "--json"]
    answers = [json.loads(run(*base, "-p", name)) for name in ("patch", "bundled:patch-scenes-llava")]
    assert answers[0] == answers[1]
