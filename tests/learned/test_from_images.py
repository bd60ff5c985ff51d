"""Learning without labels: which images are taken, and what cannot be learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import visprompt as vp
from visprompt.data.labelled.dataset import Labelled, Splits
from visprompt.data.labelled.unlabelled import unlabelled
from visprompt.testing import conformance


def images(count: int, first: int = 0) -> list[Image.Image]:
    return [conformance.image((48, 40), seed) for seed in range(first, first + count)]


def splits(data: Any, **options: Any) -> Splits:
    prompter: Any = vp.Prompter.from_name("patch")
    found: Splits = prompter.splits(conformance.wrapped("timm-vit")[1], data, **options)
    return found


def test_a_list_gives_a_fifth_to_validation() -> None:
    found = splits(images(10))
    assert (len(found.train), len(found.validation or ())) == (8, 2)
    assert found.test is None
    assert found.train.kind == "images"
    assert found.describe() == splits(images(10)).describe()
    assert found.describe() != splits(images(10), seed=1).describe()


def test_labels_are_not_looked_at() -> None:
    labelled = Labelled([(one, number % 2) for number, one in enumerate(images(10))], ("a", "b"), name="two")
    found = splits(labelled)
    assert (len(found.train), len(found.validation or ()), found.train.kind) == (8, 2, "images")
    both = splits(Splits(labelled, labelled, None, "as given"))
    assert (len(both.train), len(both.validation or ()), both.train.kind) == (10, 10, "images")


def test_a_folder_is_read(tmp_path: Path) -> None:
    for number, one in enumerate(images(10)):
        one.save(tmp_path / f"{number}.png")
    found = splits(str(tmp_path))
    parts = [part for part in (found.train, found.validation, found.test) if part is not None]
    assert sum(map(len, parts)) == 10


def test_without_data_scenes_are_generated_as_large_as_the_input() -> None:
    found = splits(None)
    height, width = conformance.wrapped("timm-vit")[1].geometry((64, 64)).tiles[0].input_hw
    assert found.train.image(0).size == (width, height)
    assert np.array_equal(np.asarray(found.train.image(0)), np.asarray(splits(None).train.image(0)))


def test_other_data_are_refused() -> None:
    with pytest.raises(vp.InvalidInputError, match=r"a folder, a list of images, Splits or Labelled.*got int"):
        splits(3)


@pytest.mark.parametrize(
    ("sweep", "refused"),
    [({"place": ["rim"]}, True), ({"scale": [1.0, 2.0]}, True), ({"opacity": [0.5, 1.0]}, False), ({}, False)],
)
def test_options_of_use_are_not_swept(sweep: dict[str, Any], refused: bool) -> None:
    prompter: Any = vp.Prompter.from_name("patch")
    if refused:
        with pytest.raises(vp.InvalidInputError, match="says how a patch is used; every value would learn the same"):
            prompter.require_learnable(sweep)
    else:
        prompter.require_learnable(sweep)


def test_it_is_measured_on_the_part_that_is_there() -> None:
    model = conformance.wrapped("timm-vit")[1]
    prompter: Any = vp.Prompter.from_name("patch", size=2.0)
    prompter.build(model)
    one, other = unlabelled(images(6), name="one"), unlabelled(images(6, 50), name="other")
    of_test = prompter.evaluate(model, Splits(other, other, one, "three parts"), batch_size=6)
    assert of_test == prompter.evaluate(model, one, batch_size=6)
    assert of_test == prompter.evaluate(model, Splits(other, one, None, "two parts"), batch_size=6)
    assert of_test != prompter.evaluate(model, Splits(other, None, None, "one part"), batch_size=6)
