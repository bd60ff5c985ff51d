"""Boxes of detectors, in both layouts."""

import json
from pathlib import Path

import pytest

from visprompt.data.referring.detections import read_detections
from visprompt.errors import InvalidInputError


class TestDetections:
    def test_both_layouts_agree(self, tmp_path: Path) -> None:
        one, two = tmp_path / "one.json", tmp_path / "two.json"
        one.write_text(json.dumps({"7": [[1, 2, 3, 4], [0, 0, 1, 1]], "8": []}))
        two.write_text(
            json.dumps([{"image_id": 7, "box": [1, 2, 3, 4]}, {"image_id": 7, "bbox": [0, 0, 1, 1], "score": 0.4}])
        )
        assert read_detections(one)["7"].tolist() == read_detections(two)["7"].tolist() == [[1, 2, 4, 6], [0, 0, 1, 1]]
        assert read_detections(one)["8"].shape == (0, 4)
        assert len(read_detections(two, min_score=0.5)["7"]) == 1

    def test_boxes_without_area_are_left_out_with_one_sentence(self, tmp_path: Path) -> None:
        path = tmp_path / "d.json"
        path.write_text('{"7": [[1, 2, 3, 4], [0, 0, 0, 1]], "8": [[0, 0, 1, NaN], [0, 0, 1, -1]]}')
        problems: list[str] = []
        boxes = read_detections(path, problems=problems)
        assert (len(boxes["7"]), len(boxes["8"])) == (1, 0)
        (told,) = problems
        assert "3 candidate boxes have no area" in told
        assert "image 7, [0, 0, 0, 1]" in told

    @pytest.mark.parametrize("score", ["null", '"high"', "NaN", "true"])
    def test_a_score_that_is_no_number(self, tmp_path: Path, score: str) -> None:
        path = tmp_path / "d.json"
        path.write_text(f'[{{"image_id": 7, "box": [1, 2, 3, 4], "score": {score}}}]')
        with pytest.raises(InvalidInputError, match="entry 0: score should be a number"):
            read_detections(path, min_score=0.5)
        assert len(read_detections(path)["7"]) == 1

    @pytest.mark.parametrize("content", ['"text"', '{"7": 3}', "[[1, 2]]", "[1", '{"7": [[1, 2, 3]]}'])
    def test_anything_else_is_refused(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "d.json"
        path.write_text(content)
        with pytest.raises(InvalidInputError, match=r"d\.json"):
            read_detections(path)
