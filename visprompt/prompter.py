"""The interface of every strategy, and compositions and ensembles of strategies.

A strategy turns one `VisualPrompt` into another: `edit(prompt, model)`. A composition applies several, left to right.
Strategies do not handle batches, devices, hooks or checkpoints.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from visprompt.errors import InvalidInputError, UnsupportedError, unknown_name
from visprompt.persistence.prompt_files import SavedPrompt, hub_options, is_saved, read_prompt
from visprompt.persistence.saveable import SaveableStrategy
from visprompt.registry import Options as Options
from visprompt.registry import checked_options, get_class, settings, with_options
from visprompt.visual_prompt import VisualPrompt

if TYPE_CHECKING:
    from visprompt.models.base import Model
    from visprompt.request import Request


class Prompter(SaveableStrategy):
    """A strategy: it changes pixels, text, tokens or attention so that the model attends to a region.

    Subclasses set `Options`, `acts_on`, `needs` and define `edit`. A file `<module>.yaml` next to the module holds the
    measured defaults (`defaults:`) and named settings (`presets:`).

    >>> import visprompt as vp
    >>> vp.Prompter.from_name("circle", width=3).options.width
    3
    """

    #: options with which it changes nothing, or None if there are none; tests check that the output is bit-identical
    neutral: ClassVar[dict[str, Any] | None] = None

    # -- making one -------------------------------------------------------------------------------------------------

    @staticmethod
    def from_name(name: str, preset: str | None = None, **options: Any) -> Prompter:
        """Makes a strategy, or several joined with `+` (a composition, left to right) or `|` (an ensemble).

        Args:
            name: `"falip"`, `"circle+falip"`, `"crop+falip"`, …; see `list_strategies()`.
            preset: named settings of that strategy, e.g. `"paper"`.
            **options: its options. In a composition every option goes to the parts that have it.

        Returns:
            The strategy.

        Raises:
            UnknownNameError: for a name, preset or option that does not exist; the message lists those that do.
            InvalidInputError: for an option with a value it cannot have.
        """
        if not isinstance(name, str):
            raise InvalidInputError(f"from_name takes a strategy's name; got {name!r}. For none, use Runner(model).")
        return make_prompter(name, preset=preset, **options)

    @staticmethod
    def from_pretrained(path: str | os.PathLike[str], **options: Any) -> Prompter:
        """Loads a saved strategy: `config.json`, and `prompt.safetensors` for the learned ones.

        Args:
            path: folder that `save_pretrained` or `fit(out=…)` wrote, a hub id, or a learned prompt that comes with the
                package: `"bundled:patch-scenes-clip"`.
            **options: options that may be changed after training (`place="rim"`); for a hub id also `revision`,
                `token`, `cache_dir`, `local_files_only` and `force_download`.

        Returns:
            The strategy.

        Raises:
            InvalidInputError: if it does not exist, is not a saved strategy, or an option is fixed by training.
            UnknownNameError: if its strategy is not installed, or there is no bundled prompt of that name.
        """
        hub = hub_options(options)
        made = _from_record(read_prompt(path, **hub))
        return with_options(made, {name: value for name, value in options.items() if name not in hub})

    def fit(self, model: Model, data: Any, **settings: Any) -> Any:
        """Trains the prompt; learned strategies override it.

        Args:
            model: the model, whose weights stay unchanged.
            data: labelled images, as the strategy documents.
            **settings: settings of the training.

        Returns:
            The result of the training.

        Raises:
            UnsupportedError: for strategies that learn nothing.
        """
        raise UnsupportedError(f"{self.name or type(self).__name__!r} has nothing to learn: use it as it is.")

    # -- using it ---------------------------------------------------------------------------------------------------

    def prompt(self, requests: Request | Iterable[Request], model: Model) -> list[VisualPrompt]:
        """Makes the prompts of some requests.

        Args:
            requests: one or several.
            model: the model that they are for.

        Returns:
            One prompt per request and region, in order (`regions_as="together"`: one per request).

        Raises:
            UnsupportedError: if the model cannot take in what the strategy changes.
            InvalidInputError: if a request lacks what the strategy needs.
        """
        from visprompt.request import Request as RequestType

        items = [requests] if isinstance(requests, RequestType) else list(requests)
        return self.edit_all([unit for request in items for unit in request.units()], model)

    def edit_all(self, prompts: Sequence[VisualPrompt], model: Model) -> list[VisualPrompt]:
        """Edits many prompts. Strategies that run the model override it to work in batches.

        Args:
            prompts: the prompts.
            model: the model that they are for.

        Returns:
            The edited prompts, in order.

        Raises:
            UnsupportedError: if the model cannot take what the strategy changes.
            InvalidInputError: if a prompt lacks what the strategy needs.
        """
        self.check(prompts, model)
        return [
            prompt if self.passes(prompt) else self._labelled(self._checked(self.edit(prompt, model)))
            for prompt in prompts
        ]

    def passes(self, prompt: VisualPrompt) -> bool:
        """True if the strategy skips this image: with several in one request, those without a region of their own."""
        return "region" in self.needs and not prompt.regions and prompt.place[1] > 1

    def edit(self, prompt: VisualPrompt, model: Model) -> VisualPrompt:
        """Edits one prompt. Subclasses define it.

        Args:
            prompt: the prompt.
            model: the model that it is for.

        Returns:
            A changed copy.
        """
        raise TypeError(f"{type(self).__name__} does not define edit().")

    def check(self, prompts: Sequence[VisualPrompt], model: Model) -> None:
        """Checks, before anything is computed, that model and prompts have what the strategy needs.

        Args:
            prompts: the prompts.
            model: the model that they are for.

        Raises:
            UnsupportedError: if the model cannot take what the strategy changes.
            InvalidInputError: if a prompt lacks a region or a query.
        """
        model.require(self.acts_on, self.name)
        if "vision" in self.needs:
            model.tower_named("vision")
        for prompt in prompts:
            if "region" in self.needs and not prompt.regions and not _companion_has_region(prompt):
                raise InvalidInputError(
                    f"strategy {self.name!r} needs a region and {prompt.request!r} has none: "
                    "give region=vp.Box(x0, y0, x1, y1), vp.Point(x, y, radius) or vp.Mask(array)."
                )
            if "query" in self.needs and not prompt.query:
                raise InvalidInputError(
                    f"strategy {self.name!r} needs a query and {prompt.request!r} has none: give query='…'."
                )

    def __add__(self, other: Prompter) -> Composition:
        """`first + second`: a composition, whose parts keep their own options."""
        if not isinstance(other, Prompter):
            return NotImplemented
        parts = [part for item in (self, other) for part in (item.parts if isinstance(item, Composition) else (item,))]
        return Composition(parts)

    def _checked(self, prompt: Any) -> VisualPrompt:
        if not isinstance(prompt, VisualPrompt) or not hasattr(prompt.image, "getpixel"):
            raise TypeError(
                f"{type(self).__name__}.edit() must return a VisualPrompt with a PIL image; it returned {prompt!r:.60}."
            )
        return prompt

    def _labelled(self, prompt: VisualPrompt) -> VisualPrompt:
        before = "" if prompt.label == "none" else prompt.label + "+"
        return prompt.with_(label=before + self.name)

    def describe(self) -> dict[str, Any]:
        """Name and options, ready for JSON; every result row holds them.

        Returns:
            `{"name": …, "options": …}`.
        """
        return {"name": self.name, "options": dataclasses.asdict(self.options)}

    def __repr__(self) -> str:
        return f"<Prompter {self.name} {dataclasses.asdict(self.options)}>"


class Composition(Prompter):
    """Several strategies, applied one after the other, left to right: `from_name("circle+falip")`, or `circle + falip`
    on objects when parts need options of their own.

    Args:
        parts: the strategies, in order.

    Raises:
        InvalidInputError: for fewer than two parts, or an ensemble among them.
    """

    def __init__(self, parts: Sequence[Prompter]) -> None:
        super().__init__()
        if len(parts) < 2 or any(hasattr(part, "members") for part in parts):
            raise InvalidInputError("a composition has two or more parts, and none of them is an ensemble.")
        self.parts = tuple(parts)
        self.name = "+".join(part.name for part in self.parts)
        self.acts_on = frozenset().union(*(part.acts_on for part in self.parts))  # type: ignore[misc]
        self.needs = frozenset().union(*(part.needs for part in self.parts))  # type: ignore[misc]

    def edit_all(self, prompts: Sequence[VisualPrompt], model: Model) -> list[VisualPrompt]:
        """Edits the prompts with every part in turn; see `Prompter.edit_all`."""
        self.check(prompts, model)
        result = list(prompts)
        for part in self.parts:
            result = part.edit_all(result, model)
        return result

    def learned_parts(self) -> list[Any]:
        """The learned strategies among its parts, in order."""
        return [found for part in self.parts for found in part.learned_parts()]

    def _saved_parts(self) -> tuple[Prompter, ...]:
        return self.parts

    def describe(self) -> dict[str, Any]:
        """Name and parts, ready for JSON."""
        return {"name": self.name, "parts": [part.describe() for part in self.parts]}

    def __repr__(self) -> str:
        return f"<Prompter {self.name}>"


def _companion_has_region(prompt: VisualPrompt) -> bool:
    """True if another image of the same request has a region."""
    request, count = prompt.request, prompt.place[1]
    return count > 1 and request is not None and any(request.regions_of(number) for number in range(count))


class Ensemble(Prompter):
    """Several strategies whose scores are summed, as FALIP's baselines are ensembled: `from_name("circle|blur")`.

    >>> Prompter.from_name("circle|blur").name
    'circle|blur'

    Args:
        members: the strategies.

    Raises:
        InvalidInputError: for fewer than two members.
    """

    def __init__(self, members: Sequence[Prompter]) -> None:
        super().__init__()
        if len(members) < 2:
            raise InvalidInputError("an ensemble has at least two members.")
        self.members = tuple(members)
        self.name = "|".join(member.name for member in self.members)
        self.acts_on = frozenset().union(*(member.acts_on for member in self.members))  # type: ignore[misc]
        self.needs = frozenset().union(*(member.needs for member in self.members))  # type: ignore[misc]

    def edit_all(self, prompts: Any, model: Any) -> Any:
        """Raises `InvalidInputError`: an ensemble has one prompt per member, so only `Runner.score` can run it."""
        raise InvalidInputError(
            f"the ensemble {self.name!r} has one prompt per member, and scores are what it sums: use Runner.score, or "
            "encode with each member on its own."
        )

    def learned_parts(self) -> list[Any]:
        """The learned strategies among its members, in order."""
        return [found for member in self.members for found in member.learned_parts()]

    def _saved_parts(self) -> tuple[Prompter, ...]:
        raise InvalidInputError("save the members of an ensemble one by one.")

    def describe(self) -> dict[str, Any]:
        """Name and members, ready for JSON."""
        return {"name": self.name, "members": [member.describe() for member in self.members]}


def make_prompter(name: str, preset: str | None = None, **options: Any) -> Prompter:
    """Makes one strategy, a composition `a+b`, or an ensemble `a|b` of either; see `Prompter.from_name`.

    Args:
        name: names, joined with `+` and `|`.
        preset: named settings, for the parts that have them.
        options: options, each for the parts that have it.

    Raises:
        UnknownNameError: for a name, preset or option that does not exist.
    """
    members = [[part.strip() for part in member.split("+")] for member in name.split("|")]
    parts = [part for member in members for part in member]
    kinds = {part: get_class(part) for part in parts}
    fields = {part: {item.name for item in dataclasses.fields(kind.Options)} for part, kind in kinds.items()}
    presets = {part: settings(kind).get("presets") or {} for part, kind in kinds.items()}
    known_options = set().union(*fields.values())
    for key in options:
        if key not in known_options:
            raise unknown_name(f"option of {name!r}", key, known_options)
    known_presets = set().union(*presets.values())
    if preset is not None and preset not in known_presets:
        raise unknown_name(f"preset of {name!r}", preset, known_presets)

    def make(part: str) -> Any:
        own = {key: value for key, value in options.items() if key in fields[part]}
        chosen = presets[part].get(preset) or {} if preset is not None else {}
        values = {**(settings(kinds[part]).get("defaults") or {}), **chosen, **own}
        prompter = kinds[part](checked_options(kinds[part].Options, part, values))
        prompter.name, prompter.given = part, frozenset({**chosen, **own})
        return prompter

    made = [[make(part) for part in member] for member in members]
    joined = [member[0] if len(member) == 1 else Composition(member) for member in made]
    return joined[0] if len(joined) == 1 else Ensemble(joined)


def prompter_named(name: str, preset: str | None = None, **options: Any) -> Prompter:
    """`Prompter.from_name`, where parts of the name may also be saved strategies: `"runs/patch+falip"`.

    Args:
        name: names of strategies, folders and bundled prompts, joined with `+` and `|`.
        preset: as in `from_name`; not for saved strategies.
        options: options, each for the parts that have it; of saved strategies those that may be changed after training.

    Returns:
        The strategy.

    Raises:
        InvalidInputError: as in `from_name`, `from_pretrained` and `with_options`; for a preset of a saved strategy.
        UnknownNameError: as they do.
    """
    members = [[name]] if is_saved(name) else [[part.strip() for part in item.split("+")] for item in name.split("|")]
    if not any(is_saved(part) for member in members for part in member):
        return Prompter.from_name(name, preset=preset, **options)
    if preset:
        raise InvalidInputError(f"{name}: a saved strategy has settings of its own; no preset.")
    made = [functools.reduce(operator.add, map(_part_named, member)) for member in members]
    return with_options(made[0] if len(made) == 1 else Ensemble(made), options)


def _part_named(name: str) -> Prompter:
    return Prompter.from_pretrained(name) if is_saved(name) else Prompter.from_name(name)


def _from_record(saved: SavedPrompt) -> Prompter:
    """Makes the saved strategy or composition. Options that a strategy does not have are dropped, with a warning.

    Raises:
        InvalidInputError: if a learned strategy's entry names no backbone.
        UnknownNameError: if a strategy is not installed.
    """
    from visprompt import __version__

    made: list[Any] = []
    for part in saved.parts:
        kind = get_class(part.name)
        fields = {item.name for item in dataclasses.fields(kind.Options)}
        unknown = sorted(set(part.options) - fields)
        if unknown:
            warnings.warn(
                f"{saved.file} was written by visprompt {saved.version} (this is {__version__}); options {unknown} of "
                f"{part.name!r} are not known here and are left out.",
                stacklevel=3,
            )
        values = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in part.options.items()
            if key in fields
        }
        prompter: Any = kind(checked_options(kind.Options, part.name, values))
        prompter.name = part.name
        if prompter.learned_parts() and not isinstance(part.learned.get("backbone"), dict):
            raise InvalidInputError(f"{saved.file} holds {part.name!r} without the backbone that it was learned on.")
        prompter.restore(part.tensors, part.learned)
        made.append(prompter)
    return made[0] if len(made) == 1 else Composition(made)
