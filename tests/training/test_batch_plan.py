"""Which images a step sees."""

from __future__ import annotations

import itertools

import pytest

from visprompt.training.batch_plan import Keys, Plan, schedule


def plan(**changes: object) -> Plan:
    values: dict[str, object] = {
        "images": 23, "batch_size": 4, "accumulate": 1, "processes": 1, "epochs": 3, "max_steps": None, "seed": 5,
    }  # fmt: skip
    return Plan(**{**values, **changes})  # type: ignore[arg-type]


def test_every_epoch_sees_every_image_once_in_another_order() -> None:
    one = plan()
    epochs = [
        [i for step in range(one.steps_per_epoch) for i in one.step(epoch * one.steps_per_epoch + step)]
        for epoch in range(3)
    ]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert plan(seed=6).step(0) != one.step(0)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "processes"), [(8, 1, 1), (4, 2, 1), (4, 1, 2), (2, 2, 2), (2, 1, 4)]
)
def test_a_step_is_the_same_however_it_is_spread(batch_size: int, accumulate: int, processes: int) -> None:
    whole = plan(batch_size=8)
    spread = plan(batch_size=batch_size, accumulate=accumulate, processes=processes)
    assert spread.steps == whole.steps
    for number in range(whole.steps):
        parts = [spread.batches(number, process) for process in range(processes)]
        seen = [index for own in parts for batch in own for index in batch]
        assert sorted(seen) == sorted(whole.step(number))
        assert all(len(batch) <= batch_size for own in parts for batch in own)


def test_keys_start_anywhere() -> None:
    one = plan()
    whole = list(Keys(one, 0, 0))
    assert len(whole) == len(Keys(one, 0, 0)) == one.steps == 18
    assert list(Keys(one, 0, 7)) == whole[7:]
    assert {epoch for batch in whole for _, epoch in batch} == {0, 1, 2}


def test_max_steps_ends_early() -> None:
    assert plan(max_steps=4).steps == 4
    assert plan(max_steps=400).steps == 18


def test_draws_differ_by_image_and_epoch() -> None:
    one = plan()
    assert len({one.draw(epoch, index) for epoch in range(20) for index in range(50)}) == 1000
    assert one.draw(3, 4) == plan(batch_size=1, processes=3).draw(3, 4)


def test_schedule_rises_and_falls() -> None:
    rates = [schedule(step, 100, 10) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))
    assert 0 < rates[-1] < 0.001
    assert schedule(0, 100, 0) == schedule(0, 100, 0.5) == 1.0


@pytest.mark.parametrize("warmup", [1.5, 2.5, 3.01])
def test_a_warm_up_that_ends_within_a_step_does_not_go_beyond_the_peak(warmup: float) -> None:
    rates = [schedule(step, 20, warmup) for step in range(20)]
    assert max(rates) == 1.0
    assert rates.index(1.0) == int(warmup)
