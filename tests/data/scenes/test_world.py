"""Scenes are reproducible, and everything said about them is true of the pixels."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from visprompt.data.scenes import world

KINDS = ("any", "hard", "position")
SIZES_WH = ((64, 64), (128, 128), (96, 64), (64, 160))


@pytest.mark.parametrize("kind", KINDS)
def test_same_arguments_give_the_same_scene(kind: world.Kind) -> None:
    first, second = (world.scene(5, "validation", kind=kind, index=3) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert first.captions == second.captions
    assert first.referring == second.referring


def test_images_stay_the_ones_the_models_were_trained_on() -> None:
    digest = hashlib.sha256()
    for kind in KINDS:
        for split in world.SPLITS:
            digest.update(" ".join(world.scene(1, split, kind=kind).captions).encode())
    assert digest.hexdigest()[:16] == "6b6d233c54d620d8"


def test_splits_seeds_and_indices_share_no_image() -> None:
    seen = set()
    for split in world.SPLITS:
        for seed in (0, 1):
            for scene in world.scenes(20, split, seed):
                seen.add(scene.image.tobytes())
    assert len(seen) == 3 * 2 * 20


@pytest.mark.parametrize("size_wh", SIZES_WH)
@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_the_extents_of_visible_masks(kind: world.Kind, size_wh: tuple[int, int]) -> None:
    for scene in world.scenes(15, "test", 1, kind=kind, size_wh=size_wh):
        assert scene.size_wh == size_wh
        assert scene.pil.size == size_wh
        assert scene.image.dtype == np.uint8
        together = np.sum([item.mask for item in scene.objects], axis=0)
        assert together.max() == 1, "visible masks overlap"
        for depth, item in enumerate(scene.objects):
            assert item.depth == depth
            rows, columns = np.nonzero(item.mask)
            assert item.box_xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert item.visible_fraction >= world.MIN_VISIBLE_FRACTION


def test_pixels_have_the_colour_that_the_object_is_said_to_have() -> None:
    palette = np.array(list(world.COLOUR_RGB.values()), dtype=float)
    for scene in world.scenes(30, "test", 2):
        for item in scene.objects:
            typical = np.median(scene.image[item.mask].astype(float), axis=0)
            nearest = int(np.linalg.norm(palette - typical, axis=1).argmin())
            assert world.COLOURS[nearest] == item.colour


def test_objects_overlap_sometimes_and_never_much() -> None:
    fractions = [item.visible_fraction for scene in world.scenes(100, hard=True) for item in scene.objects]
    assert 0.02 < np.mean(np.array(fractions) < 0.99) < 0.6


def test_hard_scenes_have_few_colours_few_shapes_and_a_unique_target() -> None:
    counts = set()
    for scene in world.scenes(120, "train", 4, hard=True):
        names = [item.name for item in scene.objects]
        counts.add(len(names))
        target = scene.objects[scene.target]
        others = [item for item in scene.objects if item is not target]
        assert len({item.colour for item in scene.objects}) <= 3
        assert len({item.shape for item in scene.objects}) <= 3
        assert names.count(target.name) == 1
        assert any(item.colour == target.colour or item.shape == target.shape for item in others)
        first = scene.referring[0]
        assert (first.text, first.target, first.kind) == (f"the {target.name}", scene.target, "attribute")
        assert first.box_xyxy == target.box_xyxy
        assert first.candidates == tuple(range(len(names)))
    assert counts == {3, 4, 5, 6}


@pytest.mark.parametrize("size_wh", SIZES_WH)
def test_position_expressions_are_true_of_the_target_and_false_of_its_twin(size_wh: tuple[int, int]) -> None:
    said = set()
    for scene in world.position_scenes(60, "test", 3, size_wh=size_wh):
        assert len(scene.referring) == 2
        for expression in scene.referring:
            target = scene.objects[expression.target]
            (twin,) = [item for item in scene.objects if item.name == target.name and item is not target]
            assert (twin.size, twin.radius_px) == (target.size, target.radius_px)
            side = expression.text.split()[-1]
            axis, sign = world.POSITIONS[side]
            said.add(side)
            half = size_wh[axis] / 2
            assert sign * (target.centre_xy[axis] - half) > 0.1 * size_wh[axis]
            assert sign * (twin.centre_xy[axis] - half) < -0.05 * size_wh[axis]
            assert expression.kind == "position"
            assert scene.objects.index(twin) in expression.candidates
    assert said == set(world.POSITIONS)


def test_captions_are_true() -> None:
    for scene in world.scenes(60, "train", 8):
        assert {f"a {item.name}" for item in scene.objects} <= set(scene.captions)
        for caption in scene.captions:
            words = caption.split()
            matching = [item for item in scene.objects if item.name == " ".join(words[1:3])]
            assert matching
            if len(words) > 3:
                axis, sign = world.POSITIONS[words[-1]]
                assert any(sign * (item.centre_xy[axis] / scene.size_wh[axis] - 0.5) > 0.05 for item in matching)


def test_all_names_are_the_64_pairs() -> None:
    names = world.all_names()
    assert len(names) == len(set(names)) == 64
    assert "red star" in names


def test_sequences_index_slice_and_iterate_alike() -> None:
    sequence = world.scenes(10, "validation", 2, hard=True)
    assert len(sequence) == 10
    assert np.array_equal(sequence[-1].image, sequence[9].image)
    assert [s.image.tobytes() for s in sequence[2:5]] == [s.image.tobytes() for s in sequence][2:5]
    with pytest.raises(IndexError):
        sequence[10]


@pytest.mark.parametrize("count", range(1, 7))
def test_the_number_of_objects_can_be_asked_for(count: int) -> None:
    assert len(world.scene(0, n_objects=count).objects) == count


def test_six_objects_fit_into_a_small_and_into_a_long_image() -> None:
    for size_wh in ((24, 24), (40, 300)):
        assert len(world.scene(1, size_wh=size_wh, n_objects=6).objects) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tset"}, "did you mean 'test'"),
        ({"kind": "tough"}, "unknown kind"),
        ({"kind": "any", "hard": True}, "contradicts"),
        ({"seed": -1}, "seed >= 0"),
        ({"size_wh": (10, 64)}, "at least 24"),
        ({"hard": True, "n_objects": 2}, "3 to 6 objects"),
        ({"n_objects": 7}, "1 to 6 objects"),
    ],
)
def test_wrong_arguments_are_refused_with_what_would_be_right(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        world.scene(**{"seed": 0, **arguments})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="number of scenes"):
        world.scenes(-1)


def test_importing_scenes_does_not_import_torch() -> None:
    code = "import sys, visprompt.data.scenes.world; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
