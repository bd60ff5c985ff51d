"""The scopes in which a vision-language model runs with the edits of a batch of chats: one for its decoder and one for
its vision tower, each verified at first use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from visprompt.attention.compiled import refuse_compiled
from visprompt.attention.decoder_positions import TokenPositions
from visprompt.attention.engine import open_scope
from visprompt.attention.program import SiteProgram
from visprompt.attention.program_builder import compile_programs
from visprompt.attention.scope import Scope, is_open_on
from visprompt.attention.sites import Site, Tower
from visprompt.errors import InvalidInputError
from visprompt.models.chat import Chat
from visprompt.models.lvlm.edits import decoder_edits, vision_edits
from visprompt.models.lvlm.inputs import ChatInputs, media_of, prepare
from visprompt.models.lvlm.prompt_tokens import TileInsertion, tile_tokens
from visprompt.models.lvlm.vision_tower import packing_of
from visprompt.models.site_checks import features_of, verify_decoder_sites, verify_vision_sites, verify_vision_tokens
from visprompt.visual_prompt import AttentionEdit, Rows

if TYPE_CHECKING:
    from visprompt.models.lvlm.model import LVLM


@contextmanager
def editing(
    model: LVLM, chats: Sequence[Chat], inputs: ChatInputs, read: tuple[int, ...], read_rows: Rows
) -> Iterator[Scope | None]:
    """The scope of `LVLM.editing`.

    Args:
        model: the LVLM.
        chats: the batch.
        inputs: its inputs, from `prepare`.
        read: decoder blocks whose attention is kept.
        read_rows: the rows whose attention is kept.

    Yields:
        The decoder's scope; None if the decoder is neither edited nor read.

    Raises:
        InvalidInputError: inside another such scope of this model.
    """
    if any(is_open_on(tower) for tower in (model.tower, model.vision_tower) if tower is not None):
        raise InvalidInputError(
            f"{model.name} is being run inside model.editing(…) of other chats, whose edits would reach into this "
            "run: leave that scope first."
        )
    edits = [decoder_edits(model, chat, layouts) for chat, layouts in zip(chats, inputs.layouts, strict=True)]
    vision, tokens = vision_edits(model, chats, inputs), tile_tokens(model.vision_tower, chats, inputs)
    with ExitStack() as stack:
        if any(vision) or tokens is not None:
            stack.enter_context(_editing_vision(model, chats, inputs, vision, tokens))
        if not (read or any(edits)):
            yield None
            return
        counts = [sum(item.geometry.num_patches for item in layouts) for layouts in inputs.layouts]
        programs = compile_programs(model.tower, edits, counts, read, None, read_rows)
        verify_decoder_once(model)
        timeline = TokenPositions(inputs.columns, inputs.images, inputs.padding).to(model.device)
        yield stack.enter_context(open_scope(model.tower, programs, None, model.device, timeline))


def _editing_vision(
    model: LVLM,
    chats: Sequence[Chat],
    inputs: ChatInputs,
    edits: Sequence[Sequence[AttentionEdit]],
    tokens: TileInsertion | None,
) -> Scope:
    """The scope of the vision tower's edits, verified and not yet entered."""
    assert model.vision_tower is not None
    if tokens is not None and model.is_compiled():
        raise refuse_compiled(model.name)
    tower = model.vision_tower if tokens is None else tokens.tower
    patches = [count for group in inputs.vision_patches for count in group]
    programs = compile_programs(tower, edits, patches)
    _verify_vision_once(model, chats[0], tokens)
    programs.update(_with_plain_runs(model, chats, programs, tower))
    return open_scope(tower, programs, None, model.device, packing_of(model, inputs), tokens)


def _with_plain_runs(
    model: LVLM, chats: Sequence[Chat], programs: dict[Site, SiteProgram], tower: Tower
) -> dict[Site, SiteProgram]:
    """Runs the vision tower on the images without the prompt and stores the rows' outputs in the programs with a gain.
    Prompt tokens stay, since gains edit the tower with its tokens.
    """
    gains = {site: item for site, item in programs.items() if item.needs_reference}
    if not gains:
        return {}
    plain = [
        replace(
            chat,
            prompts=tuple(item.with_(image=item.reference or item.image, attention=()) for item in chat.prompts),
        )
        for chat in chats
    ]
    watch = {
        site: SiteProgram(rows=item.rows, edited=torch.zeros_like(item.edited), capture_output=True)
        for site, item in gains.items()
    }
    inputs = prepare(model, plain)
    tokens = tile_tokens(model.vision_tower, plain, inputs)
    with torch.no_grad(), open_scope(tower, watch, None, model.device, packing_of(model, inputs), tokens) as scope:
        features_of(model.module, media_of(inputs))
    for site, item in gains.items():
        if scope.outputs[site].shape[:2] != item.edited.shape[:2] or len(item.rows) != scope.outputs[site].shape[2]:
            raise InvalidInputError("the image without the prompt has another size: unleash cannot compare them.")
    return {site: replace(item, reference=scope.outputs[site]) for site, item in gains.items()}


def verify_decoder_once(model: LVLM) -> None:
    """Verifies the decoder's sites, unless that was done before.

    Args:
        model: the LVLM.
    """
    model.once("decoder", lambda: verify_decoder_sites(model))


def _verify_vision_once(model: LVLM, chat: Chat, tokens: TileInsertion | None) -> None:
    """Verifies once, on the images of one chat, that the vision tower's sites and prompt tokens in it have an
    effect.
    """
    tower = model.vision_tower
    assert tower is not None

    def check_sites() -> None:
        inputs = prepare(model, [chat])
        streams = sum(map(len, inputs.vision_patches))
        verify_vision_sites(model, tower, media_of(inputs), streams, packing_of(model, inputs))

    model.once("vision", check_sites)
    if tokens is not None:
        width = tokens.tokens.shape[-1]
        model.once("tokens", lambda: verify_vision_tokens(model, tower, media_of(prepare(model, [chat])), width))
