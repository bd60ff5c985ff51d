"""The patches' recipe: learned through the public API, resumable, measured beside controls, written as a whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import visprompt as vp
from visprompt import bundled

pytest.importorskip("zoo", reason="the recipe is not part of an installed package")

from zoo import __main__ as command
from zoo import patches
from zoo.patches import PATCH_RECIPES, learn_patch, make_patch

PARTS = {"train": 8, "validation": 4, "test": 4}
TINY = replace(
    PATCH_RECIPES["patch-scenes-clip"],
    settings={"epochs": 2, "batch_size": 4, "progress": False},
    parts=PARTS,
    test_images=8,
)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_bundled_model_has_a_recipe_and_none_is_reported_on_what_it_was_chosen_on() -> None:
    assert {recipe.model for recipe in PATCH_RECIPES.values()} == set(bundled.names())
    for recipe in PATCH_RECIPES.values():
        assert recipe.test_seed != recipe.data_seed
        assert recipe.test_images >= 500


def test_a_patch_is_learned_measured_and_written(tmp_path: Path) -> None:
    folder = tmp_path / "into" / "scenes-clip"
    folder.mkdir(parents=True)
    (folder / "stale.txt").write_text("of before")
    make_patch(TINY, tmp_path / "work", folder)
    assert sorted(item.name for item in folder.iterdir()) == [
        "README.md",
        "config.json",
        "patch.png",
        "prompt.safetensors",
    ]
    assert sorted(item.name for item in folder.parent.iterdir()) == ["scenes-clip"]
    log = lines(tmp_path / "work" / "patch-scenes-clip.jsonl")
    measured = {(line["marker"], line["block"]) for line in log if "marker" in line}
    assert measured == {(name, block) for name in ("patch", "red circle", "random patch") for block in range(6)}
    card = (folder / "README.md").read_text(encoding="utf-8")
    of_patch = next(line for line in log if line.get("marker") == "patch" and line["block"] == 5)
    assert f"| patch | {of_patch['gain']:.2f} |" in card
    assert "nothing was chosen on" in card
    assert "red circle" in card
    loaded = vp.Prompter.from_pretrained(folder)
    assert loaded.image().size == (24, 24)  # type: ignore[attr-defined]


def test_the_same_command_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = learn_patch(TINY, tmp_path / "whole")
    run = tmp_path / "cut"
    from visprompt.training import loop as fitting

    step, done = fitting._Run._step, []

    def dies(self: object, *arguments: object) -> float:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fitting._Run, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        learn_patch(TINY, run)
    monkeypatch.setattr(fitting._Run, "_step", step)
    resumed = learn_patch(TINY, run)
    assert (resumed.array() == whole.array()).all()
    assert [line["epoch"] for line in lines(run / TINY.name / "metrics.jsonl")] == [1, 2]
    assert len([line for line in lines(run / f"{TINY.name}.jsonl") if line.get("event") == "learned"]) == 1


def test_patches_stands_for_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Path] = {}
    monkeypatch.setattr(command, "make_patch", lambda recipe, work, folder: made.update({recipe.name: folder}))
    command.main(["patches", "--work", str(tmp_path), "--into", str(tmp_path / "into")])
    assert made == {recipe.name: tmp_path / "into" / "patches" / recipe.model for recipe in PATCH_RECIPES.values()}
    with pytest.raises(SystemExit):
        command.main(["patch-scenes-clip", "--work", str(tmp_path), "--export-only"])


def test_without_into_they_go_where_the_package_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.setattr(command, "make_patch", lambda recipe, work, folder: made.append(folder))
    command.main(["patches", "--work", str(tmp_path)])
    assert made == [bundled.path(recipe.model).parent / "patches" / recipe.model for recipe in PATCH_RECIPES.values()]
    assert patches.PREFIX + "scenes-clip" in PATCH_RECIPES
