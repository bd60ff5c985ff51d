"""Where API's maps come from: a text-image encoder's embedding taken apart. One raw map per prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from visprompt.strategies._heatmap import RawMap, assembled, views

from visprompt.errors import UnsupportedError
from visprompt.models.attribution import Question, attribute, can_attribute

if TYPE_CHECKING:
    from visprompt.visual_prompt import VisualPrompt

#: what a map is compared with for `relative`
GENERIC_CAPTION = "a photo"


def can_look(model: Any) -> bool:
    """True for a model that can say where it looks for a query."""
    return can_attribute(model)


def raw_maps(model: Any, prompts: Sequence[VisualPrompt], options: Any) -> list[RawMap]:
    """One map per prompt; prompts on one picture with one query are looked at once.

    Args:
        model: the model that looks.
        prompts: pictures and queries.
        options: those of `api`: `block`, `maps`, `align`, `relative`, `generic`.
    """
    return _from_encoder(model, prompts, options)


def refuse(model: Any, strategy: str) -> UnsupportedError:
    """The error for a model that cannot say where it looks; names what to do and what works without."""
    from visprompt.registry import list_strategies

    fitting = [i for i in list_strategies() if set(i.acts_on) <= model.supports | {"text"} and "map" not in i.needs]
    return UnsupportedError(
        f"strategy {strategy!r} asks a model where it looks for the query, and {model.name} has no text tower to ask "
        f"with. Name a model that has one: vp.Prompter.from_name({strategy!r}, "
        'auxiliary="openai/clip-vit-base-patch16"), or any from vp.load_model. '
        f"Strategies that work on it as it is: {', '.join(info.name for info in fitting)}."
    )


def _from_encoder(model: Any, prompts: Sequence[VisualPrompt], options: Any) -> list[RawMap]:
    """Ψ_cls and S of every query. Relative ones are differences: they are parts of a logit, and to divide
    likelihoods is to subtract logits."""
    generic = options.generic or GENERIC_CAPTION
    jobs: dict[tuple[int, str], list[int]] = {}
    shown_of, questions = {}, []
    for prompt in prompts:
        key = (id(prompt.picture), str(prompt.query))
        if key in jobs:
            continue
        shown = shown_of.setdefault(id(prompt.picture), views(prompt.picture, options.align, model))
        texts = [str(prompt.query), generic] if options.relative else [str(prompt.query)]
        jobs[key] = list(range(len(questions), len(questions) + len(texts) * len(shown)))
        questions += [Question(view.picture, text, view.fit) for text in texts for view in shown]
    found = attribute(model, questions, options.block)
    result: dict[tuple[int, str], RawMap] = {}
    for prompt in prompts:
        key = (id(prompt.picture), str(prompt.query))
        if key in result:
            continue
        shown = shown_of[id(prompt.picture)]
        parts = [RawMap(found[i].contribution, found[i].similarity, found[i].geometry) for i in jobs[key]]
        if options.relative:
            pairs = zip(parts[: len(shown)], parts[len(shown) :], strict=True)
            parts = [RawMap(a.cls - b.cls, a.comp - b.comp, a.geometry) for a, b in pairs]  # type: ignore[operator]
        result[key] = assembled(parts, shown, prompt.picture.size, options.align)
    return [result[id(prompt.picture), str(prompt.query)] for prompt in prompts]
