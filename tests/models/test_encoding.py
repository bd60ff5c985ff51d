"""Encodings taken apart and put together."""

from __future__ import annotations

import torch

from visprompt.models.encoding import Encoding


def encoding(count: int, patches: int, seed: int) -> Encoding:
    """Random numbers of two blocks' attention, one block's contributions, and features."""
    draw = torch.Generator().manual_seed(seed)
    return Encoding(
        torch.rand(count, 4, generator=draw),
        {block: torch.rand(count, 2, patches, generator=draw) for block in (0, 3)},
        {3: torch.rand(count, patches, 5, generator=draw)},
        torch.rand(count, patches, 5, generator=draw),
    )


def test_rows_are_taken_from_everything() -> None:
    whole = encoding(3, 6, 0)
    some = whole.take(torch.tensor([2, 0]))
    assert torch.equal(some.embeddings, whole.embeddings[[2, 0]])
    assert torch.equal(some.attention[3], whole.attention[3][[2, 0]])
    assert torch.equal(some.contributions[3], whole.contributions[3][[2, 0]])
    assert some.features is not None
    assert whole.features is not None
    assert torch.equal(some.features, whole.features[[2, 0]])


def test_fewer_patches_are_filled_up_with_zeros() -> None:
    small, large = encoding(1, 4, 1), encoding(2, 6, 2)
    both = Encoding.joined([small, large], torch.tensor([1, 0, 2]))
    assert both.attention[0].shape == (3, 2, 6)
    assert torch.equal(both.attention[0][1, :, :4], small.attention[0][0])
    assert not both.attention[0][1, :, 4:].any()
    assert torch.equal(both.attention[0][0], large.attention[0][0])
    assert both.features is not None
    assert small.features is not None
    assert torch.equal(both.features[1, :4], small.features[0])
    assert not both.features[1, 4:].any()


def test_without_features_there_are_none() -> None:
    plain = [Encoding(torch.ones(1, 2)), Encoding(torch.zeros(1, 2))]
    joined = Encoding.joined(plain, torch.tensor([1, 0]))
    assert joined.features is None
    assert joined.embeddings.tolist() == [[0, 0], [1, 1]]
