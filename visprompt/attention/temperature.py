"""One attention temperature for all rows, inside the model's own attention kernel: `softmax((q kᵀ · s + b) / τ)` is the
kernel's `softmax((q / τ) kᵀ · s + b / τ)`.

A learned τ must not raise the memory of a training step, which is bounded by the tensors kept for the backward pass. So
nothing is kept here that the plain call does not keep as well:

- the quotient q / τ takes the place of q where q has a storage of its own (`Tempered`);
- where q, k and v are slices of one projection, k and v keep its storage alive and the quotient would be extra memory:
  there it is computed again in the backward pass (`kept_as`);
- with a bias, τ's gradient needs the logits, which no fused kernel returns without storing all of them: there the
  kernel runs forward, and the backward pass is written out, one image at a time (`_Biased`).

Shapes: n streams (batch), H heads, Q queries, K keys, D head width; τ is `[n, H|1, 1, 1]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

#: lower bound of a logit that is multiplied: −inf times 0 would be NaN
HIDDEN = -1e30


def can_temper(query: Tensor, key: Tensor, mask: Tensor | None) -> bool:
    """Whether `tempered_attention` can handle a mask: none, or an additive one that is not itself learned.

    Args:
        query: `[n, H, Q, D]`.
        key: `[n, H, K, D]`, or fewer heads.
        mask: the kernel's mask, or None.

    Returns:
        True if it can.
    """
    if mask is None:
        return True
    return mask.is_floating_point() and mask.ndim == 4 and not mask.requires_grad and query.shape[1] == key.shape[1]


def tempered_attention(
    attend: Callable[[Tensor, Tensor | None], Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    tau: Tensor,
    scale: float,
) -> Tensor:
    """A fused attention call with its logits divided by τ.

    Args:
        attend: the call: `(queries [n, H, Q, D], mask)` → `[n, H, Q, D]`; with a mask, without dropout.
        query: `[n, H, Q, D]`.
        key: `[n, H, K, D]`, or fewer heads; used for gradients only.
        value: as `key`.
        mask: added to the scaled logits, broadcastable to `[n, H, Q, K]`, or None (`can_temper`).
        tau: `[n, H|1, 1, 1]`.
        scale: factor on the dot products.

    Returns:
        `[n, H, Q, D]`.
    """
    if tau.stride(0) == 0:  # the same τ for all streams: with one entry, mask / τ is no larger than the mask
        tau = tau[:1]
    if not (torch.is_grad_enabled() and any(item.requires_grad for item in (query, key, value, tau))):
        return attend(over(query, tau), _over(mask, tau))
    if mask is not None:
        if tau.requires_grad:
            return _Biased.apply(attend, query, key, value, mask, tau, scale)  # type: ignore[no-any-return]
        return attend(over(query, tau), _over(mask, tau))
    packed = query.untyped_storage().data_ptr() == key.untyped_storage().data_ptr()
    quotient = Tempered.apply(query, tau, packed)
    if not packed:
        return attend(quotient, None)
    with kept_as(quotient, query.detach(), tau.detach()):
        return attend(quotient, None)


def tempered_mha(module: Any, query: Tensor, tau: Tensor) -> Tensor:
    """Computes an `nn.MultiheadAttention` on one sequence with its logits divided by τ.

    Args:
        module: the module: one matrix for queries, keys and values, no `bias_k`, no `add_zero_attn`.
        query: `[N, n, d]`, the layout of `torch.nn.functional.multi_head_attention_forward`.
        tau: `[n, H|1, 1, 1]`.

    Returns:
        `[N, n, d]`.
    """
    hidden = query.transpose(0, 1) if module.batch_first else query  # contiguous
    parts = F.linear(hidden, module.in_proj_weight, module.in_proj_bias).unflatten(-1, (3, module.num_heads, -1))
    parts = parts.permute(2, 0, 3, 1, 4) if module.batch_first else parts.permute(2, 1, 3, 0, 4)
    own, key, value = parts.unbind(0)  # [n, H, N, D] each
    dropout = module.dropout if module.training else 0.0

    def attend(queries: Tensor, mask: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(queries, key, value, dropout_p=dropout)

    made = tempered_attention(attend, own, key, value, None, tau, module.head_dim**-0.5)
    made = made.transpose(1, 2) if module.batch_first else made.permute(2, 0, 1, 3)
    output = F.linear(made.flatten(-2), module.out_proj.weight, module.out_proj.bias)
    return output.transpose(0, 1) if module.batch_first else output


def over(item: Tensor, tau: Tensor) -> Tensor:
    """Divides by τ and keeps the dtype; a single τ divides without a float32 copy of `item`.

    Args:
        item: `[n, H, Q, D]`.
        tau: `[n|1, H|1, 1, 1]`.

    Returns:
        Shape and dtype of `item`.
    """
    return item / tau.reshape(()) if tau.numel() == 1 else (item / tau).to(item.dtype)


def _over(mask: Tensor | None, tau: Tensor) -> Tensor | None:
    """Divides a mask by τ; hidden entries stay unchanged, since the smallest number divided by τ may overflow."""
    if mask is None:
        return None
    return torch.where(_hidden(mask), mask, (mask / tau).to(mask.dtype))


def _hidden(mask: Tensor) -> Tensor:
    return mask <= torch.finfo(mask.dtype).min / 2


class Tempered(torch.autograd.Function):
    """`q / τ`. For the gradient it keeps the quotient, which the attention keeps anyway, or q."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, tau: Tensor, keep_query: bool) -> Tensor:
        """Divides the queries by τ.

        Args:
            ctx: context of autograd.
            query: `[n, H, Q, D]`.
            tau: `[n|1, H|1, 1, 1]`.
            keep_query: keep q for the gradient instead of the quotient.

        Returns:
            `[n, H, Q, D]`.
        """
        quotient = over(query, tau)
        ctx.keep_query = keep_query
        ctx.save_for_backward(query if keep_query else quotient, tau)
        return quotient

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients of the queries and of τ.

        Args:
            ctx: context of autograd.
            grad: `[n, H, Q, D]` gradient of the quotient.

        Returns:
            One gradient per argument of `forward` but `ctx`; None where none is needed.
        """
        kept, tau = ctx.saved_tensors
        of_query = over(grad, tau) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_query, None, None
        product = grad * kept  # not in float32: that copy would exceed the memory of the plain step
        shared = [dim for dim in range(4) if tau.shape[dim] < product.shape[dim] or dim > 1]
        product = product.sum(shared, keepdim=True, dtype=tau.dtype)
        return of_query, (-product / (tau * tau if ctx.keep_query else tau)).to(tau.dtype), None


@contextmanager
def kept_as(quotient: Tensor, query: Tensor, tau: Tensor) -> Iterator[None]:
    """While the block runs, autograd saves `query` wherever it would save `quotient`, and divides by τ again in the
    backward pass.

    Hooks on saved tensors that are already active (gradient checkpointing's, offloading) get the query to save.

    Args:
        quotient: `query / tau`.
        query: `[n, H, Q, D]`, detached.
        tau: `[n|1, H|1, 1, 1]`, detached.

    Yields:
        Nothing.
    """
    outer = _outer_hooks()
    if outer is None:  # this torch does not expose the active hooks, and ours would replace them
        yield
        return
    outer_pack, outer_unpack = outer
    # Emptied at the end: gradient checkpointing keeps `pack` and `unpack`, and with them whatever they refer to.
    held = [quotient, query]

    def pack(item: Tensor) -> tuple[bool, Any]:
        # Autograd passes another tensor object with the same storage.
        same = item.data_ptr() == held[0].data_ptr() and item.shape == held[0].shape
        same = same and item.stride() == held[0].stride() and item.dtype == held[0].dtype
        return same, outer_pack(held[1] if same else item)

    def unpack(packed: tuple[bool, Any]) -> Tensor:
        same, kept = packed
        item: Tensor = outer_unpack(kept)
        return over(item, tau) if same else item

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
    finally:
        held.clear()


def _outer_hooks() -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]] | None:
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    if top is None:
        return None
    return top(True) or (lambda item: item, lambda item: item)


class _Biased(torch.autograd.Function):
    """Attention with a bias and a temperature: the model's own kernel forward, the backward pass written out.

    With S = (q kᵀ · s + b) / τ the logits, P their softmax and O = P V: `dS = P ⊙ (dO Vᵀ − rowsum(dO ⊙ O))`, from which
    dq, dk and dv follow as in FlashAttention (arXiv 2205.14135, appendix B.2), and `dτ = −Σ dS ⊙ S / τ`. Logits, in
    float32 as in the kernel, are held for one image at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, attend: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, tau: Tensor, scale: float
    ) -> Tensor:
        """As `tempered_attention`."""
        output: Tensor = attend(over(query, tau), _over(mask, tau))
        ctx.save_for_backward(output, query, key, value, mask.to(output.dtype), tau)
        ctx.scale = scale
        return output

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | float | None, ...]:
        """Gradients of query, key, value and τ."""
        output, query, key, value, mask, tau = ctx.saved_tensors
        streams, kind = len(query), output.dtype  # the dtype in which the kernel computed, also under autocast
        found = [torch.empty_like(item) for item in (query, key, value)]
        bias, taus = _over(mask.float(), tau).expand(streams, *query.shape[1:3], -1), tau.expand(streams, -1, -1, -1)  # type: ignore[union-attr]
        shares, hides = [], bool(_hidden(mask).any())
        with torch.autocast(grad.device.type, enabled=False):
            for at in range(streams):
                q, k, v, slope, made = (item[at].to(kind).contiguous() for item in (query, key, value, grad, output))
                factor = ctx.scale / taus[at]
                logits = torch.baddbmm(bias[at], q.float() * factor, k.float().transpose(1, 2))
                weights = logits.softmax(-1)
                found[2][at] = weights.to(kind).transpose(1, 2) @ slope
                change = (slope @ v.transpose(1, 2)).float()
                change.sub_((slope.float() * made.float()).sum(-1, keepdim=True)).mul_(weights)
                # Hidden keys have a logit of −inf or the smallest number, and a change of 0: the product must be 0.
                shares.append((logits.clamp_(min=HIDDEN) if hides else logits).mul_(change).sum((-1, -2)))
                change = (change * factor).to(kind)
                found[0][at] = change @ k
                found[1][at] = change.transpose(1, 2) @ q
        of_tau = -(torch.stack(shares)[..., None, None].sum_to_size(tau.shape) / tau).to(tau.dtype)
        return None, *found, None, of_tau, None


__all__ = ["Tempered", "can_temper", "kept_as", "tempered_attention", "tempered_mha"]
