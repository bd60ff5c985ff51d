"""Every strategy on every LVLM, enumerated from the registries."""

from __future__ import annotations

import itertools

import pytest

import visprompt as vp
from visprompt.testing import conformance_lvlm as conformance
from visprompt.testing.conformance import neutral_options
from visprompt.testing.tiny_lvlm import tiny_lvlm_names

STRATEGIES = [info.name for info in vp.list_strategies()]
PAIRS = list(itertools.product(STRATEGIES, tiny_lvlm_names()))
SUPPORTED = [pair for pair in PAIRS if conformance.expected_support(*pair)]


def test_something_is_enumerated() -> None:
    assert len(tiny_lvlm_names()) >= 10
    assert len(SUPPORTED) > len(PAIRS) / 2


@pytest.mark.parametrize(("strategy", "model"), PAIRS)
def test_runs_or_names_what_does(strategy: str, model: str) -> None:
    outcome = conformance.check_support(strategy, model)
    assert outcome == ("supported" if (strategy, model) in SUPPORTED else "refused")


@pytest.mark.parametrize(("strategy", "model"), SUPPORTED)
def test_has_an_effect(strategy: str, model: str) -> None:
    conformance.check_effect(strategy, model)


@pytest.mark.parametrize(("strategy", "model"), [pair for pair in SUPPORTED if neutral_options(pair[0]) is not None])
def test_neutral_is_the_plain_model_bit_for_bit(strategy: str, model: str) -> None:
    conformance.check_neutral(strategy, model)


@pytest.mark.parametrize(("strategy", "model"), SUPPORTED)
def test_leaves_no_trace(strategy: str, model: str) -> None:
    conformance.check_leaves_no_trace(strategy, model)
