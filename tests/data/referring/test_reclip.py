"""RECLIP's files: the layout they have, and what is said when they have another."""

import json
from pathlib import Path

import numpy as np
import pytest
from referring_files import ANNS, entry

from visprompt.data.referring.reclip import image_name, read_reclip
from visprompt.errors import InvalidInputError


def jsonl(path: Path, *entries: object) -> Path:
    path.write_text("\n".join(json.dumps(one) for one in entries) + "\n")
    return path


class TestReclip:
    def test_one_image_per_image_with_all_its_expressions(self, tmp_path: Path) -> None:
        path = jsonl(tmp_path / "a.jsonl", entry(), entry(ann_id=17, sentences=[{"raw": "tiny"}]))
        (sample,) = read_reclip(path, images=tmp_path)
        assert sample.image == tmp_path / "COCO_train2014_000000581857.jpg"
        assert [one.text for one in sample.expressions] == ["The Red one", "left", "tiny"]
        assert len({one.id for one in sample.expressions}) == 3
        np.testing.assert_allclose(sample.candidates_xyxy, [[10, 20, 40, 60], [0, 0, 5, 5]])
        np.testing.assert_allclose(sample.expressions[2].gold_xyxy, [[0, 0, 5, 5]])

    @pytest.mark.parametrize("ann_id", [16, "16", [16, 17], ["16", "17"]])
    def test_ids_as_number_text_and_list(self, tmp_path: Path, ann_id: object) -> None:
        (sample,) = read_reclip(jsonl(tmp_path / "a.jsonl", entry(ann_id)))
        assert len(sample.expressions[0].gold_xyxy) == (2 if isinstance(ann_id, list) else 1)

    def test_detector_boxes_replace_the_candidates_and_not_the_gold(self, tmp_path: Path) -> None:
        path = jsonl(tmp_path / "a.jsonl", entry())
        boxes = {"581857": np.array([[1.0, 2, 3, 4]])}
        (sample,) = read_reclip(path, detections=boxes)
        assert sample.candidates_xyxy.tolist() == [[1, 2, 3, 4]]
        assert sample.expressions[0].gold_xyxy.tolist() == [[10, 20, 40, 60]]
        with pytest.warns(UserWarning, match="1 of 1 images have no detections"):
            (empty,) = read_reclip(path, detections={"581857": np.zeros((0, 4))})
        assert empty.candidates_xyxy.shape == (0, 4)

    def test_detections_that_do_not_belong_to_the_images(self, tmp_path: Path) -> None:
        path = jsonl(tmp_path / "a.jsonl", entry(), entry(image_id=5))
        with pytest.raises(InvalidInputError, match=r"none of the 2 images of .*581857, 5.*are 000581857\."):
            read_reclip(path, detections={"000581857": np.array([[1.0, 2, 3, 4]])})
        with pytest.raises(InvalidInputError, match="none at all"):
            read_reclip(path, detections={})
        problems: list[str] = []
        read_reclip(path, detections={"5": np.array([[1.0, 2, 3, 4]])}, problems=problems)
        assert "1 of 2 images have no detections" in problems[0]
        assert "581857" in problems[0]

    def test_two_lines_about_one_annotation_keep_all_expressions(self, tmp_path: Path) -> None:
        path = jsonl(
            tmp_path / "a.jsonl", entry(), entry(sentences=[{"raw": "again"}]), entry(ref_id=3), entry(ref_id=3)
        )
        (sample,) = read_reclip(path)
        assert len(sample.expressions) == 7
        assert len({one.id for one in sample.expressions}) == 7

    def test_candidates_without_area_and_crowds(self, tmp_path: Path) -> None:
        more = [*ANNS, {"id": 1, "bbox": [1, 2, 0, 4]}, {"id": 2, "bbox": [0, 0, 60, 60], "iscrowd": 1}]
        path = jsonl(tmp_path / "a.jsonl", entry(anns=more), entry(ann_id=17, anns=more))
        with pytest.warns(UserWarning, match=r"a\.jsonl: 1 candidate box has no area"):
            (sample,) = read_reclip(path)
        assert sample.candidates_xyxy.tolist() == [[10, 20, 40, 60], [0, 0, 5, 5]]
        problems: list[str] = []
        (crowd,) = read_reclip(jsonl(tmp_path / "b.jsonl", entry(ann_id=2, anns=more)), problems=problems)
        assert crowd.candidates_xyxy.tolist() == [[10, 20, 40, 60], [0, 0, 5, 5], [0, 0, 60, 60]]
        assert len(problems) == 1

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("COCO_train2014_000000581857_16.jpg", "COCO_train2014_000000581857.jpg"),
            ("mine_16.png", "mine.png"),
            ("mine_2.png", "mine_2.png"),
        ],
    )
    def test_only_the_annotation_id_is_dropped_from_a_name(self, name: str, expected: str) -> None:
        assert image_name(name, frozenset({"16"})) == expected

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"ann_id": 99}, r"line 1: ann_id 99 is not among"),
            ({"anns": [{"id": 16, "bbox": [1, 2, 0, 4]}]}, "no area"),
            ({"anns": [{"id": 16}]}, "id and bbox"),
            ({"anns": [{"id": 16, "bbox": [1, 2]}]}, r"\[x, y, width, height\]"),
            ({"sentences": ["red"]}, "sentences need raw"),
        ],
    )
    def test_bad_entries_are_named_by_file_and_line(
        self, tmp_path: Path, changes: dict[str, object], message: str
    ) -> None:
        with pytest.raises(InvalidInputError, match=message):
            read_reclip(jsonl(tmp_path / "a.jsonl", entry(**changes)))

    def test_cut_off_missing_empty_and_binary_files(self, tmp_path: Path) -> None:
        path = jsonl(tmp_path / "a.jsonl", entry())
        path.write_text(path.read_text() + '{"file_name": "x')
        with pytest.raises(InvalidInputError, match="line 2: not JSON"):
            read_reclip(path)
        with pytest.raises(InvalidInputError, match="cannot read"):
            read_reclip(tmp_path / "none.jsonl")
        path.write_text("\n")
        with pytest.raises(InvalidInputError, match="no entries"):
            read_reclip(path)
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(InvalidInputError, match="UTF-8"):
            read_reclip(path)
        path.write_text("{}\n")
        with pytest.raises(InvalidInputError, match="no file_name, ann_id"):
            read_reclip(path)
