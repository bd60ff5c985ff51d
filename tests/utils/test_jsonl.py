"""JSON lines: appended to, whole after a kill, the last row of an id stands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from visprompt.errors import InvalidInputError
from visprompt.utils.jsonl import RowLog, read_jsonl, write_jsonl


def test_the_last_row_of_an_id_stands_in_every_run(tmp_path: Path) -> None:
    log = RowLog(tmp_path / "deep" / "rows.jsonl")
    assert log.rows() == []
    log.append([{"run": "a", "id": 1, "x": 1}, {"run": "b", "id": 1, "x": 2}])
    log.append([{"run": "a", "id": 1, "x": 3}])
    for reader in (log, RowLog(log.path)):
        assert reader.rows("a") == [{"run": "a", "id": 1, "x": 3}]
        assert [row["x"] for row in reader.rows()] == [3, 2]


def test_a_line_that_a_kill_cut_off_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    RowLog(path).append([{"id": 1}, {"id": 2}])
    path.write_bytes(path.read_bytes()[:-4])
    log = RowLog(path)
    assert log.rows() == [{"id": 1}]
    log.append([{"id": 3}])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"id": 1}, {"id": 3}]


def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary\n{}\n")
    with pytest.raises(InvalidInputError, match=r"notes\.txt, line 1 is not JSON"):
        RowLog(path).append([{"id": 1}])
    assert path.read_text() == "dear diary\n{}\n"


def test_rows_with_numbers_of_numpy_are_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"id": 1, "x": np.float64(0.5), "y": np.arange(2), "z": {3, 1}, "text": "größer"}])
    assert "größer" in path.read_text(encoding="utf-8")
    assert read_jsonl(path) == [{"id": 1, "x": 0.5, "y": [0, 1], "z": [1, 3], "text": "größer"}]
    write_jsonl(path, [])
    assert read_jsonl(path) == []
