"""A learned patch keeps its attention gain on the way to the model: from a float in the model's input to 8 bits in a
image of another size, in a file, through the model's own processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from visprompt.benchmarks.patch_survival import FILES, Way, as_file, learn

import visprompt as vp
from visprompt.data.scenes.unlabelled import generated

COUNT = 32
#: sides of the image: 64 is the model's own
SIZES = [(48, 48), (64, 64), (100, 100), (224, 224), (500, 500), (160, 100), (90, 210)]


@pytest.fixture(scope="module")
def model() -> Any:
    return vp.load_model("bundled:scenes-clip")


@pytest.fixture(scope="module")
def patch(model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """As it was learned, in floating point, and from its file."""
    data = generated(sizes={"train": 320, "validation": 24, "test": 0})
    folder = str(tmp_path_factory.mktemp("patch"))
    return learn(model, folder, data, epochs=2, batch_size=8, lr=0.005, progress=False)


def way(model: Any, wh: tuple[int, int], size: float, **options: Any) -> Way:
    data = generated(wh, seed=71, sizes={"train": 1, "validation": 0, "test": COUNT}).test
    assert data is not None
    return Way(model, [data.image(number) for number in range(COUNT)], size, **options)


@pytest.mark.parametrize("wh", SIZES, ids=lambda wh: f"{wh[0]}x{wh[1]}")
def test_the_gain_stays_within_a_tenth(model: Any, patch: tuple[Any, Any], wh: tuple[int, int]) -> None:
    learned, saved = patch
    found = way(model, wh, learned.options.size).compared(learned, saved)
    assert found.direct > 0.5, "nothing to keep: the patch draws no attention"
    assert found.count == COUNT
    assert 0.97 < found.low <= found.kept <= found.high < 1.03  # a tenth is asked for, 0.002 was measured


@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_also_when_the_whole_image_is_fitted(model: Any, patch: tuple[Any, Any], fit: Any) -> None:
    learned, saved = patch
    found = way(model, (160, 90), learned.options.size, fit=fit).compared(learned, saved)
    assert found.direct > 0.5
    assert 0.9 < found.low <= found.kept <= found.high < 1.1


def test_a_jpeg_of_a_common_quality_keeps_it_where_it_has_the_pixels(model: Any, patch: tuple[Any, Any]) -> None:
    learned, saved = patch
    found = way(model, (224, 224), learned.options.size).compared(learned, saved, "JPEG 90")
    assert 0.9 < found.kept < 1.1


@pytest.mark.parametrize(("factor", "tokens_aside"), [(0.5, 0.0), (1.0, 1.0)])
def test_a_patch_of_another_size_or_place_is_noticed(
    model: Any, patch: tuple[Any, Any], factor: float, tokens_aside: float
) -> None:
    """What the bound above is worth."""
    learned, saved = patch
    ways = way(model, (100, 100), learned.options.size)
    direct, before = ways.direct(learned).mean(), ways.used().mean()
    other: Any = vp.Prompter.from_name("patch", size=factor * learned.options.size)
    other.parameters, other.backbone = saved.parameters, saved.backbone
    far = tokens_aside * ways.tiles[0].patch_hw[1] / ways.tiles[0].scale_xy[0]
    inwards = [far if box.x0 + box.x1 < 100 else -far for box in ways.boxes]
    ways.boxes = [vp.Box(b.x0 + by, b.y0, b.x1 + by, b.y1) for b, by in zip(ways.boxes, inwards, strict=True)]
    ratio = (ways.used(other).mean() / before - 1) / (direct / before - 1)
    assert ratio < 0.9


def test_the_two_ways_see_the_same_unmarked_image(model: Any, patch: tuple[Any, Any]) -> None:
    learned, _ = patch
    ways = way(model, (100, 100), learned.options.size)
    unseen: Any = vp.Prompter.from_name("patch", opacity=0.0)
    unseen.parameters, unseen.backbone = learned.parameters, learned.backbone
    assert ways.direct(unseen) == pytest.approx(ways.used(), rel=1e-4)


def test_files_are_what_they_say() -> None:
    image = generated(seed=3, sizes={"train": 1, "validation": 0, "test": 0}).train.image(0)
    assert np.array_equal(np.asarray(as_file(image)), np.asarray(image))
    far = [np.abs(np.asarray(as_file(image, kind)).astype(int) - np.asarray(image)).mean() for kind in FILES]
    assert 0 == far[0] < far[1] < far[2]
