"""What every kind of suite defines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from visprompt.bench import ProgressCallback, list_suites, load_suite
from visprompt.bench.kind import RunContext, Settings, slug
from visprompt.bench.rows import result_row
from visprompt.bench.store import Store
from visprompt.bench.suite import KINDS, kind_of
from visprompt.errors import InvalidInputError, UnknownNameError

SMALL = {"accuracy": "scenes-quick", "tuning": "tuning", "gain": "gain"}


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]


def test_every_suite_that_ships_is_of_a_kind() -> None:
    assert {kind_of(load_suite(name)).name for name in list_suites()} == set(KINDS)
    with pytest.raises(TypeError, match="no parsed suite"):
        kind_of("scenes")


def test_rows_are_chosen_by_label(kind: Any) -> None:
    suite = load_suite(SMALL[kind.name])
    assert kind.chosen(suite, None) == suite
    with pytest.raises(UnknownNameError):
        kind.chosen(suite, ["no such row"])
    assert kind.models(suite, None) == list(suite.models)
    assert kind.models(suite, ["other"]) == ["other"]
    assert kind.parallel(suite) >= 1


def test_only_tuning_has_one_model(kind: Any) -> None:
    suite = load_suite(SMALL[kind.name])
    if kind.name == "tuning":
        with pytest.raises(InvalidInputError, match="one model"):
            kind.models(suite, ["a", "b"])
    else:
        assert kind.models(suite, ["a", "b"]) == ["a", "b"]


def test_rows_have_their_place_in_the_table(kind: Any, tmp_path: Path) -> None:
    suite = load_suite(SMALL[kind.name])
    settings = Settings(kind.name, suite, suite, tuple(suite.models), tmp_path)
    context = RunContext(settings, Store(tmp_path), ProgressCallback())
    labels = {
        "accuracy": lambda: [row.condition.label for row in suite.rows],
        "tuning": lambda: [method.label for method in suite.methods],
        "gain": lambda: [marker.label for marker in suite.markers],
    }[kind.name]()
    more = {name: {} for name in ("pointing", "model_identity", "data", "boxes", "settings", "provenance")}
    rows = [
        result_row(kind.name, suite, None, task=suite.tasks[0].key, row=label, model=suite.models[0],
                   metric="m", value=0.5, n=1, control=False, **more)
        for label in labels
    ]  # fmt: skip
    places = [kind.place(context, row) for row in rows]
    assert None not in places
    assert places == sorted(places)
    for change in ({"row": "no such row"}, {"task": "no such task"}, {"suite": "another"}):
        assert kind.place(context, {**rows[0], **change}) is None


def test_names_of_models_in_names_of_files() -> None:
    assert slug("bundled:scenes-clip") == "bundled-scenes-clip"
    assert slug("/a/b c/") == "a-b-c"


def test_a_suite_is_read_without_torch() -> None:
    code = "import sys, visprompt.bench.suite as suite; suite.load_suite('gain'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
