"""The learned prompts in the package: finds the one of a strategy that was learned on a given model.

A model is recognised by its weights, not by its name. The `config.json` of a bundled prompt names its strategy; this
module knows none by name.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import TYPE_CHECKING, Any

from visprompt import bundled
from visprompt.errors import InvalidInputError, UnknownNameError
from visprompt.registry import defaults_of, get_class

if TYPE_CHECKING:
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model


def prompt_for(kind: type[Learned], model: Model) -> Learned | None:
    """The bundled prompt of a strategy that was learned on a model's vision tower.

    A copy of a bundled model in another folder or dtype is recognised; a fine-tuned copy is another model. Of a
    vision-language model only the vision tower counts.

    Args:
        kind: the strategy's class, or a sub-class of it.
        model: the model that the prompt is used on.

    Returns:
        The loaded prompt, shared by all callers: it must not be changed. None if there is none.
    """
    from visprompt.models.identity import is_tower_of

    return next((one for one in map(_loaded, names_of(kind)) if is_tower_of(one.backbone, model)), None)


@functools.cache
def _loaded(name: str) -> Any:
    from visprompt.prompter import Prompter

    return Prompter.from_pretrained(f"bundled:{name}")


def names_of(kind: type[Learned]) -> tuple[str, ...]:
    """Names of the bundled prompts of a strategy, for `Prompter.from_pretrained("bundled:<name>")`.

    Args:
        kind: the strategy's class, or a sub-class of it.

    Returns:
        Names, e.g. "patch-scenes-clip"; may be empty.
    """
    return tuple(name for name in bundled.patches() if issubclass(kind, _kind_of(name)))


def _kind_of(name: str) -> type[Any]:
    """The class of the strategy of a bundled prompt; an unused new class if the strategy is not installed."""
    try:
        return get_class(_config(name)["parts"][0]["name"])
    except UnknownNameError:
        return type("NotInstalled", (), {})


def digests_of(kind: type[Learned]) -> dict[str, str]:
    """A hash of the weights and options of every bundled prompt of a strategy, since results depend on them.

    Args:
        kind: the strategy's class, or a sub-class of it.

    Returns:
        Name of the bundled prompt → hash; may be empty.
    """
    return {name: _digest(name) for name in names_of(kind)}


def _digest(name: str) -> str:
    from visprompt.utils.hashing import digest

    content = _config(name)
    options = [part["options"] for part in content["parts"]]
    return digest({"weights": content["weights_sha256"], "options": options})


@functools.cache
def _config(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundled.patch_path(name) / "config.json").read_text(encoding="utf-8"))
    return content


def used_as(prompter: Learned, found: Learned) -> Learned:
    """A bundled prompt with the options of an untrained strategy.

    Args:
        prompter: the untrained strategy, with the user's options.
        found: the bundled prompt for the model, from `prompt_for`.

    Returns:
        A new strategy with the parameters of `found` and those options of `prompter` that may be changed after training
            (`Learned.free`).

    Raises:
        InvalidInputError: if another option was given a value that `found` was not learned with.
    """
    kind = type(prompter)
    usual = (kind.Options(), defaults_of(prompter.name, kind))
    free: dict[str, Any] = {}
    wrong = []
    for item in dataclasses.fields(kind.Options):
        own, learned = getattr(prompter.options, item.name), getattr(found.options, item.name)
        if own == learned or not (item.name in prompter.given or all(own != getattr(one, item.name) for one in usual)):
            continue  # equal, or not set by the user
        if item.name in prompter.free:
            free[item.name] = own
        else:
            wrong.append(f"{item.name}={learned!r}, and {item.name}={own!r} is asked for")
    if wrong:
        hint = f" ({kind.option_hint})" if kind.option_hint else ""
        raise InvalidInputError(
            f"the {prompter.name} that ships for {(found.backbone or {}).get('name')} was learned with "
            f"{'; '.join(wrong)}. Leave that out{hint}, or learn another one: prompter.fit(model), "
            f"'visprompt fit {prompter.name} …'."
        )
    made = kind(dataclasses.replace(found.options, **free))
    made.name, made.parameters = prompter.name, found.parameters
    made.backbone, made.record = found.backbone, found.record
    return made


def none_ships(prompter: Learned, model: Model) -> str:
    """The error message for an untrained strategy on a model without a bundled prompt: how to train or load one.

    Args:
        prompter: a strategy whose learned prompts may be used on any model (`Learned.transferable`).
        model: the model.
    """
    names, called = names_of(type(prompter)), prompter.name
    learn = f"learn one on it (prompter.fit(model), 'visprompt fit {called} …'), or " * model.has_tower("vision")
    return (
        f"{called!r} has learned nothing yet, and none ships for {model.name}: {learn}take one that was learned on "
        f'another model, vp.Prompter.from_pretrained("bundled:{names[0]}") or a folder. With the package come '
        f"{', '.join(f'bundled:{one}' for one in names)}."
    )
