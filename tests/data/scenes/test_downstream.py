"""The downstream sets: true labels, balanced classes, splits apart, everything a function of its seed."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from visprompt.data.labelled.dataset import Labelled
from visprompt.data.scenes import downstream as sets
from visprompt.data.scenes.downstream import DOWNSTREAM, LEAD, SIZES, downstream
from visprompt.data.scenes.world import SHAPES, Scene, scene
from visprompt.errors import InvalidInputError, UnknownNameError, UnsupportedError

DRAWN = ("leftmost", "count", "segment")


def made(name: str, split: str = "train", count: int | None = 24, seed: int = 0) -> Labelled:
    if name == "digits":
        pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    return downstream(name, split, count=count, seed=seed)


def pixels(data: Labelled) -> list[bytes]:
    return [data.image(i).tobytes() for i in range(len(data))]


def source(data: Labelled, index: int) -> Scene:
    """The scene that an item shows, with its objects; the item must show just that."""
    make, *arguments = data.items[index][0].args
    found: Scene = make(*arguments)
    assert np.array_equal(np.asarray(data.image(index)), found.image)
    return found


@pytest.mark.parametrize("name", DOWNSTREAM)
def test_an_item_depends_on_name_split_seed_and_index_only(name: str) -> None:
    long, short = made(name), made(name, count=10)
    assert pixels(long)[:10] == pixels(short)
    for i in range(10):
        assert np.array_equal(long.label(i), short.label(i))
    assert pixels(made(name, seed=1)) != pixels(long)
    assert long.describe() == made(name).describe() != made(name, seed=1).describe()


@pytest.mark.parametrize("name", DOWNSTREAM)
def test_splits_and_sets_share_no_image(name: str) -> None:
    seen = [set(pixels(made(name, split))) for split in SIZES]
    assert all(len(one) == 24 for one in seen)
    assert len(set.union(*seen)) == 72


def test_sets_share_no_image_with_each_other_or_with_scenes() -> None:
    seen = [{scene(seed, "train", index=i).image.tobytes() for i in range(24)} for seed in range(6)]
    seen += [set(pixels(made(name))) for name in DRAWN]
    assert len(set.union(*seen)) == 9 * 24


@pytest.mark.parametrize("name", DOWNSTREAM)
def test_images_are_rgb_of_64_pixels_and_items_can_be_pickled(name: str) -> None:
    data = made(name, count=2)
    image = data.image(0)
    assert (image.mode, image.size) == ("RGB", (64, 64))
    again = pickle.loads(pickle.dumps(data.items))
    assert again[1][0]().tobytes() == data.items[1][0]().tobytes()
    assert data.kind == ("segmentation" if name == "segment" else "classification")


@pytest.mark.parametrize("name", ["leftmost", "count"])
@pytest.mark.parametrize("count", [None, 13])
def test_any_first_items_are_balanced(name: str, count: int | None) -> None:
    data = downstream(name, "validation", count=count)
    tally = Counter(data.labels)
    assert len(data) == (200 if count is None else 13)
    assert set(tally) == set(range(len(data.classes)))
    assert max(tally.values()) - min(tally.values()) <= 1


def test_the_leftmost_shape_is_the_leftmost_objects_by_a_margin() -> None:
    data = made("leftmost", "test", count=64)
    sizes = set()
    for i in range(len(data)):
        first, *others = sorted(source(data, i).objects, key=lambda one: one.centre_xy[0])
        assert data.classes[data.labels[i]] == first.shape
        assert min(one.centre_xy[0] for one in others) - first.centre_xy[0] >= LEAD * 64
        sizes.add(1 + len(others))
    assert sizes == {2, 3}


def test_how_many_is_the_number_of_objects() -> None:
    data = made("count", "test", count=30)
    assert all(data.classes[data.labels[i]] == str(len(source(data, i).objects)) for i in range(len(data)))


def test_every_pixel_has_the_shape_that_is_seen_there() -> None:
    data = made("segment", "test", count=20)
    assert data.classes == ("background", *SHAPES)
    for i in range(len(data)):
        label, shown = data.label(i), source(data, i)
        assert isinstance(label, np.ndarray)
        assert label.shape == (64, 64)
        background = np.ones((64, 64), dtype=bool)
        for item in shown.objects:
            assert (label[item.mask] == data.classes.index(item.shape)).all()
            background &= ~item.mask
        assert (label[background] == 0).all()


def test_digits_are_divided_without_rest_in_their_proportions() -> None:
    parts = [made("digits", split, count=None) for split in SIZES]
    assert [len(one) for one in parts] == [800, 200, 797]
    assert len({known for one in parts for known in map(tiny, one.items)}) > 1790  # a few are written alike
    whole = Counter(label for one in parts for label in one.labels)
    assert sum(whole.values()) == 1797
    for one in parts:
        tally = Counter(one.labels)
        assert all(abs(tally[label] - n * len(one) / 1797) <= 1.5 for label, n in whole.items())
    with pytest.raises(InvalidInputError, match="from 1 to 797"):
        downstream("digits", "test", count=798)


def tiny(item: tuple[object, object]) -> bytes:
    grey: NDArray[np.uint8] = item[0].args[0]  # type: ignore[attr-defined]
    return grey.tobytes()


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(UnsupportedError, match=r"pip install .*\[digits\]"):
        downstream("digits")


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'leftmost'"):
        downstream("left-most")
    with pytest.raises(UnknownNameError, match="validation"):
        downstream("count", "val")
    with pytest.raises(InvalidInputError, match="count of 1 or more, got 0"):
        downstream("count", count=0)
    with pytest.raises(InvalidInputError, match="seed >= 0"):
        downstream("segment", seed=-1)


def test_every_set_is_a_function_of_its_name() -> None:
    assert set(DOWNSTREAM) <= set(sets.__all__)
    assert downstream("count", "test", count=3).describe() == sets.count("test", count=3).describe()
