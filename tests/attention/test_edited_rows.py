"""Recomputed rows: in chunks if there are many, and written into the kernel's output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from visprompt.attention import edited_rows
from visprompt.attention.edited_rows import overwrite, run_rows
from visprompt.attention.program import SiteProgram
from visprompt.attention.sites import Site

N, HEADS, ROWS, KEYS, WIDTH = 2, 2, 6, 5, 4
SITE = Site("vision", 0, nn.Identity(), "transformers", HEADS, 1)


class Kept:
    """Stands in for a scope and records what it is given."""

    calls = 1

    def __init__(self) -> None:
        self.attention: list[Any] = []

    def keep(self, site: Any, program: Any, output: Any, attention: Any, value: Any) -> None:
        self.attention.append(attention)


def tensors() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(N, HEADS, length, WIDTH, generator=generator) for length in (ROWS, KEYS, KEYS))


def program(**more: Any) -> SiteProgram:
    """A target mass that differs from row to row."""
    weights = torch.full((N, 1, ROWS, KEYS - 1), float("-inf"))
    for row in range(ROWS):
        weights[:, :, row, row % (KEYS - 1)] = 0.0
    return SiteProgram(
        rows=torch.arange(ROWS),
        edited=torch.ones(N, HEADS, ROWS, dtype=torch.bool),
        log_weights=weights,
        target=torch.full((N, HEADS, ROWS), 0.9),
        **more,
    )


@pytest.mark.parametrize("most", [1, N * HEADS * KEYS * 2, 10**6])
@pytest.mark.parametrize("masked", [False, True])
def test_parts_give_the_same(monkeypatch: pytest.MonkeyPatch, most: int, masked: bool) -> None:
    mask = torch.ones(N, 1, ROWS, KEYS, dtype=torch.bool).tril(2) if masked else None
    whole = run_rows(Kept(), SITE, program(), *tensors(), 0.5, mask, {})  # type: ignore[arg-type]
    monkeypatch.setattr(edited_rows, "MOST_LOGITS", most)
    parts = run_rows(Kept(), SITE, program(), *tensors(), 0.5, mask, {})  # type: ignore[arg-type]
    torch.testing.assert_close(parts, whole)


def test_what_is_only_read_needs_no_outputs() -> None:
    kept = Kept()
    nothing = torch.zeros(N, HEADS, ROWS, dtype=torch.bool)
    reading = SiteProgram(rows=torch.arange(ROWS), edited=nothing, read=True)
    query, key, value = tensors()
    assert run_rows(kept, SITE, reading, query, key, value, 0.5, None, {}) is None  # type: ignore[arg-type]
    torch.testing.assert_close(kept.attention[0], (query @ key.transpose(-1, -2) * 0.5).softmax(-1))


@pytest.mark.parametrize(("row_dim", "head_dim"), [(2, 1), (1, 2)])
def test_what_is_not_edited_stays_bit_for_bit(row_dim: int, head_dim: int) -> None:
    edited = torch.zeros(N, HEADS, 2, dtype=torch.bool)
    edited[0, 1, 1] = True
    change = SiteProgram(rows=torch.tensor([1, 3]), edited=edited)
    own, new = torch.randn(N, HEADS, ROWS, WIDTH), torch.randn(N, HEADS, 2, WIDTH)
    if row_dim == 1:
        own, new = own.transpose(1, 2), new.transpose(1, 2)
    done = overwrite(own, new, change, row_dim, head_dim)
    expected = own.clone()
    at = (0, 1, 3) if row_dim == 2 else (0, 3, 1)
    expected[at] = new[(0, 1, 1)]
    assert torch.equal(done, expected)
    unedited = SiteProgram(rows=torch.tensor([1, 3]), edited=torch.zeros_like(edited))
    assert overwrite(own, new, unedited, row_dim, head_dim) is own
