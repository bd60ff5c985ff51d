"""Class names and numbers, paths in files, and what is a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from visprompt.data.labelled.label_names import (
    class_names,
    image_path,
    is_ignored,
    is_image,
    numbered,
    part_of,
    require_directory,
    require_some,
)
from visprompt.errors import InvalidInputError, UnknownNameError


def test_names_from_a_list_a_file_or_a_count(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\n dog \n")
    (tmp_path / "names.json").write_text('["cat", "dog"]')
    for names in (["cat", "dog"], tmp_path / "names.txt", str(tmp_path / "names.json")):
        assert class_names(names, "here") == ("cat", "dog")
    assert class_names("2", "here") == class_names(2, "here") == ("class 1", "class 2")
    assert class_names(None, "here") is None


@pytest.mark.parametrize("names", [0, [1, 2], {"a": 1}, True])
def test_names_that_are_none(names: Any) -> None:
    with pytest.raises(InvalidInputError, match="here"):
        class_names(names, "here")


@pytest.mark.parametrize(
    ("values", "names", "numbers", "classes"),
    [
        (["10", "9", "9"], None, {"9": 0, "10": 1}, ("9", "10")),
        ([3, 7], None, {3: 0, 7: 1}, ("3", "7")),
        (["3.0", "7.0"], None, {"3.0": 0, "7.0": 1}, ("3", "7")),
        (["b", "a"], None, {"a": 0, "b": 1}, ("a", "b")),
        (["b"], ["a", "b"], {"b": 1}, ("a", "b")),
        ([0, 1], ["a", "b"], {0: 0, 1: 1}, ("a", "b")),
        ([1, 2], ["a", "b"], {1: 0, 2: 1}, ("a", "b")),
    ],
)
def test_numbers_of_labels(values: list[Any], names: Any, numbers: dict[Any, int], classes: tuple[str, ...]) -> None:
    assert numbered(values, names, "here") == (numbers, classes)
    assert numbered(values[::-1], names, "here") == (numbers, classes)


def test_labels_that_are_none() -> None:
    with pytest.raises(InvalidInputError, match="labels mix numbers and names"):
        numbered([1, "cat"], None, "here")
    with pytest.raises(UnknownNameError, match=r"class \(in here\) 'dgo': did you mean 'dog'"):
        numbered(["dgo"], ["cat", "dog"], "here")
    with pytest.raises(InvalidInputError, match="label 5 is none of the 2 classes, 0 to 1"):
        numbered([0, 5], ["cat", "dog"], "here")
    with pytest.raises(InvalidInputError, match="name or number of one class"):
        numbered([None], None, "here")


def test_paths_in_files(tmp_path: Path) -> None:
    assert image_path(" a/b.png ", tmp_path, "here") == tmp_path / "a/b.png"
    assert image_path("/x/b.png", tmp_path, "here") == Path("/x/b.png")
    assert image_path("a\\b.png", tmp_path, "here") == tmp_path / "a/b.png"
    for text in ("", None, 3, "https://x/b.png"):
        with pytest.raises(InvalidInputError, match="here"):
            image_path(text, tmp_path, "here")


def test_a_folder_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    require_some([tmp_path / "b.png", tmp_path / "a.png"], "here", "Look.")
    with pytest.raises(InvalidInputError, match=r"none of the images exists, for example .*b\.png.* Look\."):
        require_some([tmp_path / "b.png"], "here", "Look.")
    assert require_directory(tmp_path, "a folder is needed") == tmp_path
    with pytest.raises(InvalidInputError, match="is a file; a folder is needed"):
        require_directory(tmp_path / "a.png", "a folder is needed")
    with pytest.raises(InvalidInputError, match="there is no folder"):
        require_directory(tmp_path / "x", "a folder is needed")


def test_words_for_splits_and_files() -> None:
    assert [part_of(word, "here") for word in ("Train", "dev", "VAL", "test")] == [
        "train",
        "validation",
        "validation",
        "test",
    ]
    with pytest.raises(InvalidInputError, match="a split is train"):
        part_of("other", "here")
    assert is_image("a.JPG")
    assert not is_image("a.txt")
    assert is_ignored(".DS_Store")
    assert not is_ignored("a.png")
