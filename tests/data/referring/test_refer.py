"""Files of the refer API: pickles that run nothing, and annotations."""

import collections
import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from referring_files import ANNS

from visprompt.data.referring.refer import _PlainUnpickler, load_refs, read_refer
from visprompt.errors import InvalidInputError


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
        (sample,) = read_refer(*files, split="testA", images=tmp_path)
        assert sample.image_name == "COCO_train2014_000000581857.jpg"
        assert [one.text for one in sample.expressions] == ["Red"]
        assert sample.expressions[0].gold_xyxy.tolist() == [[10, 20, 40, 60]]
        assert sample.names == ("person", "person")
        (other,) = read_refer(*files, split="val", detections={"581857": np.array([[0.0, 0, 5, 5]])})
        assert (other.expressions[0].text, other.names) == ("small", ())

    def test_only_the_images_of_the_split_are_looked_at(self, files: tuple[Path, Path]) -> None:
        other = [{"id": 50, "image_id": 1, "bbox": [0, 0, 0, 0]}, {"id": 51, "image_id": 1}]
        files[1].write_text(json.dumps({**INSTANCES, "annotations": [*INSTANCES["annotations"], *other]}))
        problems: list[str] = []
        (sample,) = read_refer(*files, split="val", problems=problems)
        assert len(sample.candidates_xyxy) == 2
        assert problems == []

    def test_candidates_without_area_and_crowds(self, files: tuple[Path, Path]) -> None:
        more = [
            {"id": 50, "image_id": 581857, "bbox": [0, 0, 0, 5], "category_id": 1},
            {"id": 52, "image_id": 581857, "bbox": [0, 0, 60, 60], "category_id": 1, "iscrowd": 1},
        ]
        files[1].write_text(json.dumps({**INSTANCES, "annotations": [more[0], *INSTANCES["annotations"], more[1]]}))
        with pytest.warns(UserWarning, match=r"instances\.json: 1 candidate box has no area.*image 581857"):
            (sample,) = read_refer(*files, split="val")
        assert sample.candidates_xyxy.tolist() == [[10, 20, 40, 60], [0, 0, 5, 5]]
        assert sample.names == ("person", "person")
        files[0].write_bytes(pickle.dumps([*REFS, {**REFS[1], "ann_id": 52, "ref_id": 9}], protocol=2))
        (sample,) = read_refer(*files, split="val", problems=[])
        assert sample.candidates_xyxy.tolist()[-1] == [0, 0, 60, 60]
        assert len(sample.expressions) == 2
        files[0].write_bytes(pickle.dumps([{**REFS[1], "ann_id": 50}], protocol=2))
        with pytest.raises(InvalidInputError, match=r"annotation 50: box .* has no area"):
            read_refer(*files, split="val", problems=[])

    @pytest.mark.parametrize(
        ("annotation", "message"),
        [
            ({"id": 50, "image_id": 581857}, "annotation 50 of image 581857 has no bbox"),
            ({"id": 50, "image_id": 581857, "bbox": None}, "annotation 50 of image 581857 has no bbox"),
            ({"image_id": 581857, "bbox": [0, 0, 1, 1]}, "has no id"),
            ({"id": 50}, "annotation number 2 has no image_id"),
            ({"id": 50, "image_id": 581857, "bbox": [0, 0, 1]}, r"\[x, y, width, height\]"),
        ],
    )
    def test_annotations_that_lack_something(
        self, files: tuple[Path, Path], annotation: dict[str, object], message: str
    ) -> None:
        files[1].write_text(json.dumps({**INSTANCES, "annotations": [*INSTANCES["annotations"], annotation]}))
        with pytest.raises(InvalidInputError, match=message):
            read_refer(*files, split="val")

    def test_detections_that_do_not_belong_to_the_images(self, files: tuple[Path, Path]) -> None:
        with pytest.raises(InvalidInputError, match="none of the 1 images"):
            read_refer(*files, split="val", detections={"x": np.array([[0.0, 0, 5, 5]])})

    def test_refs_without_an_id_keep_all_expressions(self, files: tuple[Path, Path]) -> None:
        refs = [{key: value for key, value in REFS[1].items() if key != "ref_id"}] * 2
        files[0].write_bytes(pickle.dumps(refs, protocol=2))
        (sample,) = read_refer(*files, split="val")
        assert len({one.id for one in sample.expressions}) == 2

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

    @pytest.mark.parametrize(
        "name",
        [b"_codecs\nencode", b"numpy\ndtype", b"numpy.core.multiarray\nscalar", b"numpy._core.multiarray\nscalar"],
    )
    @pytest.mark.parametrize(
        "state",
        [
            b"N}U\x0a__module__U\x04evils\x86",  # slot state: (None, {...}) sets attributes
            b"}U\x0c__defaults__U\x04evils",  # state for __dict__
            b"N}U\x08__call__U\x04evils\x86",
            b"]",
        ],
    )
    def test_a_file_cannot_change_our_functions(self, tmp_path: Path, name: bytes, state: bytes) -> None:
        path = tmp_path / "refs.p"
        path.write_bytes(b"\x80\x02c" + name + b"\n" + state + b"b.")
        with pytest.raises(InvalidInputError, match="a function with a changed state"):
            load_refs(path)
        path.write_bytes(pickle.dumps([{**REFS[0], "ann_id": np.int64(16), "raw": b"x"}], protocol=2))
        assert load_refs(path)[0]["ann_id"] == 16

    def test_what_a_file_gets_to_call_has_no_attributes_and_is_its_own(self) -> None:
        first, second = (_PlainUnpickler(io.BytesIO()).find_class("_codecs", "encode") for _ in range(2))
        assert first is not second
        with pytest.raises(AttributeError):
            first.anything = 1
        with pytest.raises(AttributeError):
            first.__module__ = "evil"

    @pytest.mark.parametrize("name", [b"builtins\ndict", b"builtins\nstr", b"collections\nOrderedDict"])
    def test_a_file_cannot_change_the_types_either(self, tmp_path: Path, name: bytes) -> None:
        path = tmp_path / "refs.p"
        path.write_bytes(b"\x80\x02c" + name + b"\nN}U\x04evilU\x04evils\x86b.")
        with pytest.raises(InvalidInputError, match="not a readable pickle"):
            load_refs(path)
        assert not any(hasattr(kind, "evil") for kind in (dict, str, collections.OrderedDict))

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
