"""CUB-200-2011's parts: files as they are published, and what is said when they are damaged."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visprompt.data.referring.cub import FILES, read_cub
from visprompt.errors import InvalidInputError, UnknownNameError
from visprompt.tasks.data_sources import load_data

CONTENT = {
    "images.txt": "1 001.Albatross/a_1.jpg\n2 001.Albatross/b_2.jpg\n3 002.Auklet/c_3.jpg\n",
    "train_test_split.txt": "1 0\n2 1\n3 0\n",
    "image_class_labels.txt": "1 1\n2 1\n3 2\n",
    "bounding_boxes.txt": "1 6.0 2.0 30.0 20.0\n2 1.0 1.0 8.0 8.0\n3 0.0 0.0 40.0 30.0\n",
    "parts/parts.txt": "1 back\n2 beak\n7 left eye\n11 right eye\n",
    "parts/part_locs.txt": (
        "1 1 0.0 0.0 0\n1 2 12.5 6.0 1\n1 7 14.0 5.0 1\n1 11 16.0 5.0 1\n"
        "2 1 3.0 3.0 1\n2 2 0.0 0.0 0\n2 7 0.0 0.0 0\n2 11 0.0 0.0 0\n"
        "3 1 20.0 15.0 1\n3 2 0.0 0.0 0\n3 7 0.0 0.0 0\n3 11 0.0 0.0 0\n"
    ),
}


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    root = tmp_path / "CUB_200_2011"
    (root / "parts").mkdir(parents=True)
    for name, content in CONTENT.items():
        (root / name).write_text(content)
    for line in CONTENT["images.txt"].splitlines():
        path = root / "images" / line.split()[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), "grey").save(path)
    return root


def test_the_test_split_and_its_visible_parts(cub: Path) -> None:
    first, second = read_cub(cub)
    assert first.names == ("beak", "left eye", "right eye")
    np.testing.assert_array_equal(first.points_xy, [[12.5, 6.0], [14.0, 5.0], [16.0, 5.0]])
    assert first.ids == ("1/beak", "1/left eye", "1/right eye")
    assert first.image == cub / "images" / "001.Albatross" / "a_1.jpg"
    assert first.extra == {"class": 1, "bird_xyxy": (6.0, 2.0, 36.0, 22.0)}
    assert (second.id, second.names) == ("3", ("back",))
    np.testing.assert_allclose(first.candidates_xyxy[0], [11.0, 4.5, 14.0, 7.5])  # 5 % of 30 pixels around it


def test_other_splits_and_merged_sides(cub: Path) -> None:
    assert [one.id for one in read_cub(cub, "train")] == ["2"]
    assert [one.id for one in read_cub(cub, "all")] == ["1", "2", "3"]
    (first, _) = read_cub(cub, merge_sides=True)
    assert first.names == ("beak", "eye", "eye")
    assert len(set(first.ids)) == 3
    with pytest.raises(UnknownNameError, match="test"):
        read_cub(cub, "tets")


def test_birds_without_a_visible_part_are_told(cub: Path) -> None:
    path = cub / "parts" / "part_locs.txt"
    path.write_text(path.read_text().replace("3 1 20.0 15.0 1", "3 1 0.0 0.0 0"))
    problems: list[str] = []
    assert [one.id for one in read_cub(cub, problems=problems)] == ["1"]
    assert problems == [f"{cub}: 1 of 2 birds have no visible part."]
    path.write_text(path.read_text().replace(" 1\n", " 0\n"))
    with pytest.raises(InvalidInputError, match="no part is visible in any image of 'test'"):
        read_cub(cub)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("images.txt", lambda text: text.replace("2 001.", "2, 001."), r"images\.txt, line 2: expected image_id path"),
        ("images.txt", lambda text: text + "3 twice.jpg\n", r"line 4: number 3 stands in the file twice"),
        ("images.txt", lambda _: "\n", r"images\.txt is empty"),
        ("train_test_split.txt", lambda text: text.replace("2 1", "2 7"), r"split\.txt, line 2: .*\(0 or 1\)"),
        ("train_test_split.txt", lambda text: text[:-4], r"nothing about 1 of the 3 images.*the first: 3"),
        ("train_test_split.txt", lambda text: text + "9 1\n", r"line 4: image 9 is not in images\.txt"),
        (
            "image_class_labels.txt",
            lambda text: text.replace("3 2", "3 two"),
            r"labels\.txt, line 3: expected",
        ),
        (
            "bounding_boxes.txt",
            lambda text: text.replace("30.0 20.0", "30.0 0.0"),
            r"line 1: .*with an area",
        ),
        ("bounding_boxes.txt", lambda text: text.replace("8.0 8.0", "nan 8.0"), r"boxes\.txt, line 2"),
        ("parts/parts.txt", lambda text: text.replace("2 beak", "beak"), r"parts\.txt, line 2: expected part_id name"),
        (
            "parts/parts.txt",
            lambda text: text.replace("2 beak\n", ""),
            r"locs\.txt, line 2: part 2 is not",
        ),
        (
            "parts/part_locs.txt",
            lambda text: text.replace("12.5 6.0 1", "12.5 6.0"),
            r"locs\.txt, line 2: expected",
        ),
        ("parts/part_locs.txt", lambda text: text.replace("12.5", "inf"), r"line 2: expected finite coordinates"),
        ("parts/part_locs.txt", lambda text: text.replace("14.0", "here"), r"locs\.txt, line 3: .*visible \(0 or 1\)"),
        ("parts/part_locs.txt", lambda text: text.replace("3.0 3.0 1", "3.0 3.0 2"), r"locs\.txt, line 5"),
        ("parts/part_locs.txt", lambda text: text.replace("2 2 0.0", "2 1 0.0"), r"line 6: part 1 of image 2 stands"),
        ("parts/part_locs.txt", lambda text: text + "8 1 0 0 0\n", r"line 13: image 8 is not in images\.txt"),
        ("parts/part_locs.txt", lambda _: "\x00\xff", r"line 1: expected image_id part_id x y visible"),
    ],
)
def test_damaged_files(cub: Path, name: str, change: Callable[[str], str], message: str) -> None:
    (cub / name).write_text(change(CONTENT[name]))
    with pytest.raises(InvalidInputError, match=message):
        read_cub(cub)


@pytest.mark.parametrize("name", FILES)
def test_missing_files_and_other_bytes(cub: Path, name: str) -> None:
    (cub / name).write_bytes(b"1 \xff\xfe 0\n")
    with pytest.raises(InvalidInputError, match="not UTF-8"):
        read_cub(cub)
    (cub / name).unlink()
    with pytest.raises(InvalidInputError, match=r"cannot read .*as it is published"):
        read_cub(cub)


def test_as_a_source(cub: Path, tmp_path: Path) -> None:
    data = load_data({"source": "cub"}, annotations=cub)
    assert [one.id for one in data.images] == ["1", "3"]
    assert load_data({"source": "cub", "folder": cub.name}, annotations=tmp_path).images[0].image == (
        cub / "images" / "001.Albatross" / "a_1.jpg"
    )
    merged = load_data({"source": "cub", "merge_sides": True}, annotations=cub)
    assert merged.identity["hash"] != data.identity["hash"]
    locations = cub / "parts" / "part_locs.txt"
    locations.write_text(locations.read_text().replace("12.5", "13.5"))
    assert load_data({"source": "cub"}, annotations=cub).identity["hash"] != data.identity["hash"]
    with pytest.raises(InvalidInputError, match="give CUB_200_2011 with --annotations"):
        load_data({"source": "cub"}, annotations=tmp_path)
    with pytest.raises(InvalidInputError, match="merge_sides is true or false"):
        load_data({"source": "cub", "merge_sides": "yes"}, annotations=cub)
    with pytest.raises(InvalidInputError, match="no folder of images"):
        load_data({"source": "cub"}, images=tmp_path / "nowhere", annotations=cub)
