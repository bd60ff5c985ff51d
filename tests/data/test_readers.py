"""Readers of other people's files: the layouts they have, and what is said when they have another."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from visprompt.data.detections import read_detections
from visprompt.data.reclip import picture_name, read_reclip
from visprompt.data.refer import load_refs, read_refer
from visprompt.data.referring import iou, xyxy_from_xywh
from visprompt.errors import InvalidInputError

ANNS = [{"id": 16, "bbox": [10, 20, 30, 40]}, {"id": 17, "bbox": [0, 0, 5, 5]}]


def entry(ann_id: object = 16, **changes: object) -> dict[str, object]:
    return {
        "file_name": "COCO_train2014_000000581857_16.jpg",
        "image_id": 581857,
        "ann_id": ann_id,
        "sentences": [{"raw": "The Red one"}, {"raw": "left"}],
        "anns": ANNS,
        **changes,
    }


def jsonl(path: Path, *entries: object) -> Path:
    path.write_text("\n".join(json.dumps(one) for one in entries) + "\n")
    return path


class TestReclip:
    def test_one_picture_per_image_with_all_its_expressions(self, tmp_path: Path) -> None:
        path = jsonl(tmp_path / "a.jsonl", entry(), entry(ann_id=17, sentences=[{"raw": "tiny"}]))
        (picture,) = read_reclip(path, images=tmp_path)
        assert picture.image == tmp_path / "COCO_train2014_000000581857.jpg"
        assert [one.text for one in picture.expressions] == ["The Red one", "left", "tiny"]
        assert len({one.id for one in picture.expressions}) == 3
        np.testing.assert_allclose(picture.candidates_xyxy, [[10, 20, 40, 60], [0, 0, 5, 5]])
        np.testing.assert_allclose(picture.expressions[2].gold_xyxy, [[0, 0, 5, 5]])

    @pytest.mark.parametrize("ann_id", [16, "16", [16, 17], ["16", "17"]])
    def test_ids_as_number_text_and_list(self, tmp_path: Path, ann_id: object) -> None:
        (picture,) = read_reclip(jsonl(tmp_path / "a.jsonl", entry(ann_id)))
        assert len(picture.expressions[0].gold_xyxy) == (2 if isinstance(ann_id, list) else 1)

    def test_detector_boxes_replace_the_candidates_and_not_the_gold(self, tmp_path: Path) -> None:
        path = jsonl(tmp_path / "a.jsonl", entry())
        boxes = {"581857": np.array([[1.0, 2, 3, 4]])}
        (picture,) = read_reclip(path, detections=boxes)
        assert picture.candidates_xyxy.tolist() == [[1, 2, 3, 4]]
        assert picture.expressions[0].gold_xyxy.tolist() == [[10, 20, 40, 60]]
        (empty,) = read_reclip(path, detections={})
        assert empty.candidates_xyxy.shape == (0, 4)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("COCO_train2014_000000581857_16.jpg", "COCO_train2014_000000581857.jpg"),
            ("mine_16.png", "mine.png"),
            ("mine_2.png", "mine_2.png"),
        ],
    )
    def test_only_the_annotation_id_is_dropped_from_a_name(self, name: str, expected: str) -> None:
        assert picture_name(name, frozenset({"16"})) == expected

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

    @pytest.mark.parametrize("content", ['"text"', '{"7": 3}', "[[1, 2]]", "[1", '{"7": [[1, 2, 3]]}'])
    def test_anything_else_is_refused(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "d.json"
        path.write_text(content)
        with pytest.raises(InvalidInputError, match=r"d\.json"):
            read_detections(path)


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (exec, (f"open({str(self.marker)!r}, 'w').write('gotcha')",))


REFS = [
    {
        "ref_id": 3,
        "ann_id": 16,
        "image_id": 581857,
        "split": "testA",
        "category_id": 1,
        "sentences": [{"raw": "Red", "sent": "red"}],
    },
    {"ref_id": 4, "ann_id": 17, "image_id": 581857, "split": "val", "category_id": 1, "sentences": [{"sent": "small"}]},
]
INSTANCES = {
    "images": [{"id": 581857, "file_name": "COCO_train2014_000000581857.jpg"}],
    "annotations": [{**ann, "image_id": 581857, "category_id": 1} for ann in ANNS],
    "categories": [{"id": 1, "name": "person"}],
}


class TestRefer:
    @pytest.fixture
    def files(self, tmp_path: Path) -> tuple[Path, Path]:
        refs, instances = tmp_path / "refs(unc).p", tmp_path / "instances.json"
        refs.write_bytes(pickle.dumps(REFS, protocol=2))
        instances.write_text(json.dumps(INSTANCES))
        return refs, instances

    def test_a_split(self, files: tuple[Path, Path], tmp_path: Path) -> None:
        (picture,) = read_refer(*files, split="testA", images=tmp_path)
        assert picture.image_name == "COCO_train2014_000000581857.jpg"
        assert [one.text for one in picture.expressions] == ["Red"]
        assert picture.expressions[0].gold_xyxy.tolist() == [[10, 20, 40, 60]]
        assert picture.names == ("person", "person")
        (other,) = read_refer(*files, split="val", detections={"581857": np.array([[0.0, 0, 5, 5]])})
        assert (other.expressions[0].text, other.names) == ("small", ())

    def test_unknown_split_lists_the_known_ones(self, files: tuple[Path, Path]) -> None:
        with pytest.raises(InvalidInputError, match="it has testA, val"):
            read_refer(*files, split="testa")

    def test_files_that_do_not_belong_together(self, files: tuple[Path, Path]) -> None:
        files[1].write_text(json.dumps({"images": [], "annotations": []}))
        with pytest.raises(InvalidInputError, match="do the two belong together"):
            read_refer(*files, split="val")
        files[1].write_text("[]")
        with pytest.raises(InvalidInputError, match="COCO annotations"):
            read_refer(*files, split="val")

    @pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
    def test_code_in_a_pickle_never_runs(self, tmp_path: Path, protocol: int) -> None:
        path, marker = tmp_path / "refs.p", tmp_path / "marker"
        path.write_bytes(pickle.dumps([{**REFS[0], "sentences": Evil(marker)}], protocol=protocol))
        with pytest.raises(InvalidInputError, match=r"tries to load (builtins|__builtin__)\.exec"):
            load_refs(path)
        assert not marker.exists()

    def test_reaching_code_by_way_of_allowed_names_is_refused_too(self, tmp_path: Path) -> None:
        path = tmp_path / "refs.p"
        # "numpy.core.multiarray.scalar" with an object type would hand raw bytes to another unpickler.
        path.write_bytes(b"cnumpy\ndtype\n(S'O8'\ntR.")
        with pytest.raises(InvalidInputError, match="a numpy value of type 'O8'"):
            load_refs(path)
        path.write_bytes(b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.")
        with pytest.raises(InvalidInputError, match="the codec 'rot13'"):
            load_refs(path)
        path.write_bytes(b"cbuiltins\nstr.format\n.")
        with pytest.raises(InvalidInputError, match="tries to load"):
            load_refs(path)

    @pytest.mark.parametrize("value", [np.int64(16), np.float32(16), np.int32(16), 16])
    @pytest.mark.parametrize("protocol", [2, 4])
    def test_numpy_numbers_are_harmless(self, tmp_path: Path, value: object, protocol: int) -> None:
        path = tmp_path / "refs.p"
        path.write_bytes(pickle.dumps([{**REFS[0], "ann_id": value}], protocol=protocol))
        (ref,) = load_refs(path)
        assert ref["ann_id"] == 16
        assert type(ref["ann_id"]) in (int, float)

    def test_python_2_texts(self, tmp_path: Path) -> None:
        path = tmp_path / "refs.p"
        # Protocol 0 of Python 2: byte strings (S'…'), one with a byte beyond ASCII, and a unicode one (V…).
        path.write_bytes(
            b"(lp0\n(dp1\nS'ann_id'\np2\nI16\nsS'image_id'\nI1\nsS'split'\nS'val'\nsS'sentences'\n(lp3\n(dp4\nS'raw'\nS'caf\\xe9'\n"
            b"sS'sent'\nVcaf\\u00e9\nsasa."
        )
        (ref,) = load_refs(path)
        assert ref["sentences"] == [{"raw": "café", "sent": "café"}]

    @pytest.mark.parametrize(
        "content", [b"", b"hello", pickle.dumps([{}]), pickle.dumps({"a": 1}), pickle.dumps(REFS)[:-30]]
    )
    def test_damaged_and_foreign_files(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "refs.p"
        path.write_bytes(content)
        with pytest.raises(InvalidInputError, match=r"refs\.p"):
            load_refs(path)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="cannot read"):
            load_refs(tmp_path / "none.p")


def test_boxes() -> None:
    boxes = xyxy_from_xywh([[0, 0, 2, 2], [1, 0, 2, 2]], "test")
    np.testing.assert_allclose(iou(boxes, boxes), [[1, 1 / 3], [1 / 3, 1]])
    with pytest.raises(InvalidInputError, match="not finite"):
        xyxy_from_xywh([[0, 0, float("nan"), 2]], "test")
