"""A row's strategies are made once; what one run leaves in them reaches no other."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

import visprompt as vp
from visprompt.tasks.base import run_hash
from visprompt.tasks.condition import Condition, Scorer
from visprompt.tasks.prototypes import copy_of, saved_files
from visprompt.tasks.referring import Referring


class Scores:
    def score(self, requests: Any, texts: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The strategies that are constructed, by class."""
    found: list[str] = []
    plain = vp.Prompter.__init__

    def init(self: vp.Prompter, options: Any = None) -> None:
        found.append(type(self).__name__)
        plain(self, options)

    monkeypatch.setattr(vp.Prompter, "__init__", init)
    return found


@pytest.mark.parametrize(
    ("strategy", "region", "classes"),
    [
        ("falip", "own", ["Falip"]),
        ("circle+falip", "own", ["Circle", "Falip", "Composition"]),
        ("circle|crop", "own", ["Circle", "Crop", "Ensemble"]),
        ("blur", "everywhere", ["Blur", "UniformDimming"]),
        ("api", "own", ["Api"]),
        ("none", "own", []),
    ],
)
def test_all_that_a_row_needs_makes_them_once(made: list[str], strategy: str, region: Any, classes: list[str]) -> None:
    condition = Condition(strategy, region=region)
    described = condition.describe()
    run_hash(Referring(), {}, condition, {})
    scorer = Scorer(None, condition, lambda model, member, fit: Scores())
    condition.members()
    assert condition.describe() == described
    assert len(scorer.runners) == (2 if strategy == "circle|crop" else 1)
    assert sorted(made) == sorted(classes)


def test_members_have_a_state_of_their_own() -> None:
    condition = Condition("circle+falip")
    (first,), (second,) = condition.members(), condition.members()
    assert first is not None
    assert second is not None
    first.parts[0].remembered = ["of this run"]  # type: ignore[attr-defined]
    assert not hasattr(second.parts[0], "remembered")  # type: ignore[attr-defined]
    assert not hasattr(condition.members()[0].parts[0], "remembered")  # type: ignore[union-attr]
    assert first.describe() == second.describe()
    assert first.parts[0].options is second.parts[0].options  # type: ignore[attr-defined]


def test_locks_are_made_anew() -> None:
    member = vp.Prompter.from_name("api")
    member._lock.acquire()  # type: ignore[attr-defined]
    copied: Any = copy_of(member)
    assert copied._lock is not member._lock  # type: ignore[attr-defined]
    assert copied._lock.acquire(blocking=False)
    assert isinstance(copied._lock, type(threading.Lock()))


def test_what_cannot_be_copied_is_made_again(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, memo: Any) -> Any:
        raise TypeError("no copies")

    monkeypatch.setattr(vp.Prompter, "__deepcopy__", refuse, raising=False)
    condition = Condition("falip")
    first, second = condition.members()[0], condition.members()[0]
    assert first is not second
    assert made == ["Falip"] * 3


def test_a_strategy_that_was_saved_again_is_read_again(made: list[str], tmp_path: Path) -> None:
    vp.Prompter.from_name("falip", strength=2.0).save_pretrained(tmp_path)
    condition = Condition(str(tmp_path))
    assert condition.members()[0].options.strength == 2.0  # type: ignore[union-attr]
    vp.Prompter.from_name("falip", strength=30.0).save_pretrained(tmp_path)
    assert condition.members()[0].options.strength == 30.0  # type: ignore[union-attr]
    assert {Path(name).name for name, _, _ in saved_files(f"circle+{tmp_path}")} >= {"config.json"}
    assert saved_files("circle+falip") == ()


def test_it_is_sent_to_processes_without_them() -> None:
    condition = Condition("falip", {"strength": 3.0})
    condition.members()
    again = pickle.loads(pickle.dumps(condition))
    assert again == condition
    assert "_made" not in vars(again)
    assert again.describe() == condition.describe()
