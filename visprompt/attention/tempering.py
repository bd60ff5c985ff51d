"""One temperature for all rows, inside the model's own attention kernel: `softmax((q kᵀ · s + b) / τ)` is the kernel's
`softmax((q / τ) kᵀ · s + b / τ)`.

A learned τ must not cost memory: what a training step keeps for its backward pass is what bounds it. So nothing is kept
here that the plain call does not keep as well:

- the quotient q / τ takes the place of q where q has a storage of its own (`Tempered`);
- where q, k and v are cut from one projection, its storage stays for k and v's sake, and the quotient would come on
  top: there it is computed again in the backward pass (`kept_as`);
- b / τ takes the place of b, and is a constant for the kernel, since no fused kernel gives gradients of biases without
  keeping all logits: its share of τ's gradient is computed apart, picture by picture (`_BiasGradient`).

Shapes: n streams (batch), H heads, Q queries, K keys, D head width; τ is `[n, H|1, 1, 1]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from visprompt.attention.rows import heads_like


def can_temper(mask: Tensor | None) -> bool:
    """True for masks that `tempered_attention` knows: none, or numbers that are added and not themselves learned."""
    return mask is None or (mask.is_floating_point() and mask.ndim == 4 and not mask.requires_grad)


def tempered_attention(
    attend: Callable[[Tensor, Tensor | None], Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    tau: Tensor,
    scale: float,
) -> Tensor:
    """A fused attention call with its logits over τ.

    Args:
        attend: the call: `(queries [n, H, Q, D], mask)` → `[n, H, Q, D]`.
        query: `[n, H, Q, D]`.
        key: `[n, H, K, D]`, or fewer heads; only looked at for gradients.
        value: as `key`.
        mask: what is added to the scaled logits, broadcastable to `[n, H, Q, K]`, or None (`can_temper`).
        tau: `[n, H|1, 1, 1]`.
        scale: factor on the dot products.

    Returns:
        What `attend` gives.
    """
    if tau.stride(0) == 0:  # one for all streams: a mask over it is then no larger than the mask
        tau = tau[:1]
    needs = torch.is_grad_enabled() and (tau.requires_grad or query.requires_grad)
    if not needs:
        return attend((query / tau).to(query.dtype), _over(mask, tau))
    packed = query.untyped_storage().data_ptr() == key.untyped_storage().data_ptr()
    quotient = Tempered.apply(query, tau, packed)
    if not packed:
        output = attend(quotient, _over(mask, tau.detach()))
    else:
        with kept_as(quotient, query.detach(), tau.detach()):
            output = attend(quotient, _over(mask, tau.detach()))
    if mask is None or not tau.requires_grad:
        return output
    return _BiasGradient.apply(output, query.detach(), key.detach(), value.detach(), mask, tau, scale)


def tempered_mha(module: Any, query: Tensor, tau: Tensor) -> Tensor:
    """The work of an `nn.MultiheadAttention` on one sequence, its logits over τ.

    Args:
        module: with one matrix for queries, keys and values, without `bias_k` and `add_zero_attn`.
        query: `[N, n, d]`: `torch.nn.functional.multi_head_attention_forward` takes and gives it so.
        tau: `[n, H|1, 1, 1]`.

    Returns:
        `[N, n, d]`.
    """
    hidden = query.transpose(0, 1) if module.batch_first else query  # as it lies in memory
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


def _over(mask: Tensor | None, tau: Tensor) -> Tensor | None:
    """A mask over τ; what it hides stays as it is, since the smallest number over τ may be none."""
    if mask is None:
        return None
    return torch.where(_hidden(mask), mask, (mask / tau).to(mask.dtype))


def _hidden(mask: Tensor) -> Tensor:
    return mask <= torch.finfo(mask.dtype).min / 2


class Tempered(torch.autograd.Function):
    """`q / τ`, keeping the quotient for its gradients, which the attention behind it keeps anyway, or q."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, tau: Tensor, keep_query: bool) -> Tensor:
        """`[n, H, Q, D]` over `[n|1, H|1, 1, 1]`."""
        quotient = (query / tau).to(query.dtype)
        ctx.keep_query = keep_query
        ctx.save_for_backward(query if keep_query else quotient, tau)
        return quotient

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients of query and τ."""
        kept, tau = ctx.saved_tensors
        of_query = (grad / tau).to(grad.dtype) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_query, None, None
        product = (grad.float() * kept.float()).sum_to_size(tau.shape)
        return of_query, (-product / (tau * tau if ctx.keep_query else tau)).to(tau.dtype), None


@contextmanager
def kept_as(quotient: Tensor, query: Tensor, tau: Tensor) -> Iterator[None]:
    """What runs inside and keeps `quotient` for its backward pass keeps `query` instead, and divides again.

    Hooks that others have on saved tensors (gradient checkpointing's, offloading) get the query to keep.
    """
    outer = _outer_hooks()
    if outer is None:  # torch does not say whose hooks are on, and these here would shut them out
        yield
        return
    outer_pack, outer_unpack = outer
    # Emptied at the end: gradient checkpointing would otherwise not get rid of what these functions refer to.
    held = [quotient, query]

    def pack(item: Tensor) -> tuple[bool, Any]:
        # Autograd hands over a new object for the same numbers.
        same = item.data_ptr() == held[0].data_ptr() and item.shape == held[0].shape
        same = same and item.stride() == held[0].stride() and item.dtype == held[0].dtype
        return same, outer_pack(held[1] if same else item)

    def unpack(packed: tuple[bool, Any]) -> Tensor:
        same, kept = packed
        item: Tensor = outer_unpack(kept)
        return (item / tau).to(item.dtype) if same else item

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


class _BiasGradient(torch.autograd.Function):
    """The attention's output as it is; in the backward pass, the share of τ's gradient that goes through b / τ.

    With S the logits, P their softmax, O = P V: `dS = P ⊙ (dO Vᵀ − rowsum(dO ⊙ O))`, and `dτ = −Σ dS ⊙ b / τ²`. Logits
    are held for one picture at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, tau: Tensor, scale: float
    ) -> Tensor:
        """`[n, H, Q, D]`, the same."""
        ctx.save_for_backward(output, query, key, value, mask, tau)
        ctx.scale = scale
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the output and of τ."""
        output, query, key, value, mask, tau = ctx.saved_tensors
        streams, wanted = len(query), []
        bias = _over(mask, tau)
        assert bias is not None
        bias, hidden = bias.float(), _hidden(mask)
        weight = bias if not hidden.any() else bias.masked_fill(hidden, 0.0)
        at = [item.expand(streams, *item.shape[1:]) for item in (bias, weight, tau)]
        with torch.autocast(grad.device.type, enabled=False):
            for stream in range(streams):
                keys, values, one = (item[stream : stream + 1].float() for item in (key, value, query))
                keys, values = heads_like(keys, one)[0], heads_like(values, one)[0]
                share = torch.baddbmm(at[0][stream], one[0] * (ctx.scale / at[2][stream]), keys.transpose(1, 2))
                share = share.softmax(-1)
                slope, made = grad[stream].float(), output[stream].float()
                change = slope @ values.transpose(1, 2) - (slope * made).sum(-1, keepdim=True)
                wanted.append((change.mul_(share).mul_(at[1][stream])).sum((-1, -2), keepdim=True))
        of_tau = -torch.stack(wanted).sum_to_size(tau.shape) / tau
        return grad, None, None, None, None, of_tau.to(tau.dtype), None


__all__ = ["Tempered", "can_temper", "kept_as", "tempered_attention", "tempered_mha"]
