"""VTAB-1k in the layout in which it is shared, on made-up files."""

from pathlib import Path

import pytest
from helpers import quietly, saved_image

from visprompt.data.labelled.splits import load_splits
from visprompt.errors import InvalidInputError


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
                saved_image(root / "images" / folder / f"{n} {n}.png")
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
        with pytest.raises(InvalidInputError, match=r"none of the images exists.*is images/ unpacked"):
            load_splits(tmp_path / "dtd", "vtab")
        self.made(tmp_path / "two", "train800.txt", "val200.txt")
        with pytest.raises(InvalidInputError, match="which the final training needs"):
            load_splits(tmp_path / "two", "vtab", final=True)
        with pytest.raises(InvalidInputError, match="there is no folder"):
            load_splits(tmp_path / "none", "vtab")
