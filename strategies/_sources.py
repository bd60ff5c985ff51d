"""The maps of API: attribution of an encoder's embedding, or an LVLM's attention during its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from visprompt.strategies._heatmap import RawMap
from visprompt.strategies._views import View, assembled, views

from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.models.attribution import Question, attribute
from visprompt.models.chat import Chat
from visprompt.models.lvlm.answer_attention import MIDDLE, can_look, can_reflect, reflect
from visprompt.visual_prompt import VisualPrompt

if TYPE_CHECKING:
    from visprompt.models.lvlm.answer_attention import Reflection

__all__ = ["can_look", "raw_maps", "refuse"]

#: default texts of the reference map for `relative`
GENERIC_CAPTION = "a photo"
GENERIC_QUESTION = "Write a general description of the image."


def raw_maps(model: Any, prompts: Sequence[VisualPrompt], options: Any) -> list[RawMap]:
    """One map per prompt; prompts with the same image and query share one computation.

    Args:
        model: the model whose maps are computed.
        prompts: images and queries; those of one request follow each other.
        options: those of `api`: `block`, `maps`, `align`, `relative`, `generic`, `max_new_tokens`.

    Returns:
        Maps in the order of the prompts.
    """
    return (_from_lvlm if can_reflect(model) else _from_encoder)(model, prompts, options)


def refuse(model: Any, strategy: str) -> UnsupportedError:
    """The error for a model without maps; it names an auxiliary model and strategies that work.

    Args:
        model: the model.
        strategy: name of the strategy.
    """
    from visprompt.registry import strategies_on

    lacks = "its attention cannot be read" if model.generates else "it has no text tower"
    return UnsupportedError(
        f"strategy {strategy!r} needs a heatmap of the query, and {model.name} cannot compute one: {lacks}. Name an "
        f'auxiliary model: vp.Prompter.from_name({strategy!r}, auxiliary="openai/clip-vit-base-patch16"), or a model '
        f"from vp.load_model. Strategies that work on it as it is: {', '.join(strategies_on(model))}."
    )


# -- encoders ---------------------------------------------------------------------------------------------------------


def _from_encoder(model: Any, prompts: Sequence[VisualPrompt], options: Any) -> list[RawMap]:
    """Ψ_cls and S of every query. A relative map is the difference to the map of a generic caption, since Ψ and S are
    summands of a logit, and a difference of logits is a ratio of likelihoods.
    """
    if isinstance(options.block, tuple):
        raise InvalidInputError(f"{model.name} is an encoder and takes one block; got block={options.block}.")
    generic = options.generic or GENERIC_CAPTION
    shown_of: dict[int, list[View]] = {}
    jobs: dict[tuple[int, str], tuple[VisualPrompt, int]] = {}
    questions: list[Question] = []
    for prompt in prompts:
        if id(prompt.image) not in shown_of:
            shown_of[id(prompt.image)] = views(prompt.image, options.align, model)
        if _key(prompt) not in jobs:
            shown = shown_of[id(prompt.image)]
            jobs[_key(prompt)] = (prompt, len(questions))
            texts = [str(prompt.query), generic] if options.relative else [str(prompt.query)]
            questions += [Question(view.image, text, view.fit) for text in texts for view in shown]
    found = attribute(model, questions, options.block)
    result = {}
    for key, (prompt, start) in jobs.items():
        shown = shown_of[key[0]]
        own = found[start : start + len(shown)]
        parts = [RawMap(item.contribution, item.similarity, item.geometry) for item in own]
        if options.relative:
            generics = found[start + len(shown) : start + 2 * len(shown)]
            parts = [
                RawMap(part.cls - other.contribution, part.comp - other.similarity, part.geometry)  # type: ignore[operator]
                for part, other in zip(parts, generics, strict=True)
            ]
        result[key] = assembled(parts, shown, prompt.image.size, options.align)
    return [result[_key(prompt)] for prompt in prompts]


def _key(prompt: VisualPrompt) -> tuple[int, str]:
    return id(prompt.image), str(prompt.query)


# -- LVLMs ------------------------------------------------------------------------------------------------------------


def _from_lvlm(model: Any, prompts: Sequence[VisualPrompt], options: Any) -> list[RawMap]:
    """The decoder's attention during the answer. A relative map is divided by that of a generic question (Zhang et al.,
    ICLR 2025, https://arxiv.org/abs/2502.17422).
    """
    if options.align == "slide":
        raise InvalidInputError('align="slide" cuts the image up, and an LVLM is asked about a whole one: use "pad".')
    if options.maps == "comp":
        raise InvalidInputError(f'maps="comp" is a map of encoders; {model.name} writes text and has the other one.')
    blocks = (
        options.block if isinstance(options.block, tuple) else (MIDDLE if options.block is None else options.block,)
    )
    chats: dict[Any, Chat] = {}
    where: list[tuple[Any, int]] = []
    start = 0
    while start < len(prompts):
        group = prompts[start : start + prompts[start].place[1]]
        start += len(group)
        shown = tuple(_as_shown(prompt, options.align, model) for prompt in group)
        video = group[0].request is not None and group[0].request.video
        edits = tuple(id(edit) for prompt in shown for edit in prompt.attention)  # edits change the maps
        key = (tuple(id(prompt.image) for prompt in group), edits, group[0].query, video)
        if key not in chats:
            chats[key] = Chat(shown, str(group[0].query), video=video)
        where += [(key, number) for number in range(len(group))]
    asked = list(chats.values())
    general = [replace(chat, text=options.generic or GENERIC_QUESTION) for chat in asked] if options.relative else []
    found = reflect(model, [*asked, *general], blocks, options.max_new_tokens)
    of_key = dict(zip(chats, found[: len(asked)], strict=True))
    if options.relative:
        for key, other in zip(chats, found[len(asked) :], strict=True):
            of_key[key] = [_divided(a, b) for a, b in zip(of_key[key], other, strict=True)]
    made: dict[tuple[Any, int], RawMap] = {}
    for prompt, source in zip(prompts, where, strict=True):
        if source not in made:
            maps, number = of_key[source[0]], source[1]
            item = maps[number // -(-len(chats[source[0]].prompts) // len(maps))]  # frames of a video share maps
            part, view = RawMap(item.values, None, item.geometry), View(prompt.image, "model")
            made[source] = assembled([part], [view], prompt.image.size, options.align)
    return [made[source] for source in where]


def _as_shown(prompt: VisualPrompt, align: str, model: Any) -> VisualPrompt:
    """The prompt as it is given to the model that computes the map; edits with columns keep the `fit` they were made
    for.
    """
    if any(edit.has_columns for edit in prompt.attention):
        return prompt
    return VisualPrompt(prompt.image, query=prompt.query, fit=views(prompt.image, align, model)[0].fit)


def _divided(item: Reflection, other: Reflection) -> Reflection:
    return replace(item, values=item.values / np.maximum(other.values, 1e-6))
