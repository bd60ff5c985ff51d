"""One process among several, as launchers say it; `test_loop` and `test_fit` run real ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from visprompt.errors import InvalidInputError
from visprompt.training import distributed

NAMES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


class Two:
    """accelerate's state in the second of two processes."""

    num_processes, is_main_process, device = 2, False, "cpu"
    waited = 0

    def wait_for_everyone(self) -> None:
        Two.waited += 1


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", NAMES)
def test_every_launcher_is_heard(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert distributed.launched() == 1
    monkeypatch.setenv(name, "3")
    assert distributed.launched() == 3


@pytest.mark.parametrize("value", ["1", "0", "", "many", "-2"])
def test_anything_else_is_one_process(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", value)
    assert distributed.launched() == 1
    assert distributed.state() is None


def test_one_process_writes_chooses_and_waits_for_nobody() -> None:
    assert distributed.count() == 1
    assert distributed.is_main()
    assert distributed.device() is None
    distributed.wait()
    distributed.require_same(object(), "runs/a")


def test_the_second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "state", Two)
    assert (distributed.count(), distributed.is_main(), distributed.device()) == (2, False, torch.device("cpu"))
    distributed.wait()
    assert Two.waited == 1


@pytest.mark.parametrize("others", [[4, 4], [4, None]])
def test_all_must_see_the_same_run(others: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "state", Two)
    monkeypatch.setattr("accelerate.utils.gather_object", lambda value: others)
    if others == [4, 4]:
        distributed.require_same(4, "runs/a")
        return
    with pytest.raises(InvalidInputError, match="not every process sees the same run in runs/a"):
        distributed.require_same(4, "runs/a")
