"""Reaches the attention of transformers models through a shim that is registered in their `AttentionInterface`.

`wrap` installs the shim once (`install_shim`). The shim calls the model's own kernel, recomputes the edited rows in
float32 and overwrites them in the kernel's output.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from visprompt.attention.edited_rows import overwrite, run_rows
from visprompt.attention.implementation_names import PREFIX, under_own_name
from visprompt.attention.masks import mask_rows
from visprompt.attention.scope import Scope, current_scope
from visprompt.attention.temperature import can_temper, tempered_attention
from visprompt.errors import UnsupportedError


def install_shim(module: nn.Module) -> list[tuple[Any, str]]:
    """Sends every attention call of the transformers modules inside `module` through the shim, by changing the
    attention implementation that their configs name.

    Args:
        module: a model; modules without a transformers config are left alone.

    Returns:
        The changed configs with the implementation name that each had before, to restore it.
    """
    restore: list[tuple[Any, str]] = []
    seen: set[int] = set()
    for child in module.modules():
        config = getattr(child, "config", None)
        name = getattr(config, "_attn_implementation_internal", None)
        if config is None or not isinstance(name, str) or id(config) in seen or name.startswith(PREFIX):
            continue
        seen.add(id(config))
        restore.append((config, name))
        config._attn_implementation_internal = register_shim(name)
    return restore


def register_shim(name: str) -> str:
    """Registers the implementation `visprompt_<name>`, which wraps the implementation `name` and uses the same mask
    function.

    Without the mask function decoders would lose their causal mask. The new name contains the old one because some
    models branch on it.

    Args:
        name: a transformers attention implementation: `"eager"`, `"sdpa"`, `"flash_attention_2"`, …

    Returns:
        The name of the registered implementation.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

    ours = PREFIX + name
    if ours not in ALL_ATTENTION_FUNCTIONS._global_mapping:

        def shim(
            module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
        ) -> tuple[Tensor, Tensor | None]:
            base = _eager_of(module) if name == "eager" else under_own_name(ALL_ATTENTION_FUNCTIONS[name], name)
            call = _not_compiled if torch.compiler.is_compiling() else _attend
            return call(base, module, query, key, value, attention_mask, kwargs)

        AttentionInterface.register(ours, shim)
        if name in ALL_MASK_ATTENTION_FUNCTIONS:
            AttentionMaskInterface.register(ours, ALL_MASK_ATTENTION_FUNCTIONS[name])
    return ours


def _attend(
    base: Any, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    scope = current_scope(module)
    if scope is None:
        return base(module, query, key, value, mask, **kwargs)
    return _edited(scope, base, module, query, key, value, mask, kwargs)


@torch.compiler.disable
def _not_compiled(*args: Any) -> tuple[Tensor, Tensor | None]:
    """Keeps the attention call outside of the compiled graph: compiled code does not notice when a `ContextVar`
    changes.
    """
    return _attend(*args)


def _eager_of(module: nn.Module) -> Any:
    """The eager attention function of the file that defines this attention class."""
    return sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[attr-defined]


def _refuse_unknown_terms(module: nn.Module, kwargs: dict[str, Any]) -> None:
    """Raises `UnsupportedError` for arguments that change the attention in a way that recomputed rows would lack."""
    if kwargs.get("s_aux") is not None:
        raise UnsupportedError("attention with learned sinks (s_aux) is not supported: its rows cannot be recomputed.")
    if kwargs.get("position_bias") is not None:
        raise UnsupportedError("attention with a position bias of its own is not supported: its rows would lack it.")
    packed = kwargs.get("cu_seq_lens_q")
    if packed is not None and len(packed) > 2:
        raise UnsupportedError(
            f"{type(module).__name__} gives flash attention several sequences in one: its rows cannot be recomputed. "
            'Load the model with attn_implementation="sdpa".'
        )


def _edited(
    scope: Scope,
    base: Any,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    kwargs: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    _refuse_unknown_terms(module, kwargs)
    site = scope.programs_by_module[id(module)]
    program = scope.program(site, query, key)
    if not len(program.rows):  # this call of a decoder holds none of the program's rows
        scope.fired.add(site)
        return base(module, query, key, value, mask, **kwargs)
    scaling = kwargs.get("scaling")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    unusual = kwargs.get("softcap") is not None or kwargs.get("dropout")
    if program.is_tempering(query.shape[2]) and can_temper(query, key, mask) and not (unusual and mask is not None):
        scope.fired.add(site)
        kept: list[Tensor | None] = []

        def attend(queries: Tensor, over: Tensor | None) -> Tensor:
            output, weights = base(module, queries, key, value, over, **kwargs)
            kept.append(weights)
            return output.transpose(1, 2)

        output = tempered_attention(attend, query, key, value, mask, program.tau, scale)
        return output.transpose(1, 2), kept[0]
    copies = 0 if scope.sharing is None else scope.sharing.copies_at(site)
    rows_query, key, value, query = query[:, :, :copies], key[:, :, copies:], value[:, :, copies:], query[:, :, copies:]
    if not copies:
        rows_query = query.index_select(2, program.rows)
    options = kwargs
    if "sdpa" in str(getattr(getattr(module, "config", None), "_attn_implementation", "")):
        options = {name: item for name, item in kwargs.items() if name != "softcap"}  # torch's kernel ignores it
    wanted_rows = torch.zeros_like(program.rows) if copies else program.rows
    seen = mask_rows(module, mask, wanted_rows, query, key, options)
    new = run_rows(scope, site, program, rows_query, key, value, scale, seen, options, always=bool(copies))
    # The kernel runs after the rows: a scope with `stop` may end the forward in `run_rows`, and then needs no kernel.
    own, weights = base(module, query, key, value, mask, **kwargs)
    if new is None:
        return own, weights
    new = new.transpose(1, 2)  # [n, R, H, D], the interface's layout
    if copies:
        base_rows = own[:, :1].expand(-1, copies, -1, -1)
        changed = torch.where(program.edited.transpose(1, 2)[..., None], new.to(own.dtype), base_rows)
        return torch.cat((changed, own), dim=1), weights
    return overwrite(own, new, program, row_dim=1, head_dim=2), weights
