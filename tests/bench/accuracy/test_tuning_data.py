"""A suite must not choose options on the images that its figures are measured on."""

from typing import Any

import pytest

from visprompt.bench.suite import parse_suite
from visprompt.errors import InvalidInputError, UnknownNameError

SCENES = {"source": "scenes", "kind": "hard", "split": "test", "n": 12}
RECLIP = {"source": "reclip", "file": "a_testa.jsonl"}
REFER = {"source": "refer", "refs": "refs(unc).p", "instances": "instances.json", "split": "testA"}


def suite(tune: dict[str, Any], **tasks: dict[str, Any]) -> Any:
    content = {
        "tasks": {key: {"task": "referring", "data": data} for key, data in tasks.items()},
        "strategies": ["falip"],
        "tune": [{"strategy": "falip", "grid": {"strength": [1.0]}, **tune}],
    }
    return parse_suite(content, "leaks")


@pytest.mark.parametrize(
    ("task", "data"),
    [
        (SCENES, {"seed": 1}),
        (SCENES, {"n": 50}),
        (SCENES, {"split": "test", "seed": 1}),
        (SCENES, {"kind": "position"}),
        ({"source": "scenes"}, {"kind": "hard"}),
        (REFER, {"split": "testB"}),
        (REFER, {"split": "testA"}),
        (REFER, {"split": "TEST"}),
        ({**REFER, "split": "val"}, {"detections": "dets.json"}),
        (RECLIP, {"file": "./a_testa.jsonl"}),
        (RECLIP, {"detections": "dets.json"}),
        (RECLIP, {}),
    ],
)
def test_tuning_on_what_is_evaluated_is_refused(task: dict[str, Any], data: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="split of its own"):
        suite({"data": data}, a=task)


def test_the_data_of_another_task_are_refused_too() -> None:
    other = {**SCENES, "split": "validation", "seed": 7}
    with pytest.raises(InvalidInputError, match=r"task a would choose .* that task b is evaluated on"):
        suite({"data": {"split": "validation", "n": 9}, "tasks": ["a"]}, a=SCENES, b=other)


@pytest.mark.parametrize(
    ("task", "data"),
    [
        (SCENES, {"split": "validation", "n": 5}),
        (RECLIP, {"file": "a_val.jsonl"}),
        (REFER, {"split": "val"}),
        ({"source": "scenes", "split": "validation"}, {"split": "train"}),
    ],
)
def test_data_of_its_own_are_taken(task: dict[str, Any], data: dict[str, Any]) -> None:
    assert suite({"data": data}, a=task).tune[0].data == data


def test_a_key_that_the_source_does_not_have_is_named() -> None:
    with pytest.raises(UnknownNameError, match="'split'"):
        suite({"data": {"split": "val"}}, a=RECLIP)
