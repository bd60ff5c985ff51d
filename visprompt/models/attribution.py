"""How much every patch says for a text: the readout's embedding taken apart into what each patch put into it.

Exact, and one ordinary forward: attention weights, norm statistics and activation gates are held at the values that the
forward had, so that the path from one block's attention to `cos(image, text)` is linear and a sum over patches.
Knows models, not strategies.
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
from visprompt.models.preprocessing import ImagePixels
from visprompt.utils.renamed import renamed_attributes, renamed_names
from visprompt.visual_prompt import Fit, block_number

if TYPE_CHECKING:
    from PIL import Image

    from visprompt.geometry.geometry import Geometry
    from visprompt.models.base import Model

T = TypeVar("T")

#: images per forward; halved when memory runs out
IMAGES_PER_FORWARD = 32


@renamed_attributes(picture="image")
@dataclass(frozen=True, eq=False)
class Question:
    """An image, how it is fitted into the model, and the text that it is asked about."""

    image: Image.Image
    text: str
    fit: Fit = "model"


@dataclass(frozen=True, eq=False)
class Attribution:
    """What the patches of one image say for one text, in parts of `cos(image, text)`.

    Args:
        contribution: `[P]` Ψ_cls: what every patch put into the readout through the attention of one block.
        similarity: `[P]` S: what every patch would say by itself; Ψ_comp is its complement.
        geometry: patches ↔ pixels of the image.
        cosine: `cos(image, text)`.
    """

    contribution: np.ndarray
    similarity: np.ndarray
    geometry: Geometry
    cosine: float


def can_attribute(model: Model) -> bool:
    """True for an encoder with a text tower whose readout can be decomposed."""
    if model.generates or not {"attention", "text"} <= model.supports:
        return False
    return model.tower.head is not None and model.tower.readout in ("cls", "probe")


def attribute(model: Model, questions: Sequence[Question], block: int | float | None = None) -> list[Attribution]:
    """Ψ_cls and S of API (Yu et al., ECCV 2024, https://arxiv.org/abs/2409.17143), in one forward per batch.

    With t̂ the text embedding at unit length, e the image embedding, c_m what token m adds to the attention output of
    block ℓ's readout row, and the final norm's mean μ and deviation s held at what it saw, `e = W·LN(x)` is linear:

        Ψ_cls[m] = (⟨γ ⊙ (c_m − μ/(k·n))/s + β/(k·n), W t̂⟩) / ‖e‖       n tokens, k = 2L − 1
        S[m]     = (⟨γ ⊙ (z_m − μ/k)/s + β/k, W t̂⟩) / ‖e‖                z_m: block ℓ's output for patch m

    Where an attention-pooling probe reads the image (SigLIP, CoCa), ℓ is the pooling head: nothing is added to the
    probe's row, so k = 1 and the Ψ_cls of all keys sum to the cosine exactly; z_m is what the probe would read if it
    looked at patch m alone. SigLIP's MLP behind the probe is made linear the way the norm is: an activation φ(x) is the
    gate φ(x)/x, held at the forward's values, times x.

    One image with several texts goes through the tower once, one text through the text tower once.

    Args:
        model: an encoder with a text tower.
        questions: images and texts; images that are the same object are computed once.
        block: ℓ; None: the second-last block, or the pooling head.

    Raises:
        UnsupportedError: without a text tower or attention, for a readout that is no row (mean of the patches), or a
            compiled model.
        InvalidInputError: for a block that the image is not read through.
    """
    if not can_attribute(model):
        raise UnsupportedError(f"{model.name} has no text tower beside an attention readout that can be decomposed.")
    if model.is_compiled():
        raise refuse_compiled(model.name)
    model._check_open()
    found: list[Attribution | None] = [None] * len(questions)
    with torch.no_grad(), model._evaluating():
        texts = _embedded(model, [question.text for question in questions])
        places: dict[tuple[int, Fit], int] = {}
        owner = [places.setdefault((id(q.image), q.fit), len(places)) for q in questions]
        images = [(questions[owner.index(i)].image, questions[owner.index(i)].fit) for i in range(len(places))]
        cache = ImagePixels(max(len(images), 1))
        for group in model.parts.reader.same_shape(images, cache):
            for part, run in in_parts(
                group, IMAGES_PER_FORWARD, lambda part: _forward(model, [images[i] for i in part], cache, block)
            ):
                asked = [i for i, place in enumerate(owner) if place in part]
                which = torch.tensor([part.index(owner[i]) for i in asked], device=model.device)
                for i, item in zip(asked, run.for_texts(texts[asked], which), strict=True):
                    found[i] = item
    return [item for item in found if item is not None]


def _embedded(model: Model, texts: list[str]) -> Tensor:
    """`[n, d]` at unit length, float32; equal texts are embedded once."""
    once = list(dict.fromkeys(texts))
    parts = [model.embed_text(once[start : start + 256]) for start in range(0, len(once), 256)]
    embedded = F.normalize(torch.cat(parts).float(), dim=-1)
    return embedded[[once.index(text) for text in texts]]


def in_parts(items: list[int], size: int, run: Callable[[list[int]], T]) -> Iterator[tuple[list[int], T]]:
    """Runs over the items in parts, in smaller ones when memory runs out; yields each part with what it gave."""
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
    """What one forward of n images left: `contributions` and `alone` `[n, K, d]`, readout rows `[n, d]`."""

    head: Head
    contributions: Tensor
    alone: Tensor
    row: Tensor
    embeddings: Tensor
    components: int
    prefix: int
    geometries: list[Geometry]

    def for_texts(self, texts: Tensor, which: Tensor) -> list[Attribution]:
        """One result per text; `which` `[q]` is the image of every text `[q, d]`."""
        direction, constant = pulled_back(self.head, self.row[which], texts)
        norm = self.embeddings.norm(dim=-1)[which]  # before any normalisation that the model does itself (CoCa)
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
    place = torch.empty_like(slot)
    place[order] = slot - (counts.cumsum(0) - counts)[which[order]]
    table = vectors.new_zeros(len(vectors), int(counts.max()), vectors.shape[-1])
    table[which, place] = directions
    return torch.einsum("nkd,nsd->nsk", vectors, table)[which, place]


def _forward(
    model: Model, images: list[tuple[Image.Image, Fit]], cache: ImagePixels, block: int | float | None
) -> _Run:
    reader = model.parts.reader
    geometries = [reader.geometry(image.size, fit) for image, fit in images]
    return decomposed(model, reader.inputs(images, model, cache), geometries, block)


def decomposed(model: Model, inputs: dict[str, Tensor], geometries: list[Geometry], block: int | float | None) -> _Run:
    """One forward of model inputs, with block ℓ's readout row taken apart."""
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
        contributions = _joining(site, scope.decomposition[site])
        row = kept["row"] if head.norm is not None else contributions.sum(1)
        return _Run(
            head,
            contributions,
            _each_alone(site, tokens) if site.is_pool else tokens,
            row,
            _checked(model, embedding_of(head, row), embeddings),
            1 if site.is_pool else 2 * len(tower.blocks) - 1,
            site.prefix,
            geometries,
        )


def default_block(model: Model) -> int:
    """The second-last block, as in the paper; the pooling head where there is one."""
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
        raise UnsupportedError(f"{model.name} normalises behind its attention, which is not taken apart.")


# -- the path from the attention to the embedding ---------------------------------------------------------------------


def embedding_of(head: Head, row: Tensor) -> Tensor:
    """`[n, e]` what the head makes of readout rows `[n, d]`, float32."""
    result = _normalised(head.norm, row)
    if head.mlp is not None:
        first, activation, second = head.mlp
        inner = F.linear(result, first.weight.float(), _float(first.bias))
        active = activation(inner.to(first.weight.dtype)).float()
        result = row + F.linear(active, second.weight.float(), _float(second.bias))
    for item in head.projections:
        linear = isinstance(item, nn.Linear)
        result = F.linear(result, item.weight.float(), _float(item.bias)) if linear else result @ item.float()
    return result


def _checked(model: Model, ours: Tensor, embeddings: Tensor) -> Tensor:
    """Nothing silently explains something else: the head that is taken apart must give the model's own embedding."""
    if not (F.cosine_similarity(ours, embeddings, dim=-1) > 0.99).all():
        raise UnsupportedError(
            f"{model.name} does not make its embedding from the readout row the way its parts suggest, so it cannot "
            "be taken apart."
        )
    return ours


def pulled_back(head: Head, row: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """The head as a linear map at one readout row: `⟨head(x), t⟩ = ⟨u, x⟩ + b` with statistics and gates held.

    Args:
        head: from the readout row to the embedding.
        row: `[q, d]` readout rows that the head saw.
        texts: `[q, e]`.

    Returns:
        u `[q, d]` and b `[q]`, float32.
    """
    constant = texts.new_zeros(len(texts))
    back = texts
    for item in reversed(head.projections):
        weight = item.weight.float() if isinstance(item, nn.Linear) else item.float().T
        if isinstance(item, nn.Linear) and item.bias is not None:
            constant = constant + back @ item.bias.float()
        back = back @ weight
    skip = None
    if head.mlp is not None:
        first, activation, second = head.mlp
        skip = back
        inner = F.linear(_normalised(head.norm, row), first.weight.float(), _float(first.bias))
        active = activation(inner.to(first.weight.dtype)).float()
        gate = torch.where(inner.abs() > 1e-6, active / inner, 0.5)  # activations used here have slope ½ at 0
        if second.bias is not None:
            constant = constant + back @ second.bias.float()
        back = (back @ second.weight.float()) * gate
        if first.bias is not None:
            constant = constant + back @ first.bias.float()
        back = back @ first.weight.float()
    if isinstance(head.norm, nn.LayerNorm):
        mean, deviation = _statistics(head.norm, row)
        if head.norm.bias is not None:
            constant = constant + back @ head.norm.bias.float()
        back = back if head.norm.weight is None else back * head.norm.weight.float()
        back = back / deviation
        constant = constant - back.sum(-1) * mean[:, 0]
    elif not isinstance(head.norm, nn.Identity | None):
        raise UnsupportedError(f"a head with {type(head.norm).__name__} cannot be taken apart; LayerNorm can.")
    return (back if skip is None else skip + back), constant


def _statistics(norm: nn.LayerNorm, row: Tensor) -> tuple[Tensor, Tensor]:
    """μ and sqrt(var + eps), `[…, 1]` each."""
    return row.mean(-1, keepdim=True), (row.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()


def _normalised(norm: nn.Module | None, row: Tensor) -> Tensor:
    if not isinstance(norm, nn.LayerNorm):
        return row
    return F.layer_norm(row, norm.normalized_shape, _float(norm.weight), _float(norm.bias), norm.eps)


def _joining(site: Site, contributions: Tensor) -> Tensor:
    """What of every key's contribution joins the residual stream: through inner norms (statistics held), projections
    and LayerScales."""
    keys = contributions.shape[1]
    for item in site.after:
        if isinstance(item, nn.LayerNorm):
            mean, deviation = _statistics(item, contributions.sum(1, keepdim=True))
            contributions = (contributions - mean / keys) / deviation
            contributions = contributions if item.weight is None else contributions * item.weight.float()
            contributions = contributions if item.bias is None else contributions + item.bias.float() / keys
        elif isinstance(item, nn.Linear):
            contributions = F.linear(contributions, item.weight.float())
            contributions = contributions if item.bias is None else contributions + item.bias.float() / keys
        else:
            contributions = contributions * getattr(item, "gamma", item).float()
    return contributions


def _each_alone(site: Site, tokens: Tensor) -> Tensor:
    """What a pooling probe would read if it looked at one key alone, `[n, K, d]`."""
    pool: Any = site.module
    if isinstance(pool, nn.MultiheadAttention):
        weight = pool.in_proj_weight.chunk(3)[2] if pool._qkv_same_embed_dim else pool.v_proj_weight
        bias = None if pool.in_proj_bias is None else pool.in_proj_bias.chunk(3)[2]
        tokens = tokens if pool.batch_first else tokens.transpose(0, 1)
    else:  # timm's AttentionPoolLatent
        tokens = tokens if pool.pos_embed is None else tokens + pool.pos_embed.float()
        weight = pool.kv.weight.chunk(2)[1]
        bias = None if pool.kv.bias is None else pool.kv.bias.chunk(2)[1]
    projection: Any = site.projection
    values = F.linear(tokens, weight.float(), _float(bias))
    return F.linear(values, projection.weight.float(), _float(getattr(projection, "bias", None)))


def _float(item: Tensor | None) -> Tensor | None:
    return None if item is None else item.float()


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"PICTURES_PER_FORWARD": "IMAGES_PER_FORWARD"}, globals())
