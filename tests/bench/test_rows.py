"""The rows of `results.jsonl`: one schema, and 0.4.0's three in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from visprompt.bench.pipeline import in_order, stale
from visprompt.bench.rows import ends, key_of, read_rows, read_rows_or_none, upgrade
from visprompt.errors import InvalidInputError
from visprompt.utils.jsonl import read_jsonl
from visprompt.utils.provenance import source_digest

FOLDERS = Path(__file__).parent / "data" / "folder-0.4.0"
COMMON = {"kind", "suite", "task", "row", "model", "metric", "value", "low", "high", "n", "control", "provenance"}


@pytest.mark.parametrize(
    ("kind", "folder", "count"), [("accuracy", "scenes", 4), ("tuning", "tuning", 8), ("gain", "gain", 2)]
)
def test_rows_of_0_4_0_have_the_schema(kind: str, folder: str, count: int) -> None:
    rows = read_rows(FOLDERS / folder / "results.jsonl")
    assert len(rows) == count
    assert len({key_of(row) for row in rows}) == count
    for row in rows:
        assert row.keys() >= COMMON
        assert row["kind"] == kind
        assert row["low"] <= row["value"] <= row["high"]
        assert not row.keys() & {"ci95", "part", "marker", "method", "set", "code", "versions"}
        assert upgrade(row) == row


def test_nothing_else_of_an_old_row_is_changed() -> None:
    (old, *_), (new, *_) = (read(FOLDERS / "scenes" / "results.jsonl") for read in (read_jsonl, read_rows))
    gone = {"ci95", "strategy", "pictures", "versions", "git_commit", "code", "machine", "date"}
    assert {key: new[key] for key in old if key not in gone} == {key: old[key] for key in old if key not in gone}
    assert new["provenance"] == {key: old[key] for key in ("versions", "git_commit", "code", "machine", "date")}
    assert new["images"] == old["pictures"]


def test_a_point_of_a_sweep_has_its_point_as_label() -> None:
    row = upgrade({"part": "sweep", "point": {"size": 2, "shape": "full"}, "value": 0.5, "model": "m"})
    assert (row["task"], row["row"], row["low"], row["high"]) == ("sweep", "size 2, shape full", None, None)


def test_one_image_has_no_interval() -> None:
    assert ends(0.1, 0.9, 1) is None
    assert ends(0.1, 0.9, 2) == [0.1, 0.9]


def test_a_file_that_is_something_else_is_taken_only_where_it_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text("not JSON\n")
    with pytest.raises(InvalidInputError, match="--fresh"):
        read_rows_or_none(tmp_path / "results.jsonl", fresh=False)
    assert read_rows_or_none(tmp_path / "results.jsonl", fresh=True) == []
    assert read_rows(tmp_path / "none.jsonl") == []


def row(label: str, code: str = "", **changes: Any) -> dict[str, Any]:
    made = {"kind": "accuracy", "suite": "s", "task": "t", "row": label, "model": "m", "value": 0.5, "limit": None}
    return {**made, "suite_hash": "h", "provenance": {"code": code or source_digest()}, **changes}


class TestStale:
    def test_rows_of_today_are_not(self) -> None:
        rows = [row("a"), row("b")]
        assert stale(rows, rows[:1], ("suite_hash", "limit")) == []
        assert stale(rows, [], ("suite_hash", "limit")) == []

    @pytest.mark.parametrize("change", [{"code": "old"}, {"limit": 3}, {"suite_hash": "other"}])
    def test_rows_made_otherwise_are_named(self, change: dict[str, Any]) -> None:
        made = row("a")
        (told,) = stale([made, row("b", **change), row("c")], [made], ("suite_hash", "limit"))
        assert told.startswith("1 rows are from an earlier run")
        assert "(b on m)" in told

    def test_rows_that_rest_on_other_code_are_named_although_they_are_made_now(self) -> None:
        made = [row("a"), row("b", code=f"old, {source_digest()}")]
        (told,) = stale(made, made, ("suite_hash", "limit"))
        assert "(b on m)" in told
        assert "--fresh" in told


def test_rows_without_a_place_stand_last_as_they_were() -> None:
    rows = [row(label) for label in ("x", "b", "y", "a")]
    placed = in_order(rows, lambda one: (one["row"],) if one["row"] in "ab" else None)
    assert [one["row"] for one in placed] == ["a", "b", "x", "y"]
