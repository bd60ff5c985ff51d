"""Labelled data sets: what they hold, how they are divided, and what is said of items that cannot be used."""

import pickle
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import numbered
from PIL import Image

from visprompt.data.labelled.dataset import Labelled, Splits
from visprompt.data.labelled.items import ShiftedMask
from visprompt.data.labelled.splits import load_splits
from visprompt.errors import InvalidInputError, UnknownNameError


def image(path: Path, wh: tuple[int, int] = (24, 20), mode: str = "RGB", **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, wh).save(path, **more)  # type: ignore[arg-type]
    return path


def made(wh: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", wh, (9, 9, 9))


def broken() -> Image.Image:
    raise OSError("no such tape")


class TestImages:
    @pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16", "LA"])
    def test_every_mode_becomes_rgb(self, tmp_path: Path, mode: str) -> None:
        path = image(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), mode=mode)
        found = Labelled([(path, 0)], ["c"]).image(0)
        assert (found.mode, found.size) == ("RGB", (24, 20))

    def test_exif_rotation_is_applied(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        path = image(tmp_path / "a.jpg", exif=exif)
        assert Labelled([(path, 0)], ["c"]).image(0).size == (20, 24)

    def test_paths_images_arrays_and_functions(self, tmp_path: Path) -> None:
        path = image(tmp_path / "日本 é.JPG", format="JPEG")
        sources = [path, str(path), made((24, 20)), np.zeros((20, 24), np.uint8), partial(made, (24, 20))]
        data = Labelled([(source, 0) for source in sources], ["c"])
        assert {data.image(n).size for n in range(len(data))} == {(24, 20)}

    def test_nothing_is_opened_for_labels(self) -> None:
        data = Labelled([("missing.jpg", 1), (broken, np.int64(0))], ["a", "b"])
        assert data.labels == [1, 0]
        assert (data.label(0), type(data.label(1))) == (1, int)

    def test_failures_name_the_image(self, tmp_path: Path) -> None:
        data = Labelled([(tmp_path / "no.jpg", 0), (broken, 0)], ["c"], name="set")
        with pytest.raises(InvalidInputError, match=r"there is no file .*no\.jpg"):
            data.image(0)
        with pytest.raises(InvalidInputError, match=r"image 1 of set: .*OSError: no such tape"):
            data.image(1)


class TestLabels:
    @pytest.mark.parametrize(
        ("label", "said"),
        [
            (3, "label 3 is none of the 2 classes, 0 to 1"),
            (-1, "label -1"),
            (True, "no bool"),
            ("a", "no str"),
            (1.0, "no float"),
        ],
    )
    def test_classes(self, label: object, said: str) -> None:
        with pytest.raises(InvalidInputError, match=said):
            Labelled([("a.jpg", 0), ("b.jpg", label)], ["a", "b"])
        with pytest.warns(UserWarning, match=r"1 item left out:\n  b\.jpg"):
            data = Labelled([("a.jpg", 0), ("b.jpg", label)], ["a", "b"], on_bad="skip")
        assert len(data) == 1

    def test_the_first_ten_are_named_and_all_counted(self) -> None:
        with pytest.raises(InvalidInputError) as caught:
            Labelled([(f"{n}.jpg", 9) for n in range(25)], ["a"])
        assert str(caught.value).count(".jpg") == 10
        assert "25 items cannot be used" in str(caught.value)
        assert "… and 15 more" in str(caught.value)

    def test_answers(self) -> None:
        data = Labelled([("a.jpg", ["what?", "a cat"])], (), kind="answers")
        assert data.label(0) == ("what?", "a cat")
        assert data.ignore_index is None
        with pytest.raises(InvalidInputError, match="no class per image"):
            _ = data.labels
        with pytest.raises(InvalidInputError, match="a question and its answer"):
            Labelled([("a.jpg", "a cat")], (), kind="answers")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"items": [], "classes": ["a"]}, "has no items"),
            ({"items": [("a", 0)], "classes": []}, "names of its classes"),
            ({"items": [("a", 0)], "classes": ["a", "b", "a"]}, "two classes are called 'a'"),
            ({"items": ["a.jpg"], "classes": ["a"]}, "item 0 is 'a.jpg'"),
            ({"items": [("a", 0)], "classes": ["a"], "on_bad": "ignore"}, "refuse"),
            (
                {"items": [("a", "m")], "classes": ["a"] * 1, "kind": "segmentation", "ignore_index": 0},
                "also the number",
            ),
            ({"items": [("a", 0)], "classes": ["a"], "kind": "segmentation"}, "a label is a mask"),
        ],
    )
    def test_wrong_arguments(self, arguments: dict, said: str) -> None:
        with pytest.raises(InvalidInputError, match=said):
            Labelled(**arguments)

    def test_unknown_kind(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'segmentation'"):
            Labelled([("a", 0)], ["a"], kind="segmentations")  # type: ignore[arg-type]


class TestMasks:
    def data(self, mask: object, count: int = 3, **more: object) -> Labelled:
        return Labelled([(made((4, 3)), mask)], [f"c{n}" for n in range(count)], kind="segmentation", **more)  # type: ignore[arg-type]

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, bool])
    def test_arrays(self, dtype: type) -> None:
        mask = np.eye(3, 4).astype(dtype)
        np.testing.assert_array_equal(self.data(mask).label(0), mask)

    @pytest.mark.parametrize("mode", ["L", "P", "I;16"])
    def test_files_and_images(self, tmp_path: Path, mode: str) -> None:
        values = np.array([[0, 1, 2, 255]] * 3, np.uint16 if mode == "I;16" else np.uint8)
        image = Image.fromarray(values)
        if mode == "P":
            image.putpalette([(7 * n) % 256 for n in range(768)])
            assert image.mode == "P"
        image.save(tmp_path / "m.png")
        for source in (tmp_path / "m.png", image, partial(Image.open, tmp_path / "m.png")):
            np.testing.assert_array_equal(self.data(source).label(0), values)

    def test_shifted(self, tmp_path: Path) -> None:
        Image.fromarray(np.array([[0, 1, 150]], np.uint8)).save(tmp_path / "m.png")
        assert self.data(ShiftedMask(str(tmp_path / "m.png")), 150).label(0).tolist() == [[255, 0, 149]]  # type: ignore[union-attr]

    def test_numbers_that_are_no_classes(self) -> None:
        with pytest.raises(InvalidInputError, match=r"class numbers 3, 7; there are 3 classes, 0 to 2, and 255"):
            self.data(np.array([[3, 7, 255, 0]], np.uint8)).label(0)
        with pytest.raises(InvalidInputError, match="class numbers -1"):
            self.data(np.array([[-1]])).label(0)
        assert self.data(np.array([[-100]]), ignore_index=-100).label(0) is not None

    @pytest.mark.parametrize(
        ("mask", "said"),
        [
            (np.zeros((3, 4, 3), np.uint8), r"shape \(3, 4, 3\)"),
            (np.zeros((3, 4)), "dtype float64"),
            (Image.new("RGB", (4, 3)), "in colours"),
            ("missing.png", "there is no mask 'missing.png'"),
            (broken, "OSError"),
        ],
    )
    def test_wrong_masks(self, mask: object, said: str) -> None:
        with pytest.raises(InvalidInputError, match=said):
            self.data(mask).label(0)

    def test_a_jpeg_is_no_mask(self, tmp_path: Path) -> None:
        path = image(tmp_path / "m.jpg", mode="L")
        with pytest.raises(InvalidInputError, match="compression changes class numbers"):
            self.data(path).label(0)
        (tmp_path / "m.png").write_bytes(b"\x89PNG and nothing")
        with pytest.raises(InvalidInputError, match=r"m\.png.*cannot be read"):
            self.data(tmp_path / "m.png").label(0)


def test_an_item_is_its_image_and_its_label() -> None:
    items = [(image.size, label) for image, label in Labelled([(made((24, 20)), 1)], "ab")]
    assert items == [((24, 20), 1)]


class TestCheck:
    def items(self, folder: Path) -> list[tuple[object, int]]:
        good = image(folder / "good.jpg")
        cut = folder / "cut.jpg"
        whole = image(folder / "whole.jpg", (200, 200)).read_bytes()
        cut.write_bytes(whole[: len(whole) // 2])
        (folder / "text.png").write_text("no image")
        dot = image(folder / "dot.png", (1, 1))
        long = image(folder / "long.png", (2000, 20))
        paths = [good, cut, folder / "text.png", folder / "none.jpg", dot, long, folder]
        return [(path, 0) for path in paths]

    def test_refuse_names_what_and_why(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError) as caught:
            Labelled(self.items(tmp_path), ["c"], name="set").check(workers=2)
        said = str(caught.value)
        assert said.startswith("set: 6 items cannot be used")
        for expected in ("cut.jpg' is damaged", "text.png' is not an image", "none.jpg", "1×1", "50 to 1", "folder"):
            assert expected in said
        assert "good.jpg" not in said

    def test_skip_leaves_out(self, tmp_path: Path) -> None:
        calls = []
        data = Labelled(self.items(tmp_path), ["c"], on_bad="skip")
        with pytest.warns(UserWarning, match="6 items left out"):
            kept = data.check(workers=1, progress=lambda done, of: calls.append((done, of)))
        assert [Path(name).name for name in kept.files()] == ["good.jpg"]
        assert calls == [(n, 7) for n in range(1, 8)]

    def test_whoever_stops_it_does_not_wait(self) -> None:
        opened = []

        def slow(number: int) -> Image.Image:
            opened.append(number)
            time.sleep(0.005)
            return made((24, 20))

        def stop(done: int, of: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Labelled([(partial(slow, n), 0) for n in range(300)], ["c"]).check(workers=1, progress=stop)
        assert len(opened) < 300

    def test_a_good_set_is_handed_back(self, tmp_path: Path) -> None:
        data = Labelled([(image(tmp_path / "a.png"), 0)], ["c"])
        assert data.check() is data

    def test_masks_of_another_size(self, tmp_path: Path) -> None:
        data = Labelled(
            [(made((20, 30)), np.zeros((20, 30), np.uint8)), (made((20, 30)), np.zeros((9, 9), np.uint8))],
            ["a", "b"],
            kind="segmentation",
        )
        with pytest.raises(InvalidInputError) as caught:
            data.check()
        assert "30×20 pixels, and its image is 20×30. It may have been drawn on the image before" in str(caught.value)
        assert "9×9 pixels" in str(caught.value)

    def test_nothing_left(self, tmp_path: Path) -> None:
        data = Labelled([(tmp_path / "none.jpg", 0)], ["c"], on_bad="skip")
        with pytest.warns(UserWarning, match="1 item"), pytest.raises(InvalidInputError, match="no item is left"):
            data.check()


class TestDescribe:
    def test_the_same_in_another_folder_and_another_with_other_labels(self, tmp_path: Path) -> None:
        def described(folder: Path, label: int = 1) -> str:
            items = [(folder / "a" / "x.jpg", 0), (folder / "b" / "y.jpg", label)]
            return Labelled(items, ["a", "b"], name="pets").describe()["sha256"]

        assert described(tmp_path / "here") == described(tmp_path / "there") != described(tmp_path / "here", 0)

    def test_images_in_memory_by_content(self) -> None:
        def described(value: int) -> dict:
            items = [(partial(made, (value, 20)), 0), (Image.new("L", (4, 4), value), 0), (np.full((2, 2), value), 0)]
            return Labelled(items, ["a"], name="m").describe()

        assert described(20) == described(20)
        assert described(20)["sha256"] != described(21)["sha256"]
        assert {key: described(20)[key] for key in ("name", "kind", "classes", "n")} == {
            "name": "m",
            "kind": "classification",
            "classes": 1,
            "n": 3,
        }

    def test_splits(self) -> None:
        data = numbered(6)
        told = Splits(data, None, data, "so").describe()
        assert (told["validation"], told["protocol"], told["test"]["n"]) == (None, "so", 6)


def test_can_be_sent_to_a_process() -> None:
    data = Labelled([(partial(made, (24, 20)), 0)], ["c"])
    assert pickle.loads(pickle.dumps(data)).image(0).size == (24, 20)


def test_import_is_light() -> None:
    code = "import visprompt.data.labelled.dataset, visprompt.data.labelled.splits, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("where", "format", "said"),
    [
        ("nowhere", None, "does not exist.*Formats: folder, csv, jsonl, vtab, fgvc, ade20k, hf, scenes"),
        ("nowhere", "folders", "did you mean 'folder'"),
        ("scenes:left", None, "did you mean 'leftmost'"),
    ],
)
def test_unknown_data(where: str, format: str | None, said: str) -> None:
    with pytest.raises((InvalidInputError, UnknownNameError), match=said):
        load_splits(where, format)


def test_bundled_questions() -> None:
    splits = load_splits("scenes:vqa-size", limit=6)
    assert splits.train.kind == "answers"
    question, answer = splits.train.label(0)  # type: ignore[misc]
    assert "small or large" in question
    assert answer in ("small", "large")


def test_bundled() -> None:
    splits = load_splits("scenes:count", limit=12)
    assert (len(splits.train), splits.train.kind) == (12, "classification")
    assert splits.validation is not None
    assert splits.test is not None
    assert splits.train.image(0).mode == "RGB"
    with pytest.raises(UnknownNameError, match="option of the format scenes"):
        load_splits("scenes:count", images="x")
