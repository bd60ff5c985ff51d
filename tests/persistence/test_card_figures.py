"""Figures on cards: the chosen one first, with the interval that belongs to it."""

from __future__ import annotations

import math

import pytest

from visprompt.persistence.card_figures import Metric, figures_of, of_split
from visprompt.utils.statistics import wilson


def test_the_chosen_figure_comes_first_and_loss_last() -> None:
    record = {
        "metric": "top5",
        "validation": {"loss": 0.1, "accuracy": 0.5, "top5": 0.75, "n": 8},
        "test": {"top5": 1.0},
        "data": {"test": {"n": 4}},
    }
    found = figures_of(record)
    assert [(one.split, one.metric, one.n, one.chosen) for one in found] == [
        ("validation", "top5", 8, True),
        ("validation", "accuracy", 8, False),
        ("validation", "loss", 8, False),
        ("test", "top5", 4, True),
    ]
    assert found[0].interval == wilson(6, 8)
    assert found[2].interval is None


def test_measured_ends_belong_to_their_figure() -> None:
    (gain,) = of_split({"gain": 2.0, "gain_low": 1.5, "gain_high": 2.5, "image_gain": 9.0}, "test", "gain", {})
    assert gain == Metric("test", "gain", 2.0, None, (1.5, 2.5), True)
    assert (gain.text(), gain.interval_text()) == ("2.00", "1.50–2.50")


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.5", True])
def test_what_is_no_number_is_left_out(value: object) -> None:
    assert list(of_split({"accuracy": value}, "test", "accuracy", {})) == []


def test_no_figures_at_all() -> None:
    assert figures_of({}) == []
    assert figures_of({"test": None, "validation": "lost"}) == []


def test_an_interval_with_a_minus_has_a_word_between_its_ends() -> None:
    assert Metric("test", "gain", 0.1, interval=(-0.5, 0.7)).interval_text() == "-0.50 to 0.70"
    assert Metric("test", "accuracy", 0.5).interval_text() == "–"
    assert Metric("test", "accuracy", 0.5, interval=(0.25, 0.75)).interval_text() == "25.0–75.0 %"
