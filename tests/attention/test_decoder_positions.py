"""Rows and columns in each call of a decoder: the whole prompt, chunks of it, and one token at a time."""

from __future__ import annotations

import pytest
import torch

import visprompt as vp
from visprompt.attention.decoder_positions import TokenPositions
from visprompt.attention.program import SiteProgram
from visprompt.attention.sites import Site

# Prompts of 6 tokens: one of padding, two of an image and three of text; two of an image and four of text.
COLUMNS = torch.tensor([[1, 2], [0, 1]])
IMAGES = torch.tensor([[0, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]], dtype=torch.bool)
PADDING = torch.tensor([[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
SITE = Site("decoder", 0, torch.nn.Identity(), "transformers", 1, 0)


@pytest.fixture
def timeline() -> TokenPositions:
    return TokenPositions(COLUMNS, IMAGES, PADDING)


def program(kind: str = "readout", **more: object) -> SiteProgram:
    return SiteProgram(
        rows=torch.tensor([0]),
        edited=torch.ones(2, 1, 1, dtype=torch.bool),
        bias=torch.ones(2, 1, 1, 2),
        kind=kind,  # type: ignore[arg-type]
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("readout", [[3, 4, 5], [2, 3, 4, 5]]),
        ("patches", [[1, 2], [0, 1]]),
        ("all", [[1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]),
        ("answer", [[5], [5]]),
        ((0, 2), [[1, 3], [0, 2]]),
    ],
)
def test_what_names_of_rows_mean(timeline: TokenPositions, kind: object, expected: list[list[int]]) -> None:
    rows = timeline.rows_of(kind)  # type: ignore[arg-type]
    assert [row.nonzero().flatten().tolist() for row in rows] == expected


def test_rows_that_are_not_there(timeline: TokenPositions) -> None:
    with pytest.raises(vp.InvalidInputError, match="shortest prompt"):
        timeline.rows_of((5,))
    with pytest.raises(vp.InvalidInputError, match="a decoder has no such rows"):
        timeline.rows_of("cls")


def test_the_whole_prompt_in_one_call(timeline: TokenPositions) -> None:
    laid_out = timeline.lay_out(SITE, program(), 2, 6, 6)
    assert laid_out.rows.tolist() == [2, 3, 4, 5]
    assert laid_out.edited[:, 0].tolist() == [[False, True, True, True], [True] * 4]
    assert torch.equal(laid_out.columns, COLUMNS)
    keys = laid_out.apply_to_logits(torch.zeros(2, 1, 4, 6), 0)
    assert keys[0, 0].tolist() == [[0] * 6, *[[0, 1, 1, 0, 0, 0]] * 3]
    assert keys[1, 0].tolist() == [[1, 1, 0, 0, 0, 0]] * 4


def test_then_one_token_at_a_time(timeline: TokenPositions) -> None:
    timeline.lay_out(SITE, program(), 2, 6, 6)
    for step in range(3):
        laid_out = timeline.lay_out(SITE, program(), 2, 1, 7 + step)
        assert laid_out.rows.tolist() == [0]
        assert laid_out.edited.all()
        assert torch.equal(laid_out.columns, COLUMNS)


def test_a_prompt_in_two_calls(timeline: TokenPositions) -> None:
    first = timeline.lay_out(SITE, program("answer"), 2, 4, 4)
    assert first.rows.tolist() == []
    second = timeline.lay_out(SITE, program("answer"), 2, 2, 6)
    assert second.rows.tolist() == [1]


def test_a_sliding_window_leaves_patches_behind(timeline: TokenPositions) -> None:
    timeline.lay_out(SITE, program(), 2, 6, 6)
    laid_out = timeline.lay_out(SITE, program(), 2, 1, 5)
    assert laid_out.columns.tolist() == [[-1, 0], [-1, -1]]


def test_beams_share_a_prompt(timeline: TokenPositions) -> None:
    laid_out = timeline.lay_out(SITE, program(), 4, 6, 6)
    assert laid_out.columns.tolist() == [[1, 2], [1, 2], [0, 1], [0, 1]]
    assert len(laid_out.bias) == 4  # type: ignore[arg-type]
    with pytest.raises(vp.UnsupportedError, match="num_beams=1"):
        TokenPositions(COLUMNS, IMAGES, PADDING).lay_out(SITE, program(read=True), 4, 6, 6)


def test_what_is_read_is_the_row_that_writes(timeline: TokenPositions) -> None:
    reading = program(read=True, read_kind="answer")
    prompt = timeline.lay_out(SITE, reading, 2, 6, 6)
    assert prompt.rows[prompt.read_rows].tolist() == [5]
    step = timeline.lay_out(SITE, reading, 2, 1, 7)
    assert step.rows[step.read_rows].tolist() == [0]
