"""Runs prompts through an encoder: `Model.encode`, and `Model.prompting` for training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from visprompt.attention.compiled import refuse_compiled
from visprompt.attention.engine import open_scope
from visprompt.attention.prefix_sharing import Sharing, sharing_of
from visprompt.attention.program import SiteProgram
from visprompt.attention.program_builder import compile_programs
from visprompt.attention.prompt_tokens import Insertion, groups_of
from visprompt.attention.scope import Enough
from visprompt.attention.sites import ReadRows, Site, Tower
from visprompt.errors import InvalidInputError, SiteNotReachedError, UnsupportedError
from visprompt.models.encoding import Encoding, collect
from visprompt.models.gain_reference import with_references
from visprompt.models.patch_features import Features, run_with
from visprompt.models.preprocessing import ImagePixels
from visprompt.models.site_checks import check_gradient
from visprompt.visual_prompt import Fit, VisualPrompt

if TYPE_CHECKING:
    from visprompt.models.base import Model


@dataclass(frozen=True)
class Kept:
    """The outputs that a run keeps besides the embeddings.

    Args:
        read: blocks whose attention is kept.
        decompose: blocks whose readout row is decomposed.
        read_rows: the rows whose attention `read` keeps.
        features: keep the patches' hidden states after the last block.
    """

    read: tuple[int, ...] = ()
    decompose: tuple[int, ...] = ()
    read_rows: ReadRows = "readout"
    features: bool = False

    @property
    def attention(self) -> bool:
        """True if attention is read or decomposed."""
        return bool(self.read or self.decompose)


def check_prompts(model: Model, prompts: Sequence[VisualPrompt], kept: Kept) -> None:
    """Checks, before anything is computed, that the model supports the prompts and the outputs to keep.

    Args:
        model: an encoder.
        prompts: the prompts.
        kept: the outputs to keep.

    Raises:
        InvalidInputError: without prompts.
        UnsupportedError: naming what the model does not support.
    """
    if not prompts:
        raise InvalidInputError("nothing to encode: the list of prompts is empty.")
    if kept.features and (model.parts.tower is None or model.parts.packing is not None):
        why = "packs its images" if model.parts.tower else "has no blocks that visprompt knows"
        raise UnsupportedError(f"{model.name} {why}, so no features of patches.")
    if kept.features and model.is_compiled():
        raise refuse_compiled(model.name)
    learned = [prompt for prompt in prompts if prompt.tokens is not None]
    if learned:
        model.require(frozenset({"tokens"}), learned[0].label)
    if model.parts.tower is None and (kept.attention or any(prompt.attention for prompt in prompts)):
        model.require(frozenset({"attention"}), prompts[0].label)
    for prompt in prompts:
        for edit in prompt.attention:
            model.tower_named(edit.tower)


def run_in_order(
    model: Model, prompts: Sequence[VisualPrompt], kept: Kept, share_prefix: bool, cache: ImagePixels | None
) -> Encoding:
    """Runs prompts, in as many forwards as their tokens and the sizes of their inputs need.

    Args:
        model: an encoder.
        prompts: at least one, checked with `check_prompts`.
        kept: the outputs to keep.
        share_prefix: prompts on one image share the blocks before the first edit.
        cache: caches the inputs of images.

    Returns:
        One row per prompt, in their order.
    """
    cache = ImagePixels() if cache is None else cache  # inputs are needed twice: for their size and for the batch
    alike = groups_of(prompts)
    if len(alike) > 1:
        return _in_groups(model, alike, prompts, kept, share_prefix, cache)
    numbers: dict[tuple[int, Fit], int] = {}
    stream_of = [numbers.setdefault((id(p.image), p.fit), len(numbers)) for p in prompts]
    firsts = {number: p for p, number in reversed(list(zip(prompts, stream_of, strict=True)))}
    wanted = [(firsts[i].image, firsts[i].fit) for i in range(len(numbers))]
    groups = model.parts.reader.same_shape(wanted, cache)
    if len(groups) > 1:
        alike = [[i for i, number in enumerate(stream_of) if number in group] for group in groups]
        return _in_groups(model, alike, prompts, kept, share_prefix, cache)
    inputs = model.parts.reader.inputs(wanted, model, cache)
    order = sorted(range(len(prompts)), key=stream_of.__getitem__)
    index = torch.tensor([stream_of[i] for i in order], device=model.device)
    chosen = [prompts[i] for i in order]
    with model._evaluating():
        result = encode_sorted(model, chosen, inputs, index, kept, share_prefix)
    if order == list(range(len(order))):
        return result
    return result.take(torch.argsort(torch.tensor(order, device=model.device)))


def _in_groups(
    model: Model,
    groups: list[list[int]],
    prompts: Sequence[VisualPrompt],
    kept: Kept,
    share_prefix: bool,
    cache: ImagePixels,
) -> Encoding:
    """Runs prompts whose inputs differ in size, or whose tokens differ in shape, in one forward per group."""
    found = [run_in_order(model, [prompts[i] for i in members], kept, share_prefix, cache) for members in groups]
    order = [i for members in groups for i in members]
    return Encoding.joined(found, torch.argsort(torch.tensor(order, device=model.device)))


def encode_sorted(
    model: Model,
    prompts: Sequence[VisualPrompt],
    inputs: dict[str, Tensor],
    index: Tensor,
    kept: Kept,
    share_prefix: bool,
) -> Encoding:
    """Runs one forward.

    Args:
        model: an encoder in evaluation mode.
        prompts: n prompts, those on one image together, with tokens of one kind.
        inputs: model inputs of the m images.
        index: `[n]` int, image of every prompt, sorted.
        kept: the outputs to keep.
        share_prefix: as in `run_in_order`.

    Returns:
        n rows, in the order of the prompts.

    Raises:
        SiteNotReachedError: if a site never ran, or sharing did not give a row for every prompt.
    """
    if _is_plain(prompts, kept) and not kept.features:
        return Encoding(model.parts.embed(inputs).index_select(0, index))
    run = _Run.of(model, prompts, kept)
    count = len(prompts)
    repeated = count > len(next(iter(inputs.values())))
    # With sharing, the last block computes only the rows that the embedding needs; features need all.
    share = repeated and share_prefix and not kept.features
    sharing = _sharing(model, run, index) if share else None
    if repeated and sharing is None:
        inputs = {name: item.index_select(0, index) for name, item in inputs.items()}
    order = model.parts.timeline(count, model.device)
    features = Features(run.tower, run.patches) if kept.features else None
    with open_scope(run.tower, run.programs, sharing, model.device, order, run.tokens) as scope:
        if features is not None:
            features.install(scope)
        embeddings, states = run_with(features, lambda: model.parts.embed(inputs))
    if sharing is not None and len(embeddings) != count:
        raise SiteNotReachedError(
            f"{model.name}: sharing from block {sharing.first_block} on gave {len(embeddings)} results for {count} "
            "prompts."
        )
    return collect(scope, embeddings, run.patches, states)


@contextmanager
def prompting(
    model: Model, prompts: Sequence[VisualPrompt], kept: Kept, stop: bool
) -> Iterator[Callable[[Tensor], Encoding]]:
    """The scope of `Model.prompting`.

    Args:
        model: an encoder.
        prompts: at least one, checked with `check_prompts`.
        kept: the outputs to keep.
        stop: do not compute blocks after the last one that is read.

    Yields:
        A function from pixels `[n, 3, h, w]` to an `Encoding`, with gradients.

    Raises:
        UnsupportedError: for a model that takes padded images.
        InvalidInputError: for prompts with tokens of several kinds.
    """
    prompts = list(prompts)
    if model.parts.tower is not None and model.parts.tower.padded:
        raise UnsupportedError(
            f"{model.name} takes packed images, padded in its own layout: pixels cannot be given directly."
        )
    if len(groups_of(prompts)) > 1:
        raise InvalidInputError(
            "prompts of one batch with different numbers of tokens, or at different places: train one kind at a time."
        )
    if _is_plain(prompts, kept) and not kept.features:
        yield lambda pixels: Encoding(model.parts.embed({"pixel_values": pixels}))
        return
    run = _Run.of(model, prompts, kept)
    learned = _learns(prompts, run.tokens)
    features = Features(run.tower, run.patches) if kept.features else None
    order = model.parts.timeline(len(prompts), model.device)
    with open_scope(run.tower, run.programs, None, model.device, order, run.tokens, stop) as scope:
        if features is not None:
            features.install(scope)

        def encode(pixels: Tensor) -> Encoding:
            if len(pixels) != len(prompts):
                raise InvalidInputError(f"{len(pixels)} images' pixels for {len(prompts)} prompts: give one each.")
            scope.begin()
            try:
                found = run_with(features, lambda: model.parts.embed({"pixel_values": pixels}))
            except Enough:
                return collect(scope, pixels.new_empty(len(pixels), 0), run.patches)
            if learned and torch.is_grad_enabled():
                check_gradient(found[0])
            return collect(scope, found[0], run.patches, found[1])

        yield encode


def _is_plain(prompts: Sequence[VisualPrompt], kept: Kept) -> bool:
    """True if no attention is edited or kept and no prompt has tokens."""
    tokens = any(prompt.tokens is not None and prompt.tokens.count for prompt in prompts)
    return not (kept.attention or tokens or any(prompt.attention for prompt in prompts))


@dataclass(frozen=True)
class _Run:
    """The tower with the prompts' tokens, the programs of its sites, the tokens, and the largest number of patches."""

    tower: Tower
    programs: dict[Site, SiteProgram]
    tokens: Insertion | None
    patches: int

    @staticmethod
    def of(model: Model, prompts: Sequence[VisualPrompt], kept: Kept) -> _Run:
        tokens = model.insertion(prompts)
        tower = model.tower if tokens is None else tokens.tower
        patches = [model.geometry(prompt.image.size, prompt.fit).num_patches for prompt in prompts]
        programs = {} if _is_plain(prompts, kept) else _programs(model, prompts, patches, kept, tokens)
        return _Run(tower, programs, tokens, max(patches))


def _programs(
    model: Model, prompts: Sequence[VisualPrompt], patches: Sequence[int], kept: Kept, tokens: Insertion | None
) -> dict[Site, SiteProgram]:
    """The programs of all sites, with references for gain edits."""
    tower = model.tower if tokens is None else tokens.tower
    edits = [prompt.attention for prompt in prompts]
    programs = compile_programs(tower, edits, patches, kept.read, kept.decompose, kept.read_rows)
    # Before `verify_sites`, which uses the same hooks: compiled code ignores them.
    if (tokens or any(site.backend != "transformers" for site in programs)) and model.is_compiled():
        raise refuse_compiled(model.name)
    model.verify_sites(prompts[0])
    gains = {site: item for site, item in programs.items() if item.needs_reference}
    if gains:
        programs.update(with_references(model, prompts, gains, tower))
    return programs


def _sharing(model: Model, run: _Run, index: Tensor) -> Sharing | None:
    """The sharing of blocks between the prompts, or None where they cannot share."""
    compares = any(item.needs_reference for item in run.programs.values())
    if run.tokens is not None or compares or not run.tower.shareable or model.is_compiled():
        return None
    return sharing_of(run.tower, index, run.programs)


def _learns(prompts: Sequence[VisualPrompt], tokens: Insertion | None) -> bool:
    """True if the prompts hold tensors that are trained."""
    temperatures = [edit.temperature for prompt in prompts for edit in prompt.attention]
    if any(isinstance(item, Tensor) and item.requires_grad for item in temperatures):
        return True
    return tokens is not None and bool(tokens.learned())
