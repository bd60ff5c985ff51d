"""Maps that a processor's settings state, against re-derivations by hand."""

from __future__ import annotations

import pytest
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

from visprompt.geometry.analytic import InputMap, analytic, fingerprint, mean_rgb


@pytest.mark.parametrize("wh", [(640, 480), (480, 640), (300, 300)])
def test_resize_and_crop(wh: tuple[int, int]) -> None:
    found = analytic(Compose([Resize(112), CenterCrop(112)]), wh)
    assert found is not None
    short = min(wh)
    resized = tuple(112 if side == short else int(112 * side / short) for side in wh)
    assert found.scale_xy == pytest.approx((resized[0] / wh[0], resized[1] / wh[1]))
    assert found.offset_xy == tuple(-round((side - 112) / 2) for side in resized)
    assert found.input_hw == (112, 112)


def test_a_squash_has_no_offset() -> None:
    assert analytic(Compose([Resize((96, 64)), ToTensor()]), (128, 48)) == InputMap((0.5, 2.0), (0.0, 0.0), (96, 64))


def test_an_unknown_step_states_nothing() -> None:
    assert analytic(Compose([Resize(112), lambda image: image]), (640, 480)) is None
    assert analytic(object(), (640, 480)) is None


def test_one_map_after_another() -> None:
    first, then = InputMap((0.5, 0.25), (3.0, 4.0), (8, 8)), InputMap((2.0, 3.0), (1.0, -1.0), (20, 20))
    both = then.after(first.scale_xy, first.offset_xy)
    x, y = 10.0, 20.0
    once = (x * 0.5 + 3.0, y * 0.25 + 4.0)
    assert (x * both.scale_xy[0] + both.offset_xy[0], y * both.scale_xy[1] + both.offset_xy[1]) == (
        once[0] * 2.0 + 1.0,
        once[1] * 3.0 - 1.0,
    )
    assert both.input_hw == (20, 20)


def test_the_colour_that_becomes_zero() -> None:
    assert mean_rgb(Compose([ToTensor(), Normalize((0.5, 0.25, 1.0), (1, 1, 1))])) == (128, 64, 255)
    assert mean_rgb(Compose([ToTensor(), Normalize((0.5,), (1,))])) == (128, 128, 128)
    assert mean_rgb(Compose([ToTensor(), Normalize((110.0, 100.0, 90.0), (1, 1, 1))])) == (124, 116, 104)
    assert mean_rgb(object(), default=(1, 2, 3)) == (1, 2, 3)


def test_a_fingerprint_changes_with_the_settings() -> None:
    assert fingerprint(Compose([Resize(112)])) == fingerprint(Compose([Resize(112)]))
    assert fingerprint(Compose([Resize(112)])) != fingerprint(Compose([Resize(113)]))
