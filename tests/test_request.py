"""Requests: images are loaded once, regions are clipped, and errors name the request."""

from __future__ import annotations

import dataclasses
import gc
import pickle
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from visprompt.errors import InvalidInputError
from visprompt.request import POINT_RADIUS_SHARE, Box, Mask, Point, Request


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "photo.png"
    Image.new("RGB", (64, 48), "green").save(file)
    return file


def test_request_units(photo: Path) -> None:
    plain = Request(photo, query="what is it?")
    (unit,) = plain.units()
    assert (unit.regions, unit.query, unit.label) == ((), "what is it?", "none")
    assert unit.request is plain
    boxes = [Box(0, 0, 4, 4), Box(5, 5, 9, 9)]
    each = Request(photo, region=boxes).units()
    assert [unit.regions for unit in each] == [(boxes[0],), (boxes[1],)]
    assert each[0].image is each[1].image
    (together,) = Request(photo, region=boxes, regions_as="together").units()
    assert together.regions == tuple(boxes)


def test_clipping_warns_and_names_the_request(photo: Path) -> None:
    request = Request(photo, region=[Box(-5, 0, 10, 10), Box(1, 1, 2, 2)], id="q17")
    with pytest.warns(UserWarning, match=r"Request\('q17'.*beyond the image") as caught:
        regions = request.regions
    assert len(caught) == 1
    assert regions == (Box(0, 0, 10, 10), Box(1, 1, 2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert request.regions is regions  # told once
        assert Request(photo, region=Point(3, 3, radius=30)).regions


def test_point_with_its_centre_outside_warns(photo: Path) -> None:
    with pytest.warns(UserWarning, match="beyond the image"):
        assert Request(photo, region=Point(-2, 5, radius=8)).regions == (Point(-2, 5, radius=8),)


@pytest.mark.parametrize(
    "region", [Box(100, 100, 120, 120), Point(200, 5), Mask(np.ones((4, 4), bool)), np.ones((64, 48), bool)]
)
def test_region_outside_names_the_request(photo: Path, region: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"Request\('q17'.*photo\.png.*image"):
        _ = Request(photo, region=region, id="q17").regions


def test_malformed_region_is_refused_at_once() -> None:
    with pytest.raises(InvalidInputError, match=r"Request\('.*late\.jpg'\): .*inverted"):
        Request("late.jpg", region=(30, 10, 20, 40))


def test_unreadable_image_names_the_request(tmp_path: Path) -> None:
    request = Request(tmp_path / "nowhere.jpg", id=" x")
    with pytest.raises(InvalidInputError, match=r"Request\(' x'.*there is no file"):
        _ = request.pil_image


@pytest.mark.parametrize("arguments", [{"regions_as": "all"}, {"query": 7}, {"query": ["a", "b"]}])
def test_bad_arguments(photo: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        Request(photo, **arguments)


def test_web_address_is_not_fetched_unasked() -> None:
    with pytest.raises(InvalidInputError, match="allow_url=True"):
        _ = Request("http://127.0.0.1:9/image.png").pil_image


def test_repr_is_short_and_holds_no_pixels() -> None:
    array = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    request = Request(array, region=[np.ones((200, 300), bool)] * 30, query="why? " * 100, id="a")
    assert len(repr(request)) < 200
    assert "30 regions" in repr(request)
    assert "(200, 300, 3)" in repr(request)


def test_request_is_frozen_and_picklable(photo: Path) -> None:
    request = Request(photo, region=Box(0, 0, 4, 4), query="a", id="b")
    _ = request.pil_image
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.query = "c"  # type: ignore[misc]
    other = pickle.loads(pickle.dumps(request))
    assert (other.regions, other.query, other.id) == (request.regions, "a", "b")
    assert dataclasses.replace(request, query="c").regions == request.regions


def test_image_is_loaded_once_by_many_threads(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import visprompt.imaging.shared as module

    loads = []
    load = module.load_image
    monkeypatch.setattr(module, "load_image", lambda *args: loads.append(1) or load(*args))
    request = Request(photo)
    images: list[Image.Image] = []
    threads = [threading.Thread(target=lambda: images.append(request.pil_image)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert all(image is images[0] for image in images)


def test_requests_on_one_file_share_its_image_until_it_changes(photo: Path) -> None:
    first, second = Request(photo), Request(str(photo))
    assert first.pil_image is second.pil_image
    Image.new("RGB", (80, 10)).save(photo)
    assert Request(photo).pil_image.size == (80, 10)


def test_images_of_many_files_do_not_stay_in_memory(tmp_path: Path) -> None:
    requests = []
    for index in range(12):
        file = tmp_path / f"{index}.png"
        Image.new("RGB", (8, 8)).save(file)
        requests.append(Request(file))
    for request in requests:
        assert request.pil_image.size == (8, 8)
    gc.collect()
    alive = sum(request._cache["image 0"]() is not None for request in requests)
    assert alive <= 4


def test_default_radius_reaches_the_prompt(photo: Path) -> None:
    (unit,) = Request(photo, region=(30, 20)).units()
    assert unit.regions == (Point(30, 20, radius=POINT_RADIUS_SHARE * 48),)
