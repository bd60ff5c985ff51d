"""Module paths of 0.4.0 lead to where the modules are now, and say so."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from visprompt.utils.moved_modules import MOVED


@pytest.mark.parametrize("new", sorted(set(MOVED.values())))
def test_every_path_of_the_table_is_there(new: str) -> None:
    importlib.import_module(f"visprompt.{new}")


@pytest.mark.parametrize(
    ("old", "name"),
    [
        ("visprompt.data.reclip", "read_reclip"),
        ("visprompt.data.scenes_answers", "answer_splits"),
        ("visprompt.data.downstream", "downstream"),
        ("visprompt.data.mm_vet", "read_mm_vet"),
        ("visprompt.data.unlabelled", "generated"),
        ("visprompt.data.scenes_vqa", "scene_questions"),
        ("visprompt.models.chat_inputs", "prepare"),
        ("visprompt.models.lvlm_answers", "tell"),
        ("visprompt.training.objective", "Objective"),
        ("visprompt.training.attention_target", "AttentionTarget"),
        ("visprompt.training.checkpointing", "checkpointed"),
        ("visprompt.training.baselines", "fine_tuned"),
        ("visprompt.bench_tuning", "run_tuning"),
        ("visprompt.bench_gain", "run_gain"),
        ("visprompt.testing.blotches", "blotches"),
    ],
)
def test_a_path_of_0_4_0_gives_the_same_module_with_a_warning(old: str, name: str) -> None:
    for module in [one for one in sys.modules if one == old]:
        del sys.modules[module]
    with pytest.warns(DeprecationWarning, match=rf"{old} has moved to visprompt\.[\w.]+; the old path works until"):
        module = importlib.import_module(old)
    new = f"visprompt.{MOVED[old.removeprefix('visprompt.')]}"
    assert getattr(module, name) is getattr(importlib.import_module(new), name)
    assert module.__name__ == new
    assert sys.modules[old] is sys.modules[new]


@pytest.mark.parametrize(
    "statement",
    [
        "from visprompt.geometry import Geometry, Tile",
        "from visprompt.regions import Box, Mask, Point, Region",
        "from visprompt.runner import Runner",
        "from visprompt.bench import list_suites, load_suite, run_suite",
        "from visprompt.learned import Learned",
        "from visprompt.data import scenes; scenes.scene",
        "from visprompt.data.scenes import scene",
        "from visprompt.data.labelled import Labelled, load_splits",
        "from visprompt.data.questions import letter_of",
        "from visprompt.data.referring import ReferringImage",
        "from visprompt.models.lvlm import LVLM",
        "from visprompt.models.remote import RemoteModel",
        "from visprompt.training.objectives import objective_for",
        "from visprompt.tasks import attention_gain; attention_gain.__call__",
    ],
)
def test_a_documented_path_gives_no_warning(statement: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", statement], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_an_unknown_path_stays_unknown() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        importlib.import_module("visprompt.no_such_module")
