"""Suites: what they may say, and what is said about mistakes before anything is computed."""

from pathlib import Path
from typing import Any

import pytest

from visprompt.bench.suite import list_suites, load_published, load_suite, parse_suite
from visprompt.errors import InvalidInputError, UnknownNameError

SCENES = {"source": "scenes", "kind": "hard", "split": "test", "n": 12}
CONTENT: dict[str, Any] = {
    "title": "A suite",
    "models": ["fake"],
    "tasks": {"boxes": {"task": "referring", "template": "{}", "data": SCENES}},
    "strategies": ["none", "falip"],
    "controls": ["random"],
    "tune": [{"strategy": "falip", "grid": {"strength": [0.5, 2.0, 1.0]}, "data": {"split": "validation", "n": 6}}],
}


def task(**changes: Any) -> dict[str, Any]:
    """The suite with one task, `a`, that has these changes."""
    return {"tasks": {"a": {"task": "referring", "data": SCENES, **changes}}}


def tuned(grid: dict[str, Any], data: dict[str, Any] | None = None) -> dict[str, Any]:
    """The suite with this grid for falip."""
    return {"tune": [{"strategy": "falip", "grid": grid, "data": data or {"split": "validation", "n": 6}}]}


class TestSuites:
    def test_every_suite_that_ships_is_readable(self) -> None:
        assert {"scenes", "scenes-quick", "refcoco"} <= set(list_suites())
        for name in list_suites():
            suite = load_suite(name)
            assert suite.title
            assert load_suite(f"benchmarks/{name}.yaml") == suite

    @pytest.mark.parametrize("name", ["scenes", "scenes-vqa"])
    def test_what_make_bench_runs_is_large_enough(self, name: str) -> None:
        for task in load_suite(name).tasks:
            least = 500 if task.key == "naming-points" else 1000
            assert (task.data["split"], task.data["n"] >= least) == ("test", True)

    def test_published_figures_say_where_they_are_from(self) -> None:
        for figure in load_published():
            assert {"paper", "method", "model", "protocol", "certainty", "values"} <= figure.keys()
            # LLaVA-Wild is relative to another model and may pass 100
            assert all(0 < value < (110 if key == "llava-wild" else 100) for key, value in figure["values"].items())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"fit": "squeeze"}, "did you mean 'squash'|Known: model, pad, squash"),
            ({"taks": {}}, "did you mean 'tasks'"),
            ({"tasks": {}}, "no tasks"),
            ({"strategies": [], "controls": [], "tune": []}, "no strategies"),
            ({"tasks": {"a": {"task": "refering", "data": SCENES}}}, "did you mean 'referring'"),
            ({"tasks": {"a": {"task": "referring", "data": {**SCENES, "sed": 1}}}}, "did you mean 'seed'"),
            ({"tasks": {"a": {"task": "referring", "temlpate": "{}", "data": SCENES}}}, "did you mean 'template'"),
            ({"strategies": [{"strategy": "falip", "opitons": {}}]}, "did you mean 'options'"),
            ({"strategies": ["falip", "falip"]}, "two rows called falip"),
            ({"strategies": [{"strategy": "falip", "tasks": ["box"]}]}, "did you mean 'boxes'"),
            ({"strategies": "falip"}, "expected a list"),
            (
                {"tune": [{"strategy": "falip", "grid": {"strength": [1]}, "data": {"split": "test"}}]},
                "split of its own",
            ),
            ({"tune": [{"strategy": "flip", "grid": {"strength": [1]}}]}, "did you mean 'falip'"),
            ({"strategies": [{"strategy": "falip", "tuned_as": "x"}], "tune": []}, "tuned row"),
            ({"strategies": ["none", "flip"], "tune": []}, "row 'flip'.*did you mean 'falip'"),
            ({"strategies": [{"strategy": "falip", "options": {"strenght": 1}}]}, "did you mean 'strength'"),
            ({"strategies": [{"strategy": "falip", "options": {"strength": "much"}}]}, "row 'falip'.*'much'"),
            ({"strategies": [{"strategy": "falip", "preset": "papper"}], "tune": []}, "did you mean 'paper'"),
            ({"strategies": [{"strategy": ["falip"]}], "tune": []}, "a row needs strategy"),
            ({"strategies": [{"strategy": "falip", "seed": "one"}], "tune": []}, "seed in row of 'falip'.*'one'"),
            ({"strategies": [{"strategy": "falip", "options": [1]}], "tune": []}, "options of row of 'falip'"),
            (tuned({"strenght": [1]}), "tune of 'falip', strenght 1.*did you mean 'strength'"),
            (tuned({"strength": [1, "lots"]}), "tune of 'falip', strength lots.*'lots'"),
            (tuned({"strength": [1]}, {"split": "validation", "n": "all"}), "data of tune of 'falip'.*'all'"),
            ({"compare_with": "nnoe"}, "compare_with.*did you mean 'none'"),
            ({"compare_with": ["none", "circle"]}, "compare_with.*'circle'"),
            ({"compare_with": [1]}, "list of texts"),
            ({"examples": "few"}, "examples is a whole number.*'few'"),
            ({"examples": -1}, "at least 0"),
            ({"title": ["a"]}, "title is a text"),
            ({"models": [1]}, "models: expected a list of texts"),
            (task(template=3), "task a: template is a text; got 3"),
            (task(template="no braces"), "task a: template needs {}"),
            (task(weight="heavy"), "weight is a number"),
            (task(task="naming", labels="sceenes"), "labels is a list of names"),
            (task(task="naming", labels=[1]), "labels of task a"),
            (task(task=["referring"]), "unknown task of 'task a'"),
            (task(data={**SCENES, "n": "many"}), "n in data of task a is a whole number, at least 1; got 'many'"),
            (task(data={**SCENES, "n": 0}), "at least 1"),
            (task(data={**SCENES, "size_wh": 64}), "size_wh is"),
            (task(data={**SCENES, "split": 1}), "split is a text"),
            (task(data={"source": ["scenes"]}), "unknown source in data of task a"),
            (task(data=None), "unknown source in data of task a"),
            ({"tasks": {"x/../../evil": {"task": "referring", "data": SCENES}}}, "letters, digits"),
            ({"tasks": {"": {"task": "referring", "data": SCENES}}}, "letters, digits"),
            ({"tasks": {"a": "referring"}}, "task a: expected keys"),
        ],
    )
    def test_mistakes_are_named(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises((UnknownNameError, InvalidInputError), match=message):
            parse_suite({**CONTENT, **change}, "test")

    def test_unknown_and_unreadable_suites(self, tmp_path: Path) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'scenes'"):
            load_suite("scene")
        (tmp_path / "bad.yaml").write_text("a: [1")
        with pytest.raises(InvalidInputError, match="not readable YAML"):
            load_suite(tmp_path / "bad.yaml")
        (tmp_path / "latin.yaml").write_bytes("title: Übersicht".encode("latin-1"))
        with pytest.raises(InvalidInputError, match="not UTF-8"):
            load_suite(tmp_path / "latin.yaml")

    def test_what_stands_under_controls_is_one(self) -> None:
        content = {
            **CONTENT,
            "strategies": ["none", "falip"],
            "controls": ["random", {"strategy": "box", "label": "b"}],
        }
        found = {row.condition.label: row.condition.is_control for row in parse_suite(content, "test").rows}
        assert found == {"none": True, "falip": False, "random": True, "b": True}

    def test_one_row_to_compare_with_needs_no_list(self) -> None:
        assert parse_suite({**CONTENT, "compare_with": "none"}, "test").compare_with == ("none",)
