"""Checkpoints: the newest whole one counts, whatever a kill leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from visprompt.errors import InvalidInputError
from visprompt.training import run_checkpoints as checkpoints
from visprompt.training.run_checkpoints import Checkpoint, Progress


def made(step: int, **progress: Any) -> Checkpoint:
    shared = torch.arange(6.0)
    return Checkpoint(
        Progress(step=step, **progress),
        {"prompt.tokens": shared.view(2, 3) + step, "head.weight": shared},  # memory in common, as modules may have
        {"prompt.tokens": torch.ones(2, 3)},
        {"state": {0: {"momentum_buffer": torch.full((2, 3), 0.5), "step": torch.tensor(3.0)}, 1: {"count": 7}}},
    )


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    one = made(4, best={"accuracy": 0.5}, best_epoch=2, lines=3, loss=0.1)
    checkpoints.save(tmp_path, one)
    found = checkpoints.load(tmp_path)
    assert found is not None
    assert found.progress == one.progress
    assert found.weights.keys() == one.weights.keys()
    assert all(torch.equal(found.weights[name], item) for name, item in one.weights.items())
    assert torch.equal(found.best["prompt.tokens"], torch.ones(2, 3))
    state = found.optimizer["state"]
    assert torch.equal(state[0]["momentum_buffer"], torch.full((2, 3), 0.5))
    assert state[0]["step"] == 3
    assert state[1] == {"count": 7}


def test_only_the_newest_stays(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        checkpoints.save(tmp_path, made(step))
    checkpoints.save(tmp_path, made(10, lines=1))  # the same step again
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]
    assert checkpoints.load(tmp_path).progress.lines == 1  # type: ignore[union-attr]
    checkpoints.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert checkpoints.load(tmp_path) is None
    assert checkpoints.load(tmp_path / "nowhere") is None


def test_a_kill_while_writing_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, made(3))
    part = tmp_path / ".checkpoint-123"
    part.mkdir()
    (part / "state.json").write_text("{")
    assert checkpoints.load(tmp_path).progress.step == 3  # type: ignore[union-attr]
    checkpoints.save(tmp_path, made(4))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_a_kill_between_two_renames_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, made(3))
    (tmp_path / "checkpoint-3").rename(tmp_path / ".old-123")
    assert checkpoints.load(tmp_path).progress.step == 3  # type: ignore[union-attr]


def test_a_damaged_one_is_passed_over_or_named(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, made(3))
    (tmp_path / "checkpoint-3").rename(tmp_path / "kept")
    checkpoints.save(tmp_path, made(4))
    (tmp_path / "checkpoint-4" / "state.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InvalidInputError, match=r"cannot be read.*--restart"):
        checkpoints.load(tmp_path)
    (tmp_path / "kept").rename(tmp_path / "checkpoint-3")
    assert checkpoints.load(tmp_path).progress.step == 3  # type: ignore[union-attr]


def test_folders_of_others_stay(tmp_path: Path) -> None:
    theirs = tmp_path / "checkpoint-500"
    theirs.mkdir()
    (theirs / "trainer_state.json").write_text("{}")
    assert checkpoints.foreign(tmp_path) == theirs
    assert checkpoints.load(tmp_path) is None
    checkpoints.save(tmp_path, made(3))
    assert checkpoints.load(tmp_path).progress.step == 3  # type: ignore[union-attr]
    checkpoints.remove(tmp_path)
    assert list(tmp_path.iterdir()) == [theirs]
    assert checkpoints.foreign(tmp_path / "nowhere") is None
