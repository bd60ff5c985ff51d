"""Data by description."""

import json
from pathlib import Path
from typing import Any

import pytest

from visprompt.errors import InvalidInputError, UnknownNameError
from visprompt.tasks.data_sources import load_data


class TestSources:
    def test_scenes(self) -> None:
        data = load_data({"source": "scenes", "kind": "position", "split": "validation", "n": 3})
        assert len(data.images) == 3
        longer = load_data({"source": "scenes", "kind": "position", "split": "validation", "n": 20})
        assert longer.identity == data.identity
        assert load_data({"source": "scenes", "kind": "hard", "n": 3}).identity["hash"] != data.identity["hash"]

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ({"source": "scene"}, "did you mean 'scenes'"),
            ({"source": "scenes", "splt": "test"}, "did you mean 'split'"),
            ({"source": "scenes", "split": "tst"}, "unknown split"),
            ({"source": "reclip"}, "needs file"),
            ({"source": "reclip", "file": "none.jsonl"}, "--annotations"),
        ],
    )
    def test_mistakes(self, spec: dict[str, Any], message: str) -> None:
        with pytest.raises((InvalidInputError, UnknownNameError), match=message):
            load_data(spec)

    def test_reclip_files(self, tmp_path: Path) -> None:
        line = {
            "file_name": "a_1.jpg",
            "image_id": 5,
            "ann_id": 1,
            "sentences": [{"raw": "x"}],
            "anns": [{"id": 1, "bbox": [0, 0, 5, 5]}],
        }
        (tmp_path / "a.jsonl").write_text(json.dumps(line))
        (tmp_path / "dets.json").write_text(json.dumps({"5": [[0, 0, 5, 4]]}))
        data = load_data({"source": "reclip", "file": "a.jsonl"}, tmp_path, tmp_path)
        detected = load_data({"source": "reclip", "file": "a.jsonl", "detections": "dets.json"}, tmp_path, tmp_path)
        assert (data.boxes, detected.boxes) == ("gold", "detector")
        assert data.identity["hash"] != detected.identity["hash"]
        assert load_data({"source": "reclip", "file": "a.jsonl"}, tmp_path, tmp_path).identity == data.identity
        (tmp_path / "other").mkdir()
        moved = load_data({"source": "reclip", "file": "a.jsonl"}, tmp_path / "other", tmp_path)
        assert moved.identity != data.identity
        (tmp_path / "more.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({**line, "image_id": 6}))
        spec = {"source": "reclip", "file": "more.jsonl", "detections": "dets.json"}
        assert "1 of 2 images have no detections" in load_data(spec, tmp_path, tmp_path).problems[0]
        with pytest.raises(InvalidInputError, match="--images"):
            load_data({"source": "reclip", "file": "a.jsonl"}, tmp_path / "none", tmp_path)
