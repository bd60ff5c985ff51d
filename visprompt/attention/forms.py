"""The forms of attention edit: how each is written into a site's program, and what it computes during the call.

To add a form, add a field to `AttentionEdit` (with `form_of_edit` as its metadata), its tensors to `SiteProgram` (with
`site_tensor` as metadata, whose `form` is that field's name), and one entry to `FORMS`. Batching, slicing, selection,
sharing between prompts and the layouts of decoders and packed towers follow from these declarations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from visprompt.attention.row_math import target_mass_logits, visible
from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.visual_prompt import AttentionEdit

if TYPE_CHECKING:
    from visprompt.attention.program import SiteProgram
    from visprompt.attention.program_builder import Place, SiteBuilder


@dataclass(frozen=True)
class Form:
    """One form of attention edit.

    Args:
        write: writes one edit's numbers into the tensors of its site: `write(builder, place, edit)`.
        on_logits: `(program, [n, H, R, K] logits, key columns before the first patch)` → edited logits, or None.
        on_output: `(program, [n, H, R, D] outputs)` → edited outputs, or None. It may change every row and head: the
            result is discarded where the program has no edit.
        needs_reference: the form uses `SiteProgram.reference`, outputs computed in a run without the prompt.
    """

    write: Callable[[SiteBuilder, Place, AttentionEdit], None]
    on_logits: Callable[[SiteProgram, Tensor, int], Tensor] | None = None
    on_output: Callable[[SiteProgram, Tensor], Tensor] | None = None
    needs_reference: bool = False


def form_named(name: str) -> Form:
    """Looks a form up by name.

    Args:
        name: name of a field of `AttentionEdit` that is a form of edit.

    Returns:
        Its entry in `FORMS`.

    Raises:
        UnsupportedError: for a form without an entry.
    """
    if name not in FORMS:
        raise UnsupportedError(
            f"attention edits of the form {name!r} cannot be run: there is no entry for it in "
            f"visprompt.attention.forms.FORMS, which has {', '.join(FORMS)}."
        )
    return FORMS[name]


# -- temperature ------------------------------------------------------------------------------------------------------


def _write_temperature(builder: SiteBuilder, place: Place, edit: AttentionEdit) -> None:
    if isinstance(edit.temperature, Tensor):
        builder.multiply_by(edit.temperature, "temperature", place)
    else:
        builder.array("temperature")[place.where] *= edit.temperature


def _divide_by_temperature(program: SiteProgram, logits: Tensor, prefix: int) -> Tensor:
    assert program.temperature is not None
    return torch.where(visible(logits), logits / program.temperature[..., None], logits)


# -- bias -------------------------------------------------------------------------------------------------------------


def _write_bias(builder: SiteBuilder, place: Place, edit: AttentionEdit) -> None:
    builder.array("bias")[place.columns] += edit.bias


def _add_bias(program: SiteProgram, logits: Tensor, prefix: int) -> Tensor:
    assert program.bias is not None
    return logits + program.to_keys(program.bias, prefix, logits.shape[-1], 0.0)


# -- target mass ------------------------------------------------------------------------------------------------------


def _write_target_mass(builder: SiteBuilder, place: Place, edit: AttentionEdit) -> None:
    target = builder.array("target")
    if not np.isnan(target[place.where]).all():
        raise InvalidInputError("two target_mass edits meet in one block: give one region, or use a bias for one.")
    target[place.where] = edit.target_mass
    with np.errstate(divide="ignore"):
        builder.array("log_weights")[place.columns] = np.log(edit.weights)  # type: ignore[arg-type]


def _raise_to_target_mass(program: SiteProgram, logits: Tensor, prefix: int) -> Tensor:
    if program.log_weights is None or program.target is None:
        return logits
    weights = program.to_keys(program.log_weights, prefix, logits.shape[-1], float("-inf"))
    return target_mass_logits(logits, weights, program.target)


# -- gain -------------------------------------------------------------------------------------------------------------


def _write_gain(builder: SiteBuilder, place: Place, edit: AttentionEdit) -> None:
    builder.array("gain")[place.where] += edit.gain
    if edit.responsive is not None and edit.responsive > 0:
        threshold = builder.array("responsive")
        threshold[place.stream] = max(threshold[place.stream], edit.responsive)


def _amplify(program: SiteProgram, output: Tensor) -> Tensor:
    """`o + g · (o − o_ref)` in heads whose output changed by at least `responsive`, relative to the norm of `o_ref`."""
    if program.gain is None or program.reference is None:
        return output
    change = output - program.reference
    gain = program.gain[..., None]
    if program.responsive is not None:
        moved = change.norm(dim=-1) >= program.responsive[:, None, None] * program.reference.norm(dim=-1)
        gain = gain * moved[..., None]
    return output + gain * change


#: form of `AttentionEdit` → its functions, in the order in which forms are applied
FORMS: dict[str, Form] = {
    "temperature": Form(_write_temperature, on_logits=_divide_by_temperature),
    "bias": Form(_write_bias, on_logits=_add_bias),
    "target_mass": Form(_write_target_mass, on_logits=_raise_to_target_mass),
    "gain": Form(_write_gain, on_output=_amplify, needs_reference=True),
}
