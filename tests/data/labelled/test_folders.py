"""Folders of labelled data: the layouts that people have, and what is said when they have another."""

import os
import sys
from pathlib import Path

import pytest
from helpers import file_names, quietly, saved_images

from visprompt.data.labelled.label_names import numbered
from visprompt.data.labelled.splits import load_splits
from visprompt.errors import InvalidInputError

posix = pytest.mark.skipif(os.name == "nt", reason="links and colons")


class TestFolder:
    def test_class_folders(self, tmp_path: Path) -> None:
        root = saved_images(tmp_path / "pets", *(f"{name}/{n}.PnG" for name in ("dog", "cat") for n in range(5)))
        saved_images(root, "cat/deeper/still/9.jpeg", "dog/9.JPG")
        splits = quietly(root)
        assert splits.train.classes == ("cat", "dog")
        assert (len(splits.train), len(splits.validation or ()), splits.test) == (10, 2, None)
        assert splits.protocol == (
            "Train is the folder pets, a folder per class; validation is 0.2 of it, drawn with seed 0, in the "
            "proportions of the classes; no test part."
        )
        whole = quietly(root, validation=0)
        assert (whole.validation, len(whole.train)) == (None, 12)
        assert whole.train.labels == [0] * 6 + [1] * 6
        assert whole.train.check() is whole.train

    @pytest.mark.parametrize("held", ["val", "valid", "validation", "Val", "dev"])
    def test_parts(self, tmp_path: Path, held: str) -> None:
        saved_images(tmp_path, "train/a/1.png", "train/b/2.png", f"{held}/b/3.png", "test/a/4.png")
        splits = quietly(tmp_path)
        assert file_names(splits.train) == ["1.png", "2.png"]
        assert file_names(splits.validation) == ["3.png"]
        assert splits.validation is not None
        assert splits.validation.labels == [1]
        assert file_names(splits.test) == ["4.png"]
        assert held in splits.protocol

    def test_no_validation_folder(self, tmp_path: Path) -> None:
        saved_images(tmp_path, *(f"train/{name}/{n}.png" for name in "ab" for n in range(5)), "test/a/9.png")
        splits = quietly(tmp_path, validation=0.4, seed=5)
        assert (len(splits.train), len(splits.validation or ()), len(splits.test or ())) == (6, 4, 1)
        assert "0.4 of it, drawn with seed 5" in splits.protocol

    def test_rubbish_is_passed_over_and_others_are_named(self, tmp_path: Path) -> None:
        saved_images(tmp_path, "a/1.png", "b/2.png", "a/._1.png", ".git/x.png", "__MACOSX/a/1.png", "a/@eaDir/1.png")
        for name in (".DS_Store", "a/Thumbs.db", "b/desktop.ini"):
            (tmp_path / name).write_text("x")
        assert file_names(quietly(tmp_path, validation=0).train) == ["1.png", "2.png"]
        (tmp_path / "a" / "notes.txt").write_text("x")
        (tmp_path / "b" / "clip.mp4").write_text("x")
        with pytest.warns(UserWarning, match=r"2 files are no image and left out, the first: .*notes\.txt"):
            load_splits(tmp_path, validation=0)

    def test_an_empty_class(self, tmp_path: Path) -> None:
        saved_images(tmp_path, "a/1.png", "b/2.png")
        (tmp_path / "c").mkdir()
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "1.heic").write_text("x")
        with pytest.raises(InvalidInputError, match=r"2 folders of classes have no images: c, d \(\.heic\)"):
            load_splits(tmp_path)

    def test_one_class(self, tmp_path: Path) -> None:
        saved_images(tmp_path, "a/1.png")
        with pytest.raises(InvalidInputError, match="one class only, 'a': there is nothing to tell apart"):
            load_splits(tmp_path, validation=0)

    def test_the_folder_around_it(self, tmp_path: Path) -> None:
        saved_images(tmp_path, "pets/a/1.png", "pets/b/2.png")
        with pytest.raises(InvalidInputError, match=r"one class only, 'pets'.* Is '.*pets' the data set"):
            load_splits(tmp_path)

    def test_loose_images(self, tmp_path: Path) -> None:
        saved_images(tmp_path, "1.png", "2.png")
        with pytest.raises(InvalidInputError, match="2 images and no folders: every class is a folder"):
            load_splits(tmp_path)
        saved_images(tmp_path, "a/1.png", "b/1.png")
        with pytest.warns(UserWarning, match="2 images lie in .* outside of the folders of classes"):
            load_splits(tmp_path, validation=0)

    def test_an_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="no folders and no images"):
            load_splits(tmp_path)

    def test_a_class_called_test_or_train(self, tmp_path: Path) -> None:
        saved_images(tmp_path / "x", "test/1.png", "exam/1.png")
        assert quietly(tmp_path / "x", validation=0).train.classes == ("exam", "test")
        saved_images(tmp_path / "y", "train/1.png", "bus/1.png")
        assert quietly(tmp_path / "y", validation=0).train.classes == ("bus", "train")

    def test_parts_that_are_none(self, tmp_path: Path) -> None:
        saved_images(tmp_path / "no-train", "val/a/1.png", "test/a/1.png")
        with pytest.raises(InvalidInputError, match="has test, val and no folder train"):
            load_splits(tmp_path / "no-train")
        saved_images(tmp_path / "two", "train/a/1.png", "val/a/1.png", "valid/a/1.png")
        with pytest.raises(InvalidInputError, match="two folders for validation: val and valid"):
            load_splits(tmp_path / "two")
        saved_images(tmp_path / "flat", "train/1.png", "test/1.png")
        with pytest.raises(InvalidInputError, match="has no folders of classes"):
            load_splits(tmp_path / "flat")

    def test_a_test_folder_without_labels(self, tmp_path: Path) -> None:
        saved_images(tmp_path, "train/a/1.png", "train/b/1.png", "test/1.png", "extra/2.png")
        with pytest.warns(UserWarning, match="left out") as caught:
            assert load_splits(tmp_path, validation=0).test is None
        said = [str(one.message) for one in caught]
        assert any("beside test, train there are extra" in one for one in said)
        assert any("no folders of classes, so its images have no labels" in one for one in said)

    def test_a_class_of_the_test_part_alone(self, tmp_path: Path) -> None:
        saved_images(tmp_path, "train/a/1.png", "train/b/1.png", "test/B/2.png")
        with pytest.warns(UserWarning, match="1 class of the test part has no image to learn from: 'B'"):
            assert load_splits(tmp_path, validation=0).train.classes == ("B", "a", "b")

    def test_accents_of_two_systems(self, tmp_path: Path) -> None:
        saved_images(tmp_path, "train/caf\u00e9/1.png", "train/b/1.png", "test/cafe\u0301/2.png")
        splits = quietly(tmp_path, validation=0)
        assert splits.train.classes == ("b", "caf\u00e9")
        assert splits.test is not None
        assert splits.test.labels == [1]
        assert splits.test.image(0).size == (20, 18)

    @posix
    def test_links(self, tmp_path: Path) -> None:
        saved_images(tmp_path / "store", "1.png", "2.png")
        root = saved_images(tmp_path / "root", "a/0.png", "b/0.png")
        (root / "a" / "1.png").symlink_to(tmp_path / "store" / "1.png")
        (root / "c").symlink_to(tmp_path / "store")
        (root / "a" / "loop").symlink_to(root / "a")
        splits = quietly(root, validation=0)
        assert file_names(splits.train) == ["0.png", "1.png", "0.png", "1.png", "2.png"]
        (root / "b" / "gone.png").symlink_to(tmp_path / "nothing.png")
        with pytest.raises(InvalidInputError, match=r"1 item cannot be used:\n.*gone\.png"):
            load_splits(root, validation=0).train.check()

    @posix
    def test_one_file_in_two_parts(self, tmp_path: Path) -> None:
        saved_images(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/2.png")
        (tmp_path / "test" / "a" / "1.png").symlink_to(tmp_path / "train" / "a" / "1.png")
        with pytest.warns(
            UserWarning, match=r"1 file is in train and in test, the first: .*Figures on test are too good"
        ):
            load_splits(tmp_path, validation=0)

    @pytest.mark.parametrize("validation", [-0.1, 1, 2])
    def test_wrong_share(self, tmp_path: Path, validation: float) -> None:
        with pytest.raises(InvalidInputError, match="validation is a share"):
            load_splits(tmp_path, validation=validation)


def test_labels_are_numbered_the_same_in_any_order() -> None:
    assert numbered([3, 1, 2, 1], None, "x") == numbered([1, 2, 3], None, "x") == ({1: 0, 2: 1, 3: 2}, ("1", "2", "3"))
    assert numbered(["b", "a"], None, "x") == ({"a": 0, "b": 1}, ("a", "b"))
    assert numbered(["1", "x"], None, "x")[1] == ("1", "x")  # texts, of which one looks like a number
    with pytest.raises(InvalidInputError, match="label 5 is none of the 3 classes, 0 to 2"):
        numbered([0, 5], 3, "x")


@pytest.mark.parametrize(
    ("mark", "format"),
    [
        ("train800val200.txt", "vtab"),
        ("train.json", "fgvc"),
        ("annotations/training/1.png", "ade20k"),
        ("state.json", "hf"),
    ],
)
def test_folders_of_other_formats_are_not_guessed(tmp_path: Path, mark: str, format: str) -> None:
    saved_images(tmp_path, "a/1.png", "b/1.png", mark)
    with pytest.raises(InvalidInputError, match=f"so it may be {format}: say so with format='{format}'"):
        load_splits(tmp_path)


def test_home_and_tabs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME" if os.name != "nt" else "USERPROFILE", str(tmp_path))
    saved_images(tmp_path, "pets/a/1.png", "pets/b/1.png")
    assert len(quietly("~/pets", validation=0).train) == 2
    (tmp_path / "pets" / "t.tsv").write_text("image\tlabel\na/1.png\ta\nb/1.png\tb\n")
    assert quietly(tmp_path / "pets" / "t.tsv", validation=0).train.check()


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems have names in Unicode only")
@posix
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    saved_images(tmp_path, "a/1.png", "b/1.png")
    odd = os.fsencode(str(tmp_path / "a")) + b"/\xff.png"
    os.link(os.fsencode(str(tmp_path / "a" / "1.png")), odd)
    splits = quietly(tmp_path, validation=0)
    assert len(splits.train.check()) == 3
    assert splits.describe()["train"]["n"] == 3
