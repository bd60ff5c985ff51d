"""Suites that measure attention gain, as files: what is in those that ship, and what is refused in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench.gain.test_run import content, small
from visprompt.bench.gain.spec import GainSuite
from visprompt.bench.old_names import run_gain
from visprompt.bench.pipeline import run_suite
from visprompt.bench.suite import list_suites, load_suite, parse_suite
from visprompt.errors import InvalidInputError, UnknownNameError


class TestSuiteFiles:
    def test_both_suites_that_ship_are_listed_and_readable(self) -> None:
        for name in ("gain", "gain-full"):
            assert name in list_suites()
            suite = load_suite(name)
            assert isinstance(suite, GainSuite)
            assert set(suite.models) == {
                "bundled:scenes-clip", "bundled:scenes-clip-annotated", "bundled:scenes-mae", "bundled:scenes-llava"
            }  # fmt: skip
            assert suite.images["n"] >= 500
            assert {one.strategy for one in suite.markers} >= {"patch", "circle", "box"}
            assert [one.label for one in suite.markers if one.control] == ["random patch"]
            assert suite.compare_with == "circle"
            assert len(suite.transfer) == 4

    def test_the_circle_that_patches_are_compared_with_is_the_published_one(self) -> None:
        for name in ("gain", "gain-full"):
            suite = load_suite(name)
            assert isinstance(suite, GainSuite)
            circle = suite.marker("circle")
            assert (circle.strategy, circle.options, circle.preset) == ("circle", {}, None)

    def test_the_sweep_is_over_size_shape_and_ratio(self) -> None:
        suite = load_suite("gain-full")
        assert isinstance(suite, GainSuite)
        assert suite.sweep is not None
        points = list(suite.sweep.points())
        assert {point["shape"] for point in points} == {"circle", "square", "full"}
        # a frame without a hole is a full patch, and that has no ratio: neither is learned twice
        assert len(points) == 4 * (4 + 3 + 1)
        assert all("ratio" not in point for point in points if point["shape"] == "full")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"kind": "gian"}, "did you mean 'gain'"),
            ({"modles": []}, "did you mean 'models'"),
            ({"markers": [], "controls": []}, "no markers"),
            ({"markers": ["circle", "circle"]}, "two markers called circle"),
            ({"markers": ["cirle"]}, "did you mean 'circle'"),
            ({"markers": [{"strategy": "circle", "options": {"widht": 1}}]}, "did you mean 'width'"),
            ({"markers": [{"strategy": "circle", "options": {"width": -1}}]}, "width"),
            ({"markers": [{"strategy": "circle", "saved": "x"}]}, "one of strategy, saved and random"),
            ({"markers": [{"label": "x"}]}, "one of strategy, saved and random"),
            ({"markers": [{"saved": "x", "preset": "y"}]}, "go with strategy alone"),
            ({"markers": [{"strategy": "circle", "learn": {}}]}, "learn goes with strategy: patch"),
            ({"markers": [{"strategy": "patch", "learn": {"epoch": 1}}]}, "did you mean 'epochs'"),
            ({"markers": [{"strategy": "patch", "learn": {"epochs": 0}}]}, "epochs"),
            ({"markers": [{"strategy": "patch", "learn": {"data": 3}}]}, "folder of images"),
            ({"markers": ["circle"], "controls": [{"random": "patsh"}]}, "marker in random"),
            ({"compare_with": "cirle"}, "did you mean 'circle'"),
            ({"images": {"source": "scene"}}, "did you mean 'scenes'"),
            ({"images": {"source": "scenes", "folder": "x"}}, "folder"),
            ({"images": {"source": "folder"}}, "need folder"),
            ({"images": {"source": "scenes", "n": 0}}, "at least 1"),
            ({"size_tokens": 0}, "size_tokens"),
            ({"blocks": [0.5]}, "blocks"),
            ({"fit": "stretch"}, "fit"),
            ({"transfer": {"a": 3}}, "transfer"),
            ({"sweep": {"grid": {"size": [1]}}}, "needs model"),
            ({"sweep": {"model": "x", "grid": {}}}, "needs a grid"),
            ({"sweep": {"model": "x", "grid": {"sise": [1]}}}, "did you mean 'size'"),
            ({"sweep": {"model": "x", "grid": {"size": [1, 99]}}}, "size is a number"),
            ({"sweep": {"model": "x", "grid": {"size": [1]}, "seeds": [0, 0]}}, "different"),
            ({"sweep": {"model": "x", "grid": {"size": [1]}, "settings": {"seed": 1}}}, "seed"),
        ],
    )
    def test_what_is_wrong_is_said_before_anything_runs(self, change: dict[str, Any], message: str) -> None:
        base: dict[str, Any] = {"controls": [], "compare_with": None} if "markers" in change else {}
        with pytest.raises((UnknownNameError, InvalidInputError), match=f"(?s){message}"):
            parse_suite(content(**{**base, **change}), "gain-test")

    def test_each_kind_of_suite_has_its_own_function(self, tmp_path: Path) -> None:
        with (
            pytest.warns(DeprecationWarning, match="run_suite"),
            pytest.raises(InvalidInputError, match="another kind"),
        ):
            run_gain("scenes-quick", out=tmp_path)
        with pytest.raises(InvalidInputError, match="names no model"):
            run_suite(small(models=[]), out=tmp_path)
        with pytest.raises(InvalidInputError, match="limit"):
            run_suite(small(), out=tmp_path, limit=0)
