"""Tables of labelled data: columns, separators and labels as people have them, and what is said about others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import file_names, quietly, saved_images
from PIL import Image

from visprompt.data.labelled.splits import load_splits
from visprompt.errors import InvalidInputError, UnknownNameError


class TestTables:
    def csv(self, folder: Path, text: str, *images: str, name: str = "t.csv", **more: Any) -> Path:
        saved_images(folder, *(images or tuple(f"{n}.png" for n in range(4))))
        (folder / name).write_text(text, **({"encoding": "utf-8"} | more))
        return folder / name

    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    def test_columns_separators_and_marks(self, tmp_path: Path, separator: str, encoding: str) -> None:
        text = "File_Name, Class \r\n0.png,café\r\n1.png,b\r\n\r\n2.png,b\r\n3.png,café\r\n".replace(",", separator)
        splits = quietly(self.csv(tmp_path, text, encoding=encoding), validation=0.5)
        assert splits.train.classes == ("b", "café")
        assert (len(splits.train), len(splits.validation or ())) == (2, 2)
        assert splits.train.check()
        assert splits.protocol.startswith("Train is t.csv; validation is 0.5 of it, drawn with seed 0")

    def test_parts(self, tmp_path: Path) -> None:
        text = "image,label,split\n0.png,a,train\n1.png,b,Training\n2.png,a,val\n3.png,b,test\n"
        splits = quietly(self.csv(tmp_path, text))
        assert [file_names(part) for part in (splits.train, splits.validation, splits.test)] == [
            ["0.png", "1.png"],
            ["2.png"],
            ["3.png"],
        ]
        assert splits.protocol == "Parts are the column 'split' of t.csv."
        assert splits.train.name == "t train"

    def test_named_columns_and_another_folder(self, tmp_path: Path) -> None:
        saved_images(tmp_path / "pics", "0.png", "1.png")
        path = self.csv(tmp_path, "id,jpg,kind,label\n7,0.png,x,1\n8,1.png,y,1\n")
        splits = quietly(path, image="jpg", label="kind", images=tmp_path / "pics", validation=0)
        assert splits.train.classes == ("x", "y")
        assert splits.train.image(0).size == (20, 18)

    @pytest.mark.parametrize("labels", [("10", "9", "100", "9"), ("10.0", "9.0", "100.0", "9.0")])
    def test_numbers_with_gaps(self, tmp_path: Path, labels: tuple[str, ...]) -> None:
        rows = "".join(f"{n}.png,{label}\n" for n, label in enumerate(labels))
        splits = quietly(self.csv(tmp_path, "image,label\n" + rows), validation=0)
        assert splits.train.classes == ("9", "10", "100")
        assert splits.train.labels == [1, 0, 2, 0]

    @pytest.mark.parametrize("first", [0, 1])
    def test_names_for_numbers(self, tmp_path: Path, first: int) -> None:
        (tmp_path / "classes.txt").write_text("ant\nbee\ncow\n")
        path = self.csv(tmp_path, f"image,label\n0.png,{first}\n1.png,{first + 2}\n")
        splits = quietly(path, validation=0)
        assert (splits.train.classes, splits.train.labels) == (("ant", "bee", "cow"), [0, 2])
        assert quietly(path, validation=0, classes=["x", "y", "z"]).train.classes == ("x", "y", "z")

    def test_windows_and_absolute_paths(self, tmp_path: Path) -> None:
        saved_images(tmp_path / "sub dir", "a b.png", "é.png")
        text = f'image,label\nsub dir\\a b.png,a\n"{tmp_path / "sub dir" / "é.png"}",b\n'
        assert quietly(self.csv(tmp_path, text), validation=0).train.check()

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "is empty"),
            ("0.png,a\n1.png,b\n", r"no column label \(label, class, .*it has '0\.png', 'a'"),
            ("image,label\n0.png\n", r"t\.csv, line 2: 1 cells, and the header has 2"),
            ("image,label\n0.png,a,b\n", "quote cells that contain a ','"),
            ("image,label,Image\n", "no rows that can be used"),
            ("image,label,label\n0.png,a,b\n", "two columns called 'label'"),
            ("image,label\n", "no rows that can be used"),
            ("image,label\n0.png,\n1.png,a\n", r"1 row cannot be used:\n  t\.csv, line 2: no label"),
            ("image,label\n,a\n1.png,a\n", "an image is a file name"),
            ("image,label\nhttp://x/y.png,a\n", "is a web address; download"),
            ("image,label\nx.png,a\ny.png,b\n", "none of the images exists, for example .*images="),
            ("image,label,split\n0.png,a,tranin\n", "a split is train, validation"),
            ("image,label,split\n0.png,a,test\n", "has rows for test and none for train"),
            ("image,label\n0.png,a\n1.png,a\n", "one class only, 'a'"),
            ('image,label\n"0.png,a\n', r"line 2: not CSV"),
        ],
    )
    def test_wrong_files(self, tmp_path: Path, text: str, said: str) -> None:
        with pytest.raises(InvalidInputError, match=said):
            load_splits(self.csv(tmp_path, text))

    def test_wrong_options(self, tmp_path: Path) -> None:
        path = self.csv(tmp_path, "image,label\n0.png,a\n1.png,b\n")
        with pytest.raises(InvalidInputError, match="no column 'kind'; it has 'image', 'label'"):
            load_splits(path, label="kind")
        with pytest.raises(UnknownNameError, match="option of the format csv 'lable': did you mean 'label'"):
            load_splits(path, lable="kind")
        with pytest.raises(UnknownNameError, match=r"class .* 'b'"):
            load_splits(path, classes=["a", "c"])
        with pytest.raises(InvalidInputError, match=r"is a folder; give the \.csv file"):
            load_splits(tmp_path, "csv")
        with pytest.raises(InvalidInputError, match="there is no file"):
            load_splits(tmp_path / "none.csv")

    def test_several_classes_of_a_image(self, tmp_path: Path) -> None:
        path = self.csv(tmp_path, "image,label\n0.png,a\n0.png,b\n1.png,a\n1.png,a\n")
        with pytest.warns(UserWarning, match=r"t: 1 file has several classes, the first: .*0\.png"):
            load_splits(path, validation=0)

    def test_options_of_a_command_line(self, tmp_path: Path) -> None:
        path = self.csv(tmp_path, "0,1\n0.png,a\n1.png,b\n")
        assert quietly(path, image=0, label=1, name=7, validation=0).train.name == "7"
        with pytest.raises(InvalidInputError, match="classes are a list of names"):
            load_splits(path, image=0, label=1, classes=True)
        with pytest.raises(InvalidInputError, match="a seed is 0 or more"):
            load_splits(path, seed=-1)

    def test_skipping_rows(self, tmp_path: Path) -> None:
        path = self.csv(tmp_path, "image,label\n0.png,a\n1.png,\n2.png,b\n")
        with pytest.warns(UserWarning, match=r"1 row left out:\n  t\.csv, line 3"):
            assert len(load_splits(path, on_bad="skip", validation=0).train) == 2

    def test_one_image_in_two_parts(self, tmp_path: Path) -> None:
        path = self.csv(tmp_path, "image,label,split\n0.png,a,train\n1.png,b,train\n./0.png,a,test\n")
        with pytest.warns(UserWarning, match="1 file is in train and in test"):
            load_splits(path, validation=0)

    def jsonl(self, folder: Path, *rows: object) -> Path:
        saved_images(folder, *(f"{n}.png" for n in range(4)))
        (folder / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        return folder / "t.jsonl"

    def test_jsonl(self, tmp_path: Path) -> None:
        rows = [{"image": f"{n}.png", "label": n % 2} for n in range(4)]
        splits = quietly(self.jsonl(tmp_path, *rows), validation=0.5)
        assert splits.train.classes == ("0", "1")
        assert splits.train.check()

    def test_answers(self, tmp_path: Path) -> None:
        rows = [{"image": f"{n}.png", "question": "how many?", "answer": n, "category": "x"} for n in range(3)]
        splits = quietly(self.jsonl(tmp_path, *rows), validation=0)
        assert (splits.train.kind, splits.train.classes) == ("answers", ())
        assert splits.train.label(2) == ("how many?", "2")
        assert quietly(
            self.jsonl(tmp_path, *rows, {**rows[0], "image": "3.png", "category": "y"}), label="category"
        ).train.classes == (
            "x",
            "y",
        )
        with pytest.raises(InvalidInputError, match=r"line 1: no answer in the column 'answer'; got \['1'\]"):
            load_splits(self.jsonl(tmp_path, {"image": "0.png", "question": "q", "answer": ["1"]}))

    def test_masks(self, tmp_path: Path) -> None:
        Image.fromarray(np.array([[0, 1], [2, 2]], np.uint8).repeat(9, 0).repeat(10, 1)).save(tmp_path / "m.png")
        rows = [{"image": f"{n}.png", "mask": "m.png"} for n in range(4)]
        path = self.jsonl(tmp_path, *rows)
        with pytest.raises(InvalidInputError, match="masks hold numbers; give classes="):
            load_splits(path)
        splits = quietly(path, classes=["sky", "sea", "sand"], validation=0)
        assert (splits.train.kind, splits.train.ignore_index) == ("segmentation", 255)
        assert splits.train.check()
        shifted = quietly(path, classes="2", zero_is_none=True, validation=0)
        assert np.unique(shifted.train.label(0)).tolist() == [0, 1, 255]  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match=r"ignore_index 255 is also the number of a class \('class 256'\)"):
            load_splits(path, classes=300)
        assert quietly(path, classes=300, ignore_index=65535, validation=0).train.ignore_index == 65535
        shifted = quietly(path, classes=300, ignore_index=65535, zero_is_none=True, validation=0)
        assert np.unique(shifted.train.label(0)).tolist() == [0, 1, 65535]  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="class numbers 2; there are 2 classes"):
            quietly(path, classes=2).train.check()

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ({"image": "0.png", "label": ["a", "b"]}, "a label is the name or number of one class"),
            ({"image": "0.png", "label": True}, "a label is the name or number"),
            ({"image": "0.png", "label": 1.5}, "a label is the name or number"),
            ({"image": 3, "label": 1}, "an image is a file name; got 3"),
            ({"image": "0.png"}, "no column label"),
            ({"label": "a"}, "no column image"),
        ],
    )
    def test_wrong_jsonl(self, tmp_path: Path, row: object, said: str) -> None:
        with pytest.raises(InvalidInputError, match=said):
            load_splits(self.jsonl(tmp_path, row))

    def test_cut_off_jsonl(self, tmp_path: Path) -> None:
        (tmp_path / "t.jsonl").write_text('{"image": "0.png", "label": 1}\n{"image": "1.p')
        with pytest.raises(InvalidInputError, match=r"t\.jsonl, line 2: not JSON"):
            load_splits(tmp_path / "t.jsonl")
        (tmp_path / "t.jsonl").write_text("")
        with pytest.raises(InvalidInputError, match="is empty"):
            load_splits(tmp_path / "t.jsonl")

    def test_mixed_labels(self, tmp_path: Path) -> None:
        rows = [{"image": "0.png", "label": 1}, {"image": "1.png", "label": "cat"}]
        with pytest.raises(InvalidInputError, match="labels mix numbers and names: 1 and 'cat'"):
            load_splits(self.jsonl(tmp_path, *rows))
