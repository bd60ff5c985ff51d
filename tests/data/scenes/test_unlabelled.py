"""Generated images without labels: drawn when they are asked for, apart for every part and seed."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from visprompt.data.scenes.unlabelled import SIZES, generated


def test_parts_have_the_sizes_that_are_asked_for() -> None:
    splits = generated()
    parts = {name: getattr(splits, name) for name in SIZES}
    assert {name: len(part) for name, part in parts.items()} == SIZES
    assert {part.kind for part in parts.values()} == {"images"}
    small = generated((48, 32), seed=3, sizes={"train": 2, "validation": 0, "test": 1})
    assert (len(small.train), small.validation) == (2, None)
    assert small.train.image(0).size == (48, 32)
    assert small.protocol.startswith("Generated scenes of 48×32 pixels, seed 3")


def test_an_image_depends_on_seed_part_and_number_alone() -> None:
    def pixels(seed: int, part: str, number: int) -> bytes:
        return np.asarray(getattr(generated(seed=seed), part).image(number)).tobytes()

    keys = [(seed, part, number) for seed in (0, 1) for part in ("train", "test") for number in (0, 1)]
    assert len({pixels(*key) for key in keys}) == len(keys)
    assert pixels(1, "test", 1) == pixels(1, "test", 1)


def test_they_can_be_sent_to_another_process() -> None:
    data = generated(sizes={"train": 1, "validation": 0, "test": 0}).train
    again = pickle.loads(pickle.dumps(data))
    assert np.array_equal(np.asarray(again.image(0)), np.asarray(data.image(0)))


def test_the_place_that_it_had_gives_it_with_a_warning() -> None:
    from visprompt.data.labelled import unlabelled

    with pytest.warns(DeprecationWarning, match=r"generated has moved to visprompt\.data\.scenes\.unlabelled"):
        assert unlabelled.generated is generated
    with pytest.raises(AttributeError, match="no attribute 'degenerated'"):
        _ = unlabelled.degenerated
