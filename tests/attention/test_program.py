"""Programs of one site: selecting and reordering changes positions, not effects."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

import visprompt as vp
from visprompt.attention.program import SiteProgram, scatter, widen
from visprompt.attention.site_tensors import site_tensors

N, HEADS, ROWS, PATCHES, KEYS, PREFIX, WIDTH = 3, 2, 2, 5, 7, 1, 4


def full(seed: int = 0) -> SiteProgram:
    """A program with every tensor, two rows at 0 and 3."""
    torch.manual_seed(seed)
    return SiteProgram(
        rows=torch.tensor([0, 3]),
        edited=torch.rand(N, HEADS, ROWS) > 0.3,
        bias=torch.randn(N, HEADS, ROWS, PATCHES),
        log_weights=torch.where(torch.arange(PATCHES) < 2, 0.0, float("-inf")).expand(N, HEADS, ROWS, -1).clone(),
        target=torch.rand(N, HEADS, ROWS) * 0.5 + 0.4,
        temperature=torch.rand(N, HEADS, ROWS) + 0.5,
        gain=torch.randn(N, HEADS, ROWS),
        responsive=torch.rand(N) * 0.1,
        reference=torch.randn(N, HEADS, ROWS, WIDTH),
    )


def run(program: SiteProgram, logits: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return program.run(logits, value, PREFIX)[0]


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(N, HEADS, ROWS, KEYS, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def value() -> torch.Tensor:
    return torch.randn(N, HEADS, KEYS, WIDTH, generator=torch.Generator().manual_seed(2))


def test_every_tensor_says_what_its_axes_are() -> None:
    """Only row positions have no axes that are reordered."""
    positions = {"rows", "read_rows", "decompose_rows"}
    tensors = {item.name for item in fields(SiteProgram) if "Tensor" in str(item.type)}
    assert tensors - positions == set(site_tensors(SiteProgram))
    sizes = {"stream": N, "head": HEADS, "row": ROWS, "patch": PATCHES, "channel": WIDTH}
    program = full()
    for name, tensor in site_tensors(SiteProgram).items():
        item = getattr(program, name)
        assert item is None or list(item.shape) == [sizes[axis] for axis in tensor.axes], name


def test_some_streams(logits: torch.Tensor, value: torch.Tensor) -> None:
    index = torch.tensor([2, 0, 2])
    taken = run(full().take(index), logits[index], value[index])
    assert torch.equal(taken, run(full(), logits, value)[index])


def test_one_stream_for_many(logits: torch.Tensor, value: torch.Tensor) -> None:
    one = full().take(torch.tensor([1]))
    many = run(one.repeated(N), logits, value)
    apart = [run(one, logits[i : i + 1], value[i : i + 1]) for i in range(N)]
    torch.testing.assert_close(many, torch.cat(apart))


def test_some_rows(logits: torch.Tensor, value: torch.Tensor) -> None:
    """All tensors with a row axis are sliced, including the weights of a target mass."""
    chosen = torch.tensor([1])
    part = full().at_rows(chosen, torch.tensor([3]), None)
    torch.testing.assert_close(run(part, logits[:, :, 1:], value), run(full(), logits, value)[:, :, 1:])


def test_more_rows(logits: torch.Tensor, value: torch.Tensor) -> None:
    wide = full().with_rows([0, 2, 3])
    assert not wide.edited[:, :, 1].any()
    more = torch.stack((logits[:, :, 0], torch.randn(N, HEADS, KEYS), logits[:, :, 1]), dim=2)
    assert torch.equal(wide.apply_to_logits(more, PREFIX)[:, :, 1], more[:, :, 1])
    torch.testing.assert_close(run(wide, more, value)[:, :, [0, 2]], run(full(), logits, value))
    assert full().with_rows([0, 3]).bias is not None


def test_streams_become_rows() -> None:
    single = SiteProgram(
        rows=torch.tensor([0]), edited=torch.ones(N, HEADS, 1, dtype=torch.bool), bias=torch.randn(N, 1, 1, PATCHES)
    )
    folded = single.folded(torch.tensor([[0, 1], [2, 2]]))
    assert folded.rows.tolist() == [0, 1]
    assert torch.equal(folded.bias[0, 0], single.bias[:2, 0, 0])
    assert torch.equal(folded.bias[1, 0], single.bias[[2, 2], 0, 0])


def test_what_is_per_stream_cannot_become_a_row() -> None:
    single = full().at_rows(torch.tensor([0]), torch.tensor([0]), None)
    with pytest.raises(vp.UnsupportedError, match="responsive is not given by rows"):
        single.folded(torch.tensor([[0, 1]]))


def test_columns_may_stand_anywhere() -> None:
    item = torch.arange(1.0, 4.0).reshape(1, 1, 1, 3)
    assert widen(item, 2, 6, 0.0).flatten().tolist() == [0, 0, 1, 2, 3, 0]
    assert scatter(item, torch.tensor([[4, -1, 0]]), 5, 9.0).flatten().tolist() == [3, 9, 9, 9, 1]
    with pytest.raises(vp.InvalidInputError, match="window"):
        widen(item, 2, 4, 0.0)


def test_what_it_needs() -> None:
    nothing = SiteProgram(rows=torch.tensor([0]), edited=torch.zeros(1, 1, 1, dtype=torch.bool), read=True)
    assert nothing.reads_mean
    needs = (nothing.edits, nothing.needs_outputs, nothing.needs_head_outputs, nothing.needs_reference)
    assert not any(needs)
    program = full()
    assert program.edits
    assert program.needs_head_outputs
    assert program.needs_reference
    warm = SiteProgram(
        rows=torch.arange(4), edited=torch.ones(1, 1, 4, dtype=torch.bool), temperature=torch.full((1, 1, 1), 2.0)
    )
    assert warm.is_tempering(4)
    assert not warm.is_tempering(5)
    assert not warm.needs_head_outputs
