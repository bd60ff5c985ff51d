"""Benchmarks of prompt tuning in the layouts in which they are shared: VTAB-1k, FGVC, ADE20K; on made-up files."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from visprompt.data.labelled.ade20k import names_of
from visprompt.data.labelled.dataset import Splits
from visprompt.data.labelled.splits import load_splits
from visprompt.errors import InvalidInputError


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 18)).save(path, "PNG")
    return path


def quietly(*arguments: Any, **more: Any) -> Splits:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_splits(*arguments, **more)


class TestVtab:
    LISTS = {
        "train800.txt": "train800",
        "val200.txt": "val200",
        "train800val200.txt": "train800val200",
        "test.txt": "test",
    }

    def made(self, root: Path, *lists: str) -> Path:
        for file in lists or self.LISTS:
            folder = self.LISTS[file]
            lines = []
            for n in range(4):
                picture(root / "images" / folder / f"{n} {n}.png")
                lines.append(f"images/{folder}/{n} {n}.png {n % 2 * 3}")
            (root / file).write_text("\n".join(lines) + "\n")
        return root

    def test_choosing_and_final(self, tmp_path: Path) -> None:
        root = self.made(tmp_path / "dtd")
        splits = quietly(root, "vtab")
        assert splits.train.classes == ("0", "3")
        assert splits.train.labels == [0, 1, 0, 1]
        assert splits.train.check().name == "dtd train"
        assert splits.protocol == "VTAB-1k: train is train800.txt, validation val200.txt; test is test.txt."
        assert len(splits.final().train) == 8
        final = quietly(root, "vtab", final=True)
        assert (len(final.train), final.validation, len(final.test or ())) == (4, None, 4)
        assert "train is all of train800val200.txt" in final.protocol

    def test_only_the_thousand(self, tmp_path: Path) -> None:
        splits = quietly(self.made(tmp_path, "train800val200.txt", "test.txt"), "vtab", validation=0.5)
        assert (len(splits.train), len(splits.validation or ())) == (2, 2)
        assert "drawn with seed 0" in splits.protocol

    def test_wrong_folders(self, tmp_path: Path) -> None:
        self.made(tmp_path / "dtd")
        with pytest.raises(InvalidInputError, match="It holds several data sets, of which to give one: dtd"):
            load_splits(tmp_path, "vtab")
        (tmp_path / "dtd" / "val200.txt").write_text("images/val200/1.png cat\n")
        with pytest.raises(InvalidInputError, match=r"val200\.txt, line 1: expected `path label`"):
            load_splits(tmp_path / "dtd", "vtab")
        (tmp_path / "dtd" / "val200.txt").write_text("\n")
        with pytest.raises(InvalidInputError, match="is empty"):
            load_splits(tmp_path / "dtd", "vtab")
        (tmp_path / "dtd" / "val200.txt").write_text("pics/1.png 0\n")
        with pytest.raises(InvalidInputError, match=r"none of the pictures exists.*is images/ unpacked"):
            load_splits(tmp_path / "dtd", "vtab")
        self.made(tmp_path / "two", "train800.txt", "val200.txt")
        with pytest.raises(InvalidInputError, match="which the final training needs"):
            load_splits(tmp_path / "two", "vtab", final=True)
        with pytest.raises(InvalidInputError, match="there is no folder"):
            load_splits(tmp_path / "none", "vtab")


class TestFgvc:
    def made(self, root: Path, images: str = "images", labels: tuple[Any, Any] = (1, 200), **files: Any) -> Path:
        for file in ("train", "val", "test"):
            entries = {f"{file} {n}/x{n}.png": labels[n % 2] for n in range(4)}
            for path in entries:
                picture(root / images / path)
            content = files.get(file, entries)
            if content is not None:
                (root / f"{file}.json").write_text(json.dumps(content))
        return root

    @pytest.mark.parametrize("images", ["images", "Images", "."])
    @pytest.mark.parametrize("labels", [(1, 200), (0, 1), ("wren", "auk"), ("2", "10")])
    def test_published(self, tmp_path: Path, images: str, labels: tuple[Any, Any]) -> None:
        splits = quietly(self.made(tmp_path, images, labels), "fgvc")
        assert len(splits.train) == len(splits.validation or ()) == len(splits.test or ()) == 4
        assert splits.train.check()
        assert splits.train.classes == (("auk", "wren") if labels[0] == "wren" else tuple(map(str, labels)))
        assert splits.train.labels == ([1, 0, 1, 0] if labels[0] == "wren" else [0, 1, 0, 1])

    def test_labels_mean_the_same_in_all_files(self, tmp_path: Path) -> None:
        root = self.made(tmp_path, val={"val 0/x0.png": 200})
        splits = quietly(root, "fgvc")
        assert splits.validation is not None
        assert splits.validation.labels == [1]

    def test_pictures_elsewhere_and_no_validation(self, tmp_path: Path) -> None:
        root = self.made(tmp_path, "jpg", val=None)
        with pytest.raises(InvalidInputError, match=r"none of the pictures exists.*name the folder.*images="):
            load_splits(root, "fgvc")
        splits = quietly(root, "fgvc", images="jpg", validation=0.5)
        assert (len(splits.train), len(splits.validation or ())) == (2, 2)
        assert quietly(root, "fgvc", images=root / "jpg", validation=0).validation is None

    @pytest.mark.parametrize(
        ("train", "said"),
        [
            (None, "has no train.json"),
            ([1, 2], "expected an object of path → label, got list"),
            ({}, "is empty"),
            ({"a.png": None}, "a.png: a label is the name or number of a class; got None"),
        ],
    )
    def test_wrong_files(self, tmp_path: Path, train: Any, said: str) -> None:
        with pytest.raises(InvalidInputError, match=said):
            load_splits(self.made(tmp_path, train=train), "fgvc")


class TestAde20k:
    def made(self, root: Path, count: int = 4) -> Path:
        for part in ("training", "validation"):
            for n in range(count):
                picture(root / "images" / part / f"{part}_{n}.jpg")
                mask = np.full((18, 20), n, np.uint8)
                mask[0, 0] = 150
                folder = root / "annotations" / part
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(folder / f"{part}_{n}.png")
        return root

    def test_published(self, tmp_path: Path) -> None:
        splits = quietly(self.made(tmp_path / "ADEChallengeData2016"), "ade20k", validation=0.25)
        assert (len(splits.train), len(splits.validation or ()), len(splits.test or ())) == (3, 1, 4)
        assert len(splits.train.classes) == 150
        assert splits.train.classes[:2] == ("class 1", "class 2")
        assert splits.test is not None
        assert [np.unique(splits.test.label(n)).tolist() for n in (0, 1)] == [[149, 255], [0, 149]]  # type: ignore[arg-type]
        assert splits.test.check()
        assert splits.protocol == (
            "Train is the folder training; validation is 0.25 of it, drawn with seed 0; "
            "test is the folder validation, as everywhere for ADE20K."
        )

    @pytest.mark.parametrize(
        "text",
        [
            "Idx\tRatio\tTrain\tVal\tName\n1\t0.1576\t11664\t1172\twall\n2\t0.1072\t6046\t612\tbuilding, edifice\n",
            "Idx,Ratio,Train,Val,Stuff,Name\n1,0.1576,11664,1172,1,wall\n2,0.1072,6046,612,1,building;edifice\n",
            "Idx   Ratio   Train   Val   Name\n1     0.1576  11664   1172  wall\n2  0.1  60  6  building, edifice\n",
        ],
    )
    def test_names(self, text: str) -> None:
        assert names_of(text, "x") == ("wall", "building")

    def test_names_that_share_their_first_word(self) -> None:
        text = "Idx\tName\n1\tscreen, silver\n2\tscreen, CRT\n3\tdoor\n4\tdoor\n"
        assert names_of(text, "x") == ("screen, silver", "screen, CRT", "door (3)", "door (4)")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "is empty"),
            ("wall\nbuilding\n", "expected columns from Idx to Name"),
            ("Idx\tName\nwall\n", "line 2: expected 2 columns"),
            ("Idx\tName\n2\twall\n", "numbered from 1 without gaps"),
        ],
    )
    def test_wrong_names(self, text: str, said: str) -> None:
        with pytest.raises(InvalidInputError, match=said):
            names_of(text, "x")

    def test_a_list_of_names(self, tmp_path: Path) -> None:
        root = self.made(tmp_path)
        (root / "objectInfo150.txt").write_text("Idx\tName\n" + "".join(f"{n}\tn{n}\n" for n in range(1, 151)))
        assert quietly(root, "ade20k").train.classes[149] == "n150"

    def test_wrong_folders(self, tmp_path: Path) -> None:
        root = self.made(tmp_path / "inner")
        with pytest.raises(InvalidInputError, match=r"no folder images/training.* Is it '.*inner'"):
            load_splits(tmp_path, "ade20k")
        (root / "annotations/training/training_0.png").unlink()
        with pytest.raises(InvalidInputError, match=r"1 item cannot be used:\n.*no training_0\.png"):
            load_splits(root, "ade20k")
        with pytest.warns(UserWarning, match="1 item left out"):
            assert len(load_splits(root, "ade20k", on_bad="skip", validation=0).train) == 3
        for n in range(1, 4):
            (root / f"annotations/training/training_{n}.png").unlink()
        with pytest.raises(InvalidInputError, match="no mask for any picture"):
            load_splits(root, "ade20k")

    def test_a_mask_with_more_classes(self, tmp_path: Path) -> None:
        root = self.made(tmp_path)
        Image.fromarray(np.full((18, 20), 200, np.uint8)).save(root / "annotations/validation/validation_0.png")
        splits = quietly(root, "ade20k")
        assert splits.test is not None
        with pytest.raises(InvalidInputError, match="class numbers 199; there are 150 classes"):
            splits.test.check()
