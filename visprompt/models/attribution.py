"""Decomposes `cos(image, text)` into contributions of the patches.

The decomposition is exact and takes one ordinary forward: attention weights, norm statistics and activation gates are
held at their values of the forward, so that the path from one block's attention to `cos(image, text)` is linear and a
sum over patches. The module imports models, not strategies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visprompt.attention.compiled import refuse_compiled
from visprompt.attention.engine import open_scope
from visprompt.attention.program_builder import compile_programs
from visprompt.attention.sites import Head, Site
from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.models.embedding_path import embedding_of, joining_contributions, outputs_per_key, pulled_back
from visprompt.models.preprocessing import ImagePixels
from visprompt.utils.renamed import renamed_attributes, renamed_names
from visprompt.visual_prompt import Fit, block_number

if TYPE_CHECKING:
    from PIL import Image

    from visprompt.geometry.geometry import Geometry
    from visprompt.models.base import Model

T = TypeVar("T")

#: number of images per forward; halved when memory runs out
IMAGES_PER_FORWARD = 32


@renamed_attributes(picture="image")
@dataclass(frozen=True, eq=False)
class Question:
    """An image, how it is fitted into the model's input, and the text to compare it with."""

    image: Image.Image
    text: str
    fit: Fit = "model"


@dataclass(frozen=True, eq=False)
class Attribution:
    """The contributions of the patches of one image to `cos(image, text)`.

    Args:
        contribution: `[P]` Ψ_cls: the contribution of every patch to the readout through the attention of one block.
        similarity: `[P]` S: the contribution that every patch's own output would have; Ψ_comp is its complement.
        geometry: patches ↔ pixels of the image.
        cosine: `cos(image, text)`.
    """

    contribution: np.ndarray
    similarity: np.ndarray
    geometry: Geometry
    cosine: float


def can_attribute(model: Model) -> bool:
    """Whether a model is an encoder with a text tower and a readout that can be decomposed.

    Args:
        model: any model.

    Returns:
        True if it is.
    """
    if model.generates or not {"attention", "text"} <= model.supports:
        return False
    return model.tower.head is not None and model.tower.readout in ("cls", "probe")


def attribute(model: Model, questions: Sequence[Question], block: int | float | None = None) -> list[Attribution]:
    """Ψ_cls and S of API (Yu et al., ECCV 2024, https://arxiv.org/abs/2409.17143), in one forward per batch.

    With t̂ the text embedding at unit length, e the image embedding, c_m the contribution of token m to the attention
    output of block ℓ's readout row, and the final norm's mean μ and deviation s held at their values of the forward, `e
    = W·LN(x)` is linear:

        Ψ_cls[m] = (⟨γ ⊙ (c_m − μ/(k·n))/s + β/(k·n), W t̂⟩) / ‖e‖       n tokens, k = 2L − 1
        S[m]     = (⟨γ ⊙ (z_m − μ/k)/s + β/k, W t̂⟩) / ‖e‖                z_m: block ℓ's output for patch m

    Where an attention pooling head makes the embedding (SigLIP, CoCa), ℓ is that head: nothing is added to the probe's
    row, so k = 1 and the Ψ_cls of all keys sum to the cosine exactly; z_m is the probe's output if it attended to patch
    m alone. SigLIP's MLP after the probe is made linear in the same way as the norm: an activation φ(x) is the gate
    φ(x)/x, held at the forward's values, times x.

    An image with several texts runs through the image tower once, and a repeated text through the text tower once.

    Args:
        model: an encoder with a text tower.
        questions: images and texts; images that are the same object are computed once.
        block: ℓ; None: the second-last block, or the pooling head.

    Returns:
        One attribution per question, in order.

    Raises:
        UnsupportedError: without a text tower or attention, for a readout that is the mean of the patches, or a
            compiled model.
        InvalidInputError: for a block that has no readout row.
    """
    if not can_attribute(model):
        raise UnsupportedError(f"{model.name} has no text tower with an attention readout that can be decomposed.")
    if model.is_compiled():
        raise refuse_compiled(model.name)
    model._check_open()
    found: list[Attribution | None] = [None] * len(questions)
    with torch.no_grad(), model._evaluating():
        texts = _embedded(model, [question.text for question in questions])
        numbers: dict[tuple[int, Fit], int] = {}
        owner = [numbers.setdefault((id(q.image), q.fit), len(numbers)) for q in questions]
        images = [(questions[owner.index(i)].image, questions[owner.index(i)].fit) for i in range(len(numbers))]
        cache = ImagePixels(max(len(images), 1))
        for group in model.parts.reader.same_shape(images, cache):
            for part, run in in_parts(
                group, IMAGES_PER_FORWARD, lambda part: _forward(model, [images[i] for i in part], cache, block)
            ):
                asked = [i for i, number in enumerate(owner) if number in part]
                which = torch.tensor([part.index(owner[i]) for i in asked], device=model.device)
                for i, item in zip(asked, run.for_texts(texts[asked], which), strict=True):
                    found[i] = item
    return [item for item in found if item is not None]


def _embedded(model: Model, texts: list[str]) -> Tensor:
    """Text embeddings `[n, d]` at unit length, float32; equal texts are embedded once."""
    once = list(dict.fromkeys(texts))
    parts = [model.embed_text(once[start : start + 256]) for start in range(0, len(once), 256)]
    embedded = F.normalize(torch.cat(parts).float(), dim=-1)
    return embedded[[once.index(text) for text in texts]]


def in_parts(items: list[int], size: int, run: Callable[[list[int]], T]) -> Iterator[tuple[list[int], T]]:
    """Runs a function over items part by part, with smaller parts when memory runs out.

    Args:
        items: indices.
        size: first size of a part.
        run: function of a part.

    Yields:
        Each part with its result.
    """
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    start = 0
    while start < len(items):
        part = items[start : start + size]
        try:
            result = run(part)
        except (RuntimeError, MemoryError) as error:
            if len(part) == 1 or not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
                raise
            size = len(part) // 2
            clear_device_cache(garbage_collection=True)
            continue
        yield part, result
        start += len(part)


# -- one forward ------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """The tensors of one forward of n images: `contributions` and `alone` `[n, K, d]`, readout rows `[n, d]`."""

    head: Head
    contributions: Tensor
    alone: Tensor
    row: Tensor
    embeddings: Tensor
    components: int
    prefix: int
    geometries: list[Geometry]

    def for_texts(self, texts: Tensor, which: Tensor) -> list[Attribution]:
        """One attribution per text: `texts` is `[q, d]`, and `which` `[q]` the image of every text."""
        direction, constant = pulled_back(self.head, self.row[which], texts)
        norm = self.embeddings.norm(dim=-1)[which]  # of the embedding before the model normalises it (CoCa)
        keys = self.contributions.shape[1]
        psi = _along(self.contributions, direction, which) + (constant / (self.components * keys))[:, None]
        alone = _along(self.alone, direction, which) + (constant / self.components)[:, None]
        cosine = (self.embeddings[which] * texts).sum(-1) / norm
        scaled = ((psi / norm[:, None]).cpu().numpy(), (alone / norm[:, None]).cpu().numpy())
        results = []
        for i, image in enumerate(which.tolist()):
            geometry = self.geometries[image]
            columns = slice(self.prefix, self.prefix + geometry.num_patches)
            results.append(Attribution(scaled[0][i, columns], scaled[1][i, columns], geometry, float(cosine[i])))
        return results


def _along(vectors: Tensor, directions: Tensor, which: Tensor) -> Tensor:
    """`⟨vectors[which[i], m], directions[i]⟩`, `[q, K]`, without a copy of the vectors for every text."""
    counts = torch.bincount(which, minlength=len(vectors))
    slot = torch.arange(len(which), device=which.device)
    order = torch.argsort(which, stable=True)
    column = torch.empty_like(slot)
    column[order] = slot - (counts.cumsum(0) - counts)[which[order]]
    table = vectors.new_zeros(len(vectors), int(counts.max()), vectors.shape[-1])
    table[which, column] = directions
    return torch.einsum("nkd,nsd->nsk", vectors, table)[which, column]


def _forward(
    model: Model, images: list[tuple[Image.Image, Fit]], cache: ImagePixels, block: int | float | None
) -> _Run:
    reader = model.parts.reader
    geometries = [reader.geometry(image.size, fit) for image, fit in images]
    return decomposed(model, reader.inputs(images, model, cache), geometries, block)


def decomposed(model: Model, inputs: dict[str, Tensor], geometries: list[Geometry], block: int | float | None) -> _Run:
    """Runs one forward and decomposes the readout row of one block.

    Args:
        model: an encoder.
        inputs: its inputs, n images.
        geometries: geometry of every image.
        block: ℓ; None: `default_block`.

    Returns:
        The tensors from which `for_texts` makes attributions.

    Raises:
        UnsupportedError: for a block or head that cannot be decomposed.
        InvalidInputError: for a block that has no readout row.
    """
    tower = model.tower
    assert tower.head is not None
    head: Head = tower.head
    number = default_block(model) if block is None else block_number(block, tower.num_blocks)
    site = tower.sites[number]
    _check_site(model, site)
    patches = [geometry.num_patches for geometry in geometries]
    programs = compile_programs(tower, [()] * len(geometries), patches, decompose=[number])
    kept: dict[str, Tensor] = {}

    def keep_row(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else next(iter(kwargs.values()))
        kept["row"] = (given[:, 0] if given.ndim == 3 else given).float()

    def keep_output(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        kept["tokens"] = output[0] if isinstance(output, tuple) else output

    def keep_keys(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept["tokens"] = args[2] if len(args) > 2 else kwargs.get("value", args[0])

    with open_scope(tower, programs, None, model.device) as scope:
        if head.norm is not None:
            scope.hook_before(head.norm, keep_row)
        if site.is_pool:
            scope.hook_before(site.module, keep_keys)
        else:
            scope.hook_after(tower.blocks[number], keep_output)
        embeddings = model.parts.embed(inputs).float()
    tokens = kept["tokens"].float()
    with torch.autocast(model.device.type, enabled=False):
        contributions = joining_contributions(site, scope.decomposition[site])
        row = kept["row"] if head.norm is not None else contributions.sum(1)
        return _Run(
            head,
            contributions,
            outputs_per_key(site, tokens) if site.is_pool else tokens,
            row,
            _checked(model, embedding_of(head, row), embeddings),
            1 if site.is_pool else 2 * len(tower.blocks) - 1,
            site.prefix,
            geometries,
        )


def default_block(model: Model) -> int:
    """The block that is decomposed by default: the second-last, as in the paper, or the pooling head.

    Args:
        model: an encoder.

    Returns:
        Its index.
    """
    tower = model.tower
    return tower.num_blocks - 1 if tower.readout == "probe" else max(tower.num_blocks - 2, 0)


def _check_site(model: Model, site: Site) -> None:
    if model.tower.readout == "probe" and not site.is_pool:
        raise InvalidInputError(
            f"{model.name} reads its image through its pooling head, block {model.num_blocks - 1}: "
            f"block {site.block} has no readout row. Leave block out."
        )
    if site.projection is None and not site.after:
        raise UnsupportedError(f"{model.name}: the attention output of {site!r} is gated and cannot be taken apart.")
    if "PostNorm" in type(site.module).__name__ or (
        not site.is_pool and "PostNorm" in type(model.tower.blocks[site.block]).__name__
    ):
        raise UnsupportedError(f"{model.name} normalises after its attention, which cannot be taken apart.")


def _checked(model: Model, ours: Tensor, embeddings: Tensor) -> Tensor:
    """Checks that the head that is decomposed gives the model's own embedding."""
    if not (F.cosine_similarity(ours, embeddings, dim=-1) > 0.99).all():
        raise UnsupportedError(
            f"{model.name} does not make its embedding from the readout row in the way its modules suggest, so it "
            "cannot be taken apart."
        )
    return ours


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"PICTURES_PER_FORWARD": "IMAGES_PER_FORWARD"}, globals())
