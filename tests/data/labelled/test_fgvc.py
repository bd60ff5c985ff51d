"""FGVC data sets as they are published."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import quietly, saved_image

from visprompt.data.labelled.splits import load_splits
from visprompt.errors import InvalidInputError


class TestFgvc:
    def made(self, root: Path, images: str = "images", labels: tuple[Any, Any] = (1, 200), **files: Any) -> Path:
        for file in ("train", "val", "test"):
            entries = {f"{file} {n}/x{n}.png": labels[n % 2] for n in range(4)}
            for path in entries:
                saved_image(root / images / path)
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

    def test_images_elsewhere_and_no_validation(self, tmp_path: Path) -> None:
        root = self.made(tmp_path, "jpg", val=None)
        with pytest.raises(InvalidInputError, match=r"none of the images exists.*name the folder.*images="):
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
