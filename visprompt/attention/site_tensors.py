"""Declares the axes of a `SiteProgram`'s tensors on its fields, for selection, batching and folding."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Literal

#: the axes of a program's tensors, by name: streams of the batch, heads, query rows, patch columns, channels of a head
Axis = Literal["stream", "head", "row", "patch", "channel"]


@dataclass(frozen=True)
class SiteTensor:
    """The declaration of one tensor of a `SiteProgram`.

    Args:
        axes: its axes in order; where all heads or all rows get the same, that axis has length 1.
        form: the form of edit that it belongs to, a key of `visprompt.attention.forms.FORMS`; "" for none.
        fill: the neutral value, in entries that no edit wrote.
    """

    axes: tuple[Axis, ...]
    form: str = ""
    fill: float = 0.0


def site_tensor(*axes: Axis, form: str = "", fill: float = 0.0) -> dict[str, SiteTensor]:
    """Makes the metadata of a dataclass field of `SiteProgram` that holds a tensor.

    >>> site_tensor("stream", "head", "row")["site_tensor"].axes
    ('stream', 'head', 'row')

    Args:
        axes: as in `SiteTensor`.
        form: as in `SiteTensor`.
        fill: as in `SiteTensor`.

    Returns:
        `{"site_tensor": SiteTensor(…)}`.
    """
    return {"site_tensor": SiteTensor(axes, form, fill)}


def site_tensors(kind: type[Any]) -> dict[str, SiteTensor]:
    """The declared tensors of a program class.

    Args:
        kind: `SiteProgram`.

    Returns:
        Declarations by field name, in the order of the fields.
    """
    key: Any = kind
    return _declared(key)


@functools.lru_cache(maxsize=64)
def _declared(kind: Any) -> dict[str, SiteTensor]:
    declared = {item.name: item.metadata.get("site_tensor") for item in dataclasses.fields(kind)}
    return {name: tensor for name, tensor in declared.items() if tensor is not None}
