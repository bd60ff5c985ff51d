"""Recomputed rows see the same keys as in the model's own kernel."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import visprompt as vp
from visprompt.attention.masks import mask_rows

ROWS = torch.tensor([0, 2])


def module(kernel: str, causal: bool | None = None) -> Any:
    made: Any = nn.Identity()
    made.config = SimpleNamespace(_attn_implementation=kernel)
    if causal is not None:
        made.is_causal = causal
    return made


def seen(
    kernel: str, mask: Any = None, queries: int = 3, keys: int = 3, causal: bool | None = None, **more: Any
) -> Any:
    query, key = torch.zeros(2, 1, queries, 4), torch.zeros(2, 1, keys, 4)
    return mask_rows(module(kernel, causal), mask, ROWS[queries > ROWS], query, key, more)


def test_rows_of_a_mask() -> None:
    mask = torch.randn(2, 1, 3, 3)
    assert torch.equal(seen("sdpa", mask), mask[:, :, [0, 2]])
    everywhere = torch.randn(2, 1, 1, 5)
    assert torch.equal(seen("sdpa", everywhere), everywhere[..., :3])


@pytest.mark.parametrize(("kernel", "causal"), [("sdpa", False), ("eager", True)])
def test_without_a_mask_all_is_seen(kernel: str, causal: bool) -> None:
    assert seen(kernel, causal=causal) is None


def test_a_causal_kernel_needs_no_mask() -> None:
    assert seen("sdpa", causal=True)[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 1]]
    assert seen("sdpa", is_causal=False, causal=True) is None
    # flash attention counts from the last key, torch's kernel from the first
    assert seen("flash_attention_2", keys=4, causal=True)[0, 0].int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_flash_attentions_window_and_padding() -> None:
    window = seen("flash_attention_2", causal=True, sliding_window=2)
    assert window[0, 0].int().tolist() == [[1, 0, 0], [0, 1, 1]]
    padding = torch.tensor([[0, 1, 1], [1, 1, 1]])
    padded = seen("flash_attention_2", padding, causal=True)
    assert padded[0, 0].int().tolist() == [[0, 0, 0], [0, 1, 1]]
    assert padded[1, 0].int().tolist() == [[1, 0, 0], [1, 1, 1]]


def test_masks_that_are_programs_are_refused() -> None:
    with pytest.raises(vp.UnsupportedError, match="flex_attention"):
        seen("flex_attention", mask=object())
