"""Images without labels: every way that people have them, and sets with labels whose labels are not looked at."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.labelled.test_hub import Image as ImageDataset
from tests.data.labelled.test_hub import Rows, Value, pets
from visprompt.data.labelled.dataset import Labelled, Splits
from visprompt.data.labelled.splits import load_splits
from visprompt.data.labelled.unlabelled import read_images, splits_without_labels, unlabelled, without_labels
from visprompt.errors import InvalidInputError, UnknownNameError


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 18)).save(path)
    return root


class TestKind:
    def test_a_set_of_its_own_kind(self) -> None:
        data = unlabelled(["a.jpg", "b.jpg", "c.jpg"], name="photos")
        assert (data.kind, data.classes, data.label(1)) == ("images", (), None)
        assert repr(data) == "Labelled(photos: 3 images without labels)"
        described = data.describe()
        assert (described["kind"], described["classes"], described["n"]) == ("images", 0, 3)
        assert data.describe() == unlabelled(["a.jpg", "b.jpg", "c.jpg"], name="photos").describe()
        assert described["sha256"] != unlabelled(["a.jpg", "b.jpg", "d.jpg"], name="photos").describe()["sha256"]
        with pytest.raises(InvalidInputError, match="photos has images without labels"):
            _ = data.labels

    def test_split_limited_and_joined(self) -> None:
        data = unlabelled([f"{n}.jpg" for n in range(10)])
        rest, held = data.split(0.3, seed=1)
        assert (len(rest), len(held), held.kind) == (7, 3, "images")
        assert sorted(rest.joined(held).files()) == sorted(data.files())
        assert len(data.limited(4)) == 4

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (([("a.jpg", 0)],), "has None for one; got 0"),
            (([("a.jpg", None)], ("cat",)), "no classes"),
            (([],), "has no items"),
        ],
    )
    def test_what_it_is_not(self, arguments: tuple[Any, ...], said: str) -> None:
        with pytest.raises(InvalidInputError, match=said):
            Labelled(*arguments, kind="images")

    def test_labels_are_dropped_and_a_image_counts_once(self) -> None:
        asked = Labelled(
            [("a.jpg", ("what?", "x")), ("a.jpg", ("who?", "y")), ("b.jpg", ("who?", "z"))], kind="answers"
        )
        found = without_labels(asked)
        assert (found.kind, found.files()) == ("images", ["a.jpg", "b.jpg"])
        masks = Labelled([(np.zeros((18, 20, 3), np.uint8), np.zeros((18, 20), np.uint8))], ("a",), kind="segmentation")
        assert without_labels(masks).image(0).size == (20, 18)
        assert without_labels(found) is found

    def test_splits_say_that_labels_are_not_used(self) -> None:
        splits = Splits(Labelled([("a.jpg", 0), ("b.jpg", 1)], ("x", "y")), None, None, "As given.")
        found = splits_without_labels(splits)
        assert (found.train.kind, found.protocol) == ("images", "As given. Labels are not used.")
        assert splits_without_labels(found) is found


class TestFolders:
    def test_all_that_lies_below(self, tmp_path: Path) -> None:
        tree(tmp_path / "photos", "a.JPG", "cats/b.png", "cats/kittens/c.webp", ".hidden/d.png")
        (tmp_path / "photos" / "notes.txt").write_text("no image")
        splits = load_splits(tmp_path / "photos", labels=False, validation=0)
        assert sorted(Path(path).name for path in splits.train.files()) == ["a.JPG", "b.png", "c.webp"]
        assert splits.train.name == "photos"
        assert "photos and 2 folders in it, whose names are not looked at" in splits.protocol

    def test_a_validation_part_is_split_off(self, tmp_path: Path) -> None:
        tree(tmp_path, *(f"{n}.png" for n in range(10)))
        splits = load_splits(tmp_path, labels=False, seed=3)
        again = load_splits(tmp_path, labels=False, seed=3)
        assert splits.validation is not None
        assert (len(splits.train), len(splits.validation)) == (8, 2)
        assert splits.describe() == again.describe()
        assert "0.2 of it, drawn with seed 3;" in splits.protocol

    def test_folders_of_parts(self, tmp_path: Path) -> None:
        tree(tmp_path, "train/x/a.png", "train/b.png", "val/c.png", "test/d.png", "test/e.png", "more/f.png", "g.png")
        with pytest.warns(UserWarning, match=r"what lies beside it is left out: g\.png, more"):
            splits = load_splits(tmp_path, "folder", labels=False)
        assert [len(part or ()) for part in (splits.train, splits.validation, splits.test)] == [2, 1, 2]

    def test_one_image_is_learned_from(self, tmp_path: Path) -> None:
        path = tree(tmp_path, "a.png") / "a.png"
        for where in (path, tmp_path):
            splits = load_splits(where, labels=False)
            assert (len(splits.train), splits.validation) == (1, None)
            assert "no validation part" in splits.protocol

    def test_nothing_in_it(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="no images in it or in the folders below, but no files"):
            read_images(tmp_path)
        (tmp_path / "film.mp4").touch()
        with pytest.raises(InvalidInputError, match=r"files of other kinds \(\.mp4\).*\.jpg"):
            load_splits(tmp_path, labels=False)
        with pytest.raises(InvalidInputError, match="an image, a folder with images"):
            load_splits(tmp_path / "film.mp4", labels=False)
        with pytest.raises(InvalidInputError, match="does not exist"):
            load_splits(tmp_path / "nowhere", labels=False)

    def test_what_would_be_a_labelled_format_is_a_folder_of_images(self, tmp_path: Path) -> None:
        tree(tmp_path, "images/a.png", "images/b.png", "more/c.png")
        (tmp_path / "train.json").write_text("{}")
        with pytest.raises(InvalidInputError, match="it may be fgvc"):
            load_splits(tmp_path)
        assert len(load_splits(tmp_path, labels=False, validation=0).train) == 3


class TestTables:
    def test_a_column_of_images_is_enough(self, tmp_path: Path) -> None:
        tree(tmp_path, "a.png", "b.png", "c.png")
        file = tmp_path / "all.csv"
        file.write_text("file,split\na.png,train\na.png,train\nb.png,val\nc.png,test\n")
        splits = load_splits(file, labels=False)
        assert [len(part or ()) for part in (splits.train, splits.validation, splits.test)] == [1, 1, 1]
        assert splits.train.kind == "images"
        with pytest.raises(InvalidInputError, match="no column label"):
            load_splits(file)

    def test_labels_are_not_looked_at(self, tmp_path: Path) -> None:
        tree(tmp_path, "a.png", "b.png")
        file = tmp_path / "all.jsonl"
        file.write_text('{"image": "a.png", "label": ""}\n{"image": "b.png", "label": [1]}\n')
        assert len(load_splits(file, labels=False, validation=0).train) == 2

    def test_options_about_labels(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="label='kind': labels are not read here"):
            load_splits(tmp_path / "all.csv", labels=False, label="kind")
        with pytest.raises(UnknownNameError, match="option of the format images"):
            load_splits(tmp_path, labels=False, column="x")


class TestHub:
    @pytest.fixture
    def hub(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        import types

        answers: dict[str, Any] = {}
        module: Any = types.ModuleType("datasets")
        module.__version__ = "4.0.0"
        module.load_dataset = lambda name, config=None, revision=None: answers[name]
        monkeypatch.setitem(sys.modules, "datasets", module)
        return answers

    def test_a_column_of_images_is_enough(self, hub: dict[str, Any]) -> None:
        images = [Image.new("RGB", (20, 18), (n, 0, 0)) for n in range(6)]
        hub["someone/photos"] = {
            "train": Rows({"image": ImageDataset(), "id": Value("int64")}, image=images, id=[0] * 6)
        }
        splits = load_splits("hf:someone/photos", labels=False)
        assert splits.validation is not None
        assert (splits.train.kind, len(splits.train), len(splits.validation)) == ("images", 5, 1)
        assert splits.train.image(0).size == (20, 18)
        with pytest.raises(InvalidInputError, match="no column declared as class labels"):
            load_splits("hf:someone/photos")

    def test_labels_are_not_looked_at(self, hub: dict[str, Any]) -> None:
        hub["someone/pets"] = {"train": pets(6), "test": pets(2)}
        splits = load_splits("hf:someone/pets", labels=False, validation=0)
        assert [len(part or ()) for part in (splits.train, splits.test)] == [6, 2]
        assert splits.train.classes == ()


def test_bundled_sets_without_their_labels() -> None:
    splits = load_splits("scenes:count", labels=False, limit=5)
    assert (splits.train.kind, len(splits.train)) == ("images", 5)
    assert "Labels are not used." in splits.protocol
