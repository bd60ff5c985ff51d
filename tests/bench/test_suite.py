"""Suites by name and by path, the kinds that there are, and the suite files of release 0.4.0."""

from __future__ import annotations

import ast
import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.bench.gain.test_run import content as gain_content
from visprompt.bench.accuracy.spec import Suite
from visprompt.bench.gain.spec import GainSuite, is_learned, learners
from visprompt.bench.suite import KINDS, list_suites, load_suite, parse_suite
from visprompt.bench.tuning.spec import TuningSuite, head_alone
from visprompt.errors import InvalidInputError, UnknownNameError

OLD = Path(__file__).parent / "data" / "suites-0.4.0"
RENAMED = {"gain": "'pictures' is called 'images' now", "cub": "'picture' in tasks.*.among is called 'image' now"}


def without_texts(value: Any) -> Any:
    """Without the titles and descriptions, which may be worded anew."""
    if isinstance(value, dict):
        return {key: without_texts(one) for key, one in value.items() if key not in ("title", "description")}
    return [without_texts(one) for one in value] if isinstance(value, list | tuple) else value


class TestFinding:
    def test_each_kind_gives_its_own_suite(self, tmp_path: Path) -> None:
        kinds = {"scenes": Suite, "tuning": TuningSuite, "gain": GainSuite}
        for name, kind in kinds.items():
            assert isinstance(load_suite(name), kind)
        assert list(KINDS) == ["accuracy", "tuning", "gain"]

    def test_by_name_and_by_path_it_is_the_same(self, tmp_path: Path) -> None:
        file = tmp_path / "scenes-quick.yaml"
        file.write_text((Path("benchmarks") / "scenes-quick.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        assert load_suite(file) == load_suite("scenes-quick") == load_suite(str(file))
        assert load_suite(file).hash == load_suite("scenes-quick").hash

    @pytest.mark.filterwarnings("error")
    def test_suites_that_ship_use_no_old_name(self) -> None:
        hashes = {load_suite(name).hash for name in list_suites()}
        assert len(hashes) == len(list_suites())

    def test_the_hash_holds_what_decides_figures_and_no_texts(self) -> None:
        content = yaml.safe_load(Path("benchmarks/scenes-quick.yaml").read_text(encoding="utf-8"))
        before = parse_suite(content, "scenes-quick").hash
        assert parse_suite({**content, "title": "Other", "description": "Words."}, "scenes-quick").hash == before
        assert parse_suite({**content, "fit": "pad"}, "scenes-quick").hash != before

    def test_a_file_may_name_the_kind_that_is_meant_without_one(self) -> None:
        content = yaml.safe_load(Path("benchmarks/scenes-quick.yaml").read_text(encoding="utf-8"))
        assert parse_suite({"kind": "accuracy", **content}, "scenes-quick") == load_suite("scenes-quick")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "suite odd: there are no tasks"),
            (["a"], r"suite odd: expected keys with values; got \['a'\]"),
            ("text", "suite odd: expected keys with values; got 'text'"),
            ({"kind": "gains"}, "suite odd: unknown kind 'gains': did you mean 'gain'.*Known: accuracy, gain, tuning"),
            ({"kind": ["gain"]}, "suite odd: unknown kind.*Known: accuracy, gain, tuning"),
        ],
    )
    def test_what_is_no_suite_is_refused_by_name(self, content: Any, message: str) -> None:
        with pytest.raises((UnknownNameError, InvalidInputError), match=message):
            parse_suite(content, "odd")

    def test_a_mistake_in_a_file_names_the_suite(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text("tasks: {a: {task: vqa, data: {source: scenes-vqa, n: 0}}}")
        with pytest.raises(InvalidInputError, match=r"^suite mine: n in data of task a is a whole number, at least 1"):
            load_suite(tmp_path / "mine.yaml")


class TestSuitesOf040:
    @pytest.mark.parametrize("name", sorted(one.stem for one in OLD.glob("*.yaml")))
    def test_they_load_as_the_same_suite_and_warn_of_old_names(self, name: str) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            old = load_suite(OLD / f"{name}.yaml")
        said = [str(one.message) for one in caught if one.category is DeprecationWarning]
        renamed = [RENAMED[name]] if name in RENAMED else []
        assert said == [f"suite {name}: {one}; the old name is read until the next release." for one in renamed]
        assert without_texts(dataclasses.asdict(old)) == without_texts(dataclasses.asdict(load_suite(name)))
        assert old.hash == load_suite(name).hash

    def test_all_five_are_there(self) -> None:
        assert {one.stem for one in OLD.glob("*.yaml")} == {"scenes", "scenes-vqa", "tuning", "gain", "cub"}

    def test_the_warning_points_at_who_loads_the_suite(self) -> None:
        with pytest.warns(DeprecationWarning, match="'images'") as caught:
            load_suite(OLD / "gain.yaml")
        assert caught[0].filename == __file__


class TestStrategiesOfSuites:
    """No strategy is known by name: the registry says which one can do what a suite asks for."""

    def test_what_learns_without_labels(self) -> None:
        assert learners() == ["patch"]
        assert (is_learned("patch"), is_learned("vpt"), is_learned("circle")) == (True, True, False)

    def test_methods_without_a_strategy_have_the_one_with_a_head_alone(self) -> None:
        assert head_alone() == "vpt"
        content = {"kind": "tuning", "model": "m", "sets": {"a": {"data": "scenes:count"}}}
        suite = parse_suite({**content, "methods": [{"label": "all", "how": "full"}]}, "t")
        assert isinstance(suite, TuningSuite)
        assert suite.methods[0].strategy == "vpt"

    def test_a_sweep_is_of_the_strategy_that_the_suite_learns_or_names(self) -> None:
        sweep = {"model": "m", "grid": {"size": [1.0]}}
        for markers, named in (
            ([{"strategy": "patch", "learn": {}}], {}),
            (["box"], {}),
            (["box"], {"strategy": "patch"}),
        ):
            content = gain_content(markers=markers, controls=[], compare_with=None, sweep={**sweep, **named})
            suite = parse_suite(content, "g")
            assert isinstance(suite, GainSuite)
            assert suite.sweep is not None
            assert suite.sweep.strategy == "patch"
        with pytest.raises(UnknownNameError, match=r"strategy of sweep .*'vpt'.*Known: patch"):
            parse_suite({**content, "sweep": {**sweep, "strategy": "vpt"}}, "g")

    def test_what_is_drawn_has_nothing_learned_in_it(self) -> None:
        suite = load_suite("gain")
        assert isinstance(suite, GainSuite)
        assert {one.label for one in suite.markers if one.drawn} == {"circle", "circle 2 px", "box"}
        mixed = dataclasses.replace(suite.marker("circle"), strategy="circle + patch|box")
        assert not mixed.drawn

    def test_specs_name_no_strategy(self) -> None:
        root = Path("visprompt/bench")
        for file in [root / "schema.py", root / "suite.py", *root.glob("*/spec.py")]:
            texts = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
            assert not texts & {"patch", "vpt", "circle", "box", "gated"}, file
