"""From images to inputs: each image is prepared once, with its geometry, and the caches are bounded."""

from __future__ import annotations

import pickle
import threading

import pytest
import torch
from helpers import noise, wrapped_tiny
from torchvision.transforms.functional import to_tensor

import visprompt as vp
from visprompt.models import preprocessing
from visprompt.models.preprocessing import ImagePixels, ImageReader, Processed, Transformed, pixels_of


@pytest.fixture(scope="module")
def model() -> vp.Model:
    return wrapped_tiny("transformers-clip")


@pytest.fixture
def reader(model: vp.Model) -> ImageReader:
    return model.parts.reader


def test_an_image_is_prepared_once(reader: ImageReader, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    plain = Processed.__call__
    monkeypatch.setattr(Processed, "__call__", lambda self, item: calls.append(item) or plain(self, item))
    cache, one = ImagePixels(), noise((80, 60))
    reader.geometry(one.size, "model")
    calls.clear()
    first = reader.one(one, "model", cache)
    assert reader.one(one, "model", cache) is first
    assert len(calls) == 1
    assert reader.one(one, "pad", cache) is not first
    assert reader.one(one.copy(), "model", cache) is not first


def test_inputs_are_remembered_for_the_last_images() -> None:
    cache, kept = ImagePixels(most=2), [noise((80, 60), seed=seed) for seed in range(3)]
    for number, item in enumerate(kept):
        cache.put(item, "model", {"pixel_values": torch.tensor(number)})
    assert cache.get(kept[0], "model") is None
    assert [int(cache.get(item, "model")["pixel_values"]) for item in kept[1:]] == [1, 2]  # type: ignore[index]
    assert cache.get(kept[1], "pad") is None


def test_an_image_that_is_gone_is_not_mistaken_for_another() -> None:
    cache, one = ImagePixels(), noise((80, 60))
    cache.put(one, "model", {})
    other = noise((80, 60), seed=1)
    cache._items[(id(other), "model")] = cache._items[(id(one), "model")]  # as if it had got the other one's id
    assert cache.get(other, "model") is None


def test_the_memory_of_geometries_is_bounded(model: vp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "_MAX_SIZES", 5)
    old = model.parts.reader
    reader = ImageReader(old.processor, old._read, old._as_image, old.patch_size)
    found = [reader.geometry((width, 90), "model") for width in range(100, 112)]
    assert len(reader._geometries) == 5
    assert reader.geometry((111, 90), "model") is found[-1]
    assert reader.geometry((100, 90), "model") == found[0]


def test_it_can_be_sent_to_processes(reader: ImageReader) -> None:
    before = reader.geometry((80, 60), "pad")
    again = pickle.loads(pickle.dumps(reader))
    assert len(again._geometries) == 0
    assert again.geometry((80, 60), "pad") == before
    assert torch.equal(
        again.one(noise((80, 60)), "model")["pixel_values"], reader.one(noise((80, 60)), "model")["pixel_values"]
    )


def test_many_threads(model: vp.Model) -> None:
    old = model.parts.reader
    reader = ImageReader(old.processor, old._read, old._as_image, old.patch_size)
    sizes = [(90 + width, 80) for width in range(8)]
    found: list[list[object]] = []

    def work() -> None:
        found.append([reader.geometry(size, "squash") for size in sizes])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(item == found[0] for item in found)


def test_images_of_one_input_size_go_together() -> None:
    reader = ImageReader(None, Transformed(to_tensor), pixels_of, (16, 16))
    images = [noise((80, 64)), noise((48, 96)), noise((80, 64), seed=1)]
    assert reader.same_shape([(item, "model") for item in images], ImagePixels()) == [[0, 2], [1]]


def test_inputs_have_the_models_type(model: vp.Model) -> None:
    items = [(noise((80, 60)), "model"), (noise((80, 60), seed=1), "squash")]
    half = type("Half", (), {"device": torch.device("cpu"), "dtype": torch.bfloat16})
    batch = model.parts.reader.inputs(items, half)  # type: ignore[arg-type]
    assert batch["pixel_values"].dtype == torch.bfloat16
    assert len(batch["pixel_values"]) == 2
