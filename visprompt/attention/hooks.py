"""Reaches the attention of models outside of transformers, while a scope is open:

- `nn.MultiheadAttention`: hooks that overwrite the rows after the output projection (a mask would switch kernels);
  where one temperature applies to all rows, its attention call is replaced instead;
- timm: a `TorchFunctionMode` that intercepts `scaled_dot_product_attention` inside the attention module, so fused
  attention stays on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from visprompt.attention.edited_rows import overwrite, run_rows
from visprompt.attention.masks import mask_rows
from visprompt.attention.program import SiteProgram
from visprompt.attention.row_math import add_mask
from visprompt.attention.scope import Scope
from visprompt.attention.sites import Site
from visprompt.attention.temperature import can_temper, tempered_attention, tempered_mha
from visprompt.errors import UnsupportedError


def install_hooks(scope: Scope) -> None:
    """Hooks the modules of a scope's sites that need hooks. Transformers models need none: their shim is already
    installed.

    Args:
        scope: the scope, which removes the hooks on exit.
    """
    sites = list(scope.programs)
    if scope.tokens is not None and scope.tower.inner_bias:  # that bias must be widened at every site with prompts
        sites += [site for site in scope.tower.sites if site.prompts and site not in scope.programs]
    mode = _SeeAttention(scope)
    for site in sites:
        if site.backend == "mha":
            hooks = _MhaHooks(scope, site, mode)
            scope.hook_before(site.module, hooks.before)
            scope.hook_after(site.module, hooks.after, always=True)
        elif site.backend == "sdpa":
            scope.hook_before(site.module, mode.enter_module)
            # always: recomputation under gradient checkpointing ends by raising in the middle of a module
            scope.hook_after(site.module, mode.leave_module, always=True)


# -- nn.MultiheadAttention --------------------------------------------------------------------------------------------


#: the arguments of `nn.MultiheadAttention.forward`, in order
MHA_ARGUMENTS = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask")


class _MhaHooks:
    """Overwrites rows of an `nn.MultiheadAttention` after its output projection."""

    def __init__(self, scope: Scope, site: Site, mode: _SeeAttention) -> None:
        self.scope, self.site, self.mode = scope, site, mode
        module: Any = site.module
        if module.bias_k is not None or module.add_zero_attn:
            raise UnsupportedError("nn.MultiheadAttention with bias_k or add_zero_attn is not supported.")

    def before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Removes the folded readout copies from the front of the sequence, which the module itself must not see.

        A program that only reads is run here, before the module: a scope with `stop` then skips the module.
        """
        if self._is_tempering(module, args, kwargs):
            self.mode.enter_module(module, args, kwargs)
            return None
        copies = 0 if self.scope.sharing is None else self.scope.sharing.copies_at(self.site)
        if not copies:
            program = self.scope.program(self.site)
            if not program.needs_outputs:
                self._compute(module, args, kwargs, program, 0)
            return None
        self.scope.sharing.stash = args[0]
        return tuple(item[:, copies:] for item in args[:3]) + tuple(args[3:]), kwargs

    def _is_tempering(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """True where `tempered_mha` replaces the module's computation."""
        given = dict(zip(MHA_ARGUMENTS, args, strict=False)) | kwargs
        query = given["query"]
        alone = query is given["key"] and query is given["value"] and query.ndim == 3
        plain = given.get("attn_mask") is None and given.get("key_padding_mask") is None
        if not (alone and plain and module._qkv_same_embed_dim) or given.get("need_weights", True):
            return False
        return self.scope.program(self.site).is_tempering(query.shape[1 if module.batch_first else 0])

    def after(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Overwrites the rows, unless `_SeeAttention` has replaced the attention call or the module raised."""
        if self.mode.left(module) or output is None:
            return None
        program = self.scope.program(self.site)
        copies = 0 if self.scope.sharing is None else self.scope.sharing.copies_at(self.site)
        if not (copies or program.needs_outputs):
            return None
        own = output[0] if isinstance(output, tuple) else output
        own = own if module.batch_first else own.transpose(0, 1)
        new = self._compute(module, args, kwargs, program, copies)
        assert new is not None
        new = new.to(own.dtype)
        if copies:
            changed = torch.where(program.edited.any(dim=1)[..., None], new, own[:, :1].expand_as(new))
            own = torch.cat((changed, own), dim=1)
        elif program.edits:
            edited = program.edited.any(dim=1)[..., None] if program.inject is None else torch.tensor(True)
            if not edited.all():
                new = torch.where(edited, new, own.index_select(1, program.rows))
            own = own.index_copy(1, program.rows, new)
        own = own if module.batch_first else own.transpose(0, 1)
        return (own, *output[1:]) if isinstance(output, tuple) else own

    def _compute(
        self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], program: SiteProgram, copies: int
    ) -> Tensor | None:
        """The rows after the output projection, `[n, R, d]` float32; None if only the attention is read."""
        query, key, value = (args[i] if i < len(args) else kwargs[n] for i, n in enumerate(("query", "key", "value")))
        if not module.batch_first:
            query, key, value = (item.transpose(0, 1) for item in (query, key, value))
        rows_in = self.scope.sharing.stash[:, :copies] if copies else query.index_select(1, program.rows)
        mask = kwargs.get("attn_mask") if len(args) <= 5 else args[5]
        rows = torch.zeros_like(program.rows) if copies else program.rows
        with torch.autocast(query.device.type, enabled=False):
            new = self._rows(module, program, rows_in, key, value, self._mask(module, mask, rows, len(query)), copies)
            if new is None:
                return None
            return F.linear(new, module.out_proj.weight.float(), _float(module.out_proj.bias))

    def _mask(self, module: Any, mask: Tensor | None, rows: Tensor, batch: int) -> Tensor | None:
        if mask is None:
            return None
        if mask.dim() == 3:
            mask = mask.view(batch, module.num_heads, *mask.shape[1:])
        mask = mask.index_select(-2, rows)
        return ~mask if mask.dtype == torch.bool else mask  # nn.MultiheadAttention: True means "not allowed"

    def _rows(
        self,
        module: Any,
        program: SiteProgram,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        copies: int,
    ) -> Tensor | None:
        """The rows before the output projection, `[n, R, H·D]`; None if only the attention is read.

        For few rows the key and value projections are folded into the query and the output (`q·(W x) = (Wᵀq)·x`), so
        that the keys are not projected a second time.
        """
        heads, width = module.num_heads, module.head_dim
        if module._qkv_same_embed_dim:
            w_q, w_k, w_v = module.in_proj_weight.float().chunk(3)
        else:
            w_q, w_k, w_v = (getattr(module, f"{n}_proj_weight").float() for n in "qkv")
        b_q, b_k, b_v = module.in_proj_bias.float().chunk(3) if module.in_proj_bias is not None else (None, None, None)
        scale, dropout = width**-0.5, module.dropout if module.training else 0.0
        q = F.linear(query.float(), w_q, b_q).unflatten(-1, (heads, width)).transpose(1, 2)
        wanted = program.needs_outputs or copies > 0
        if q.shape[2] > 8 or program.needs_head_outputs:
            k = F.linear(key.float(), w_k, b_k).unflatten(-1, (heads, width)).transpose(1, 2)
            v = value if not wanted else F.linear(value.float(), w_v, b_v).unflatten(-1, (heads, width)).transpose(1, 2)
            new = run_rows(self.scope, self.site, program, q, k, v, scale, mask, {"dropout": dropout}, always=wanted)
            return None if new is None else new.transpose(1, 2).flatten(-2)
        w_k, w_v = w_k.view(heads, width, -1), w_v.view(heads, width, -1)
        # Heads and rows share one axis: a product per head would copy the keys for every head.
        rows = torch.einsum("nhrd,hde->nhre", q, w_k)
        logits = (rows.flatten(1, 2) @ key.float().transpose(-1, -2)).unflatten(1, (heads, -1))
        if b_k is not None:
            logits = logits + torch.einsum("nhrd,hd->nhr", q, b_k.view(heads, width))[..., None]
        logits = program.apply_to_logits(add_mask(logits * scale, mask), self.site.prefix)
        attention = logits.softmax(-1)
        self.scope.keep(self.site, program, attention, attention, value)  # this program keeps no outputs and no values
        if not wanted:
            return None
        kept = F.dropout(attention, dropout) if dropout else attention
        mixed = (kept.flatten(1, 2) @ value.float()).unflatten(1, (heads, -1))
        new = torch.einsum("nhre,hde->nrhd", mixed, w_v)
        if b_v is not None:
            new = new + b_v.view(heads, width)
        return new.flatten(-2)


def _float(item: Tensor | None) -> Tensor | None:
    return None if item is None else item.float()


# -- timm: fused attention seen from inside ---------------------------------------------------------------------------


class _SeeAttention(TorchFunctionMode):
    """Intercepts `scaled_dot_product_attention` while one of the scope's modules runs; for an `nn.MultiheadAttention`
    with a temperature, the whole of `multi_head_attention_forward`.
    """

    def __init__(self, scope: Scope) -> None:
        super().__init__()
        self.scope = scope
        self.inside: list[Site] = []

    def enter_module(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Turns the mode on: the next attention call belongs to this module.

        The mode is on inside these modules only: `backward()` called under a mode runs with the mode off, and attention
        that gradient checkpointing recomputes there would be missed.
        """
        self.inside.append(self.scope.tower.by_module[id(module)])
        self.__enter__()

    def left(self, module: nn.Module) -> bool:
        """Undoes `enter_module`; returns False if the module was not entered."""
        if not (self.inside and self.inside[-1].module is module):
            return False
        self.inside.pop()
        self.__exit__(None, None, None)
        return True

    def leave_module(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Hook that runs when the module has returned or raised."""
        self.left(module)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.inside and func is F.multi_head_attention_forward:
            site = self.inside[-1]
            self.scope.fired.add(site)
            return tempered_mha(site.module, args[0], self.scope.program(site).tau), None
        if not self.inside or func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        site, scope = self.inside[-1], self.scope
        query, key, value = args[:3] if len(args) >= 3 else (kwargs[n] for n in ("query", "key", "value"))
        rest = dict(zip(("attn_mask", "dropout_p", "is_causal"), args[3:], strict=False))
        rest.update({name: item for name, item in kwargs.items() if name not in ("query", "key", "value")})
        if scope.tokens is not None and rest.get("attn_mask") is not None:
            rest["attn_mask"] = scope.tokens.widen_mask(rest["attn_mask"], query.shape[0], key.shape[2])
        if site not in scope.programs:
            return F.scaled_dot_product_attention(query, key, value, **rest)
        program = scope.program(site)
        scale, whole = rest.get("scale") or query.shape[-1] ** -0.5, rest.get("attn_mask")
        whole = None if whole is None else whole[(None,) * (4 - whole.dim())]
        exact = whole is None or not rest.get("dropout_p")
        if program.is_tempering(query.shape[2]) and can_temper(query, key, whole) and exact:
            scope.fired.add(site)

            def attend(queries: Tensor, mask: Tensor | None) -> Tensor:
                return F.scaled_dot_product_attention(queries, key, value, **{**rest, "attn_mask": mask})

            return tempered_attention(attend, query, key, value, whole, program.tau, scale)
        copies = 0 if scope.sharing is None else scope.sharing.copies_at(site)
        rows_query, query, key, value = (
            query[:, :, :copies],
            query[:, :, copies:],
            key[:, :, copies:],
            value[:, :, copies:],
        )
        if not copies:
            rows_query = query.index_select(2, program.rows)
        wanted = torch.zeros_like(program.rows) if copies else program.rows
        mask = mask_rows(site.module, whole, wanted, query, key, {"is_causal": rest.get("is_causal", False)})
        options = {"dropout": rest.get("dropout_p", 0.0)}
        new = run_rows(scope, site, program, rows_query, key, value, scale, mask, options, always=bool(copies))
        own = F.scaled_dot_product_attention(query, key, value, **rest)  # after the rows, which may end the forward
        if new is None:
            return own
        if copies:
            changed = torch.where(
                program.edited[..., None], new.to(own.dtype), own[:, :, :1].expand(-1, -1, copies, -1)
            )
            return torch.cat((changed, own), dim=2)
        return overwrite(own, new, program, row_dim=2, head_dim=1)
