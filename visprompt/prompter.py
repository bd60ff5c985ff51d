"""The interface of every strategy, and composition.

A strategy turns one `VisualPrompt` into the next: `edit(prompt, model)`. That makes composition a chain, left to right,
and keeps strategies ignorant of batching, devices, hooks and checkpoints.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from visprompt.errors import InvalidInputError, UnsupportedError, unknown_name
from visprompt.persistence.prompt_files import (
    CARD,
    SavedPart,
    SavedPrompt,
    hub_options,
    is_saved,
    push_prompt,
    read_prompt,
    write_prompt,
)
from visprompt.registry import Options as Options
from visprompt.registry import Strategy, checked_options, get_class, settings, with_options
from visprompt.utils.files import write_text
from visprompt.visual_prompt import VisualPrompt

if TYPE_CHECKING:
    from torch import Tensor

    from visprompt.models.base import Model
    from visprompt.request import Request


class Prompter(Strategy):
    """A way of making a model look somewhere.

    Sub-classes set `Options`, `acts_on`, `needs` and write `edit`. Numbers in `<module>.yaml` beside the module are the
    measured defaults (`defaults:`) and named settings (`presets:`).

    >>> import visprompt as vp
    >>> vp.Prompter.from_name("circle", width=3).options.width
    3
    """

    #: options with which it changes nothing, or None if it has no such setting; the tests check it bit for bit
    neutral: ClassVar[dict[str, Any] | None] = None

    # -- making one -------------------------------------------------------------------------------------------------

    @staticmethod
    def from_name(name: str, preset: str | None = None, **options: Any) -> Prompter:
        """Makes a strategy, or several joined with `+` (left to right).

        Args:
            name: `"falip"`, `"circle+falip"`, `"crop+falip"`, …; see `list_strategies()`.
            preset: named settings of that strategy, e.g. `"paper"`.
            **options: its options. In a composition every option goes to the parts that have it.

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
            path: folder that `save_pretrained` or `fit(out=…)` wrote, a hub id, or a learned prompt that ships:
                `"bundled:patch-scenes-clip"`.
            **options: options of the strategy that only say how it is used (`place="rim"`); for a hub id also
                `revision`, `token`, `cache_dir`, `local_files_only` and `force_download`.

        Raises:
            InvalidInputError: if there is no such thing, it is not a saved strategy, or an option belongs to what was
                learned.
            UnknownNameError: if its strategy is not installed, or none ships under that name.
        """
        hub = hub_options(options)
        made = _from_record(read_prompt(path, **hub))
        return with_options(made, {name: value for name, value in options.items() if name not in hub})

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Writes `config.json` (strategy, options, version), for a learned strategy `prompt.safetensors` and a model
        card too, into the folder `path`, made if it is not there.
        """
        write_prompt(path, [part.saved() for part in self._saved_parts()], self._write_beside)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Puts what `save_pretrained` writes on the Hugging Face hub.

        Args:
            repo_id: "user/name".
            **options: `private`, `token`, `branch`, `commit_message`, …, as huggingface_hub has them.

        Returns:
            Where it is.
        """
        return push_prompt(self.save_pretrained, self._card, repo_id, **options)

    def saved(self) -> SavedPart:
        """The record that `save_pretrained` writes of it."""
        return SavedPart(self.name, dataclasses.asdict(self.options))

    def restore(self, state: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
        """Takes back what `saved` gave beside name and options: tensors, and the rest of the entry in `config.json`."""

    def learned_parts(self) -> list[Any]:
        """The learned strategies in it, in order."""
        return []

    def _saved_parts(self) -> tuple[Prompter, ...]:
        return (self,)

    def _card(self) -> str:
        from visprompt.persistence.model_card import card

        return card(self)

    def _write_beside(self, folder: Path) -> None:
        """A card and images, beside what was learned."""
        write_text(folder / CARD, self._card())
        for number, part in enumerate(self.learned_parts()):
            part.sketch(folder, number)

    def fit(self, model: Model, data: Any, **settings: Any) -> Any:
        """Learns the prompt; strategies without anything to learn say so."""
        raise UnsupportedError(f"{self.name or type(self).__name__!r} has nothing to learn: use it as it is.")

    # -- using it ---------------------------------------------------------------------------------------------------

    def prompt(self, requests: Request | Iterable[Request], model: Model) -> list[VisualPrompt]:
        """One prompt per request and region, in order (`regions_as="together"`: one per request).

        Raises:
            UnsupportedError: if the model cannot take in what the strategy changes.
            InvalidInputError: if a request lacks what the strategy needs.
        """
        from visprompt.request import Request as RequestType

        items = [requests] if isinstance(requests, RequestType) else list(requests)
        return self.edit_all([unit for request in items for unit in request.units()], model)

    def edit_all(self, prompts: Sequence[VisualPrompt], model: Model) -> list[VisualPrompt]:
        """Edits many prompts; strategies that need a model's help override it to work in batches."""
        self.check(prompts, model)
        return [
            prompt if self.passes(prompt) else self._labelled(self._checked(self.edit(prompt, model)))
            for prompt in prompts
        ]

    def passes(self, prompt: VisualPrompt) -> bool:
        """True for an image that is left as it is: of several in one request, those without a region of their own."""
        return "region" in self.needs and not prompt.regions and prompt.place[1] > 1

    def edit(self, prompt: VisualPrompt, model: Model) -> VisualPrompt:
        """Turns one prompt into the next. This is what a strategy is."""
        raise TypeError(f"{type(self).__name__} does not define edit().")

    def check(self, prompts: Sequence[VisualPrompt], model: Model) -> None:
        """Says, before anything is computed, what is missing."""
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
        """`first + second`: one after the other, each with options of its own."""
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
        """Name and options, ready for JSON: goes into every result row."""
        return {"name": self.name, "options": dataclasses.asdict(self.options)}

    def __repr__(self) -> str:
        return f"<Prompter {self.name} {dataclasses.asdict(self.options)}>"


class Composition(Prompter):
    """Several strategies, one after the other, left to right: `from_name("circle+falip")`, or `circle + falip` on
    objects when parts need options of their own.

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
        self.check(prompts, model)
        result = list(prompts)
        for part in self.parts:
            result = part.edit_all(result, model)
        return result

    def learned_parts(self) -> list[Any]:
        return [found for part in self.parts for found in part.learned_parts()]

    def _saved_parts(self) -> tuple[Prompter, ...]:
        return self.parts

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "parts": [part.describe() for part in self.parts]}

    def __repr__(self) -> str:
        return f"<Prompter {self.name}>"


def _companion_has_region(prompt: VisualPrompt) -> bool:
    """True if another image of the same request has a region."""
    request, count = prompt.request, prompt.place[1]
    return count > 1 and request is not None and any(request.regions_of(number) for number in range(count))


class Ensemble(Prompter):
    """Several strategies whose scores are summed (the way FALIP's baselines are ensembled); `from_name("circle|blur")`.

    >>> Prompter.from_name("circle|blur").name
    'circle|blur'
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
        raise InvalidInputError(
            f"the ensemble {self.name!r} has one prompt per member, and scores are what it sums: use Runner.score, or "
            "encode with each member on its own."
        )

    def learned_parts(self) -> list[Any]:
        return [found for member in self.members for found in member.learned_parts()]

    def _saved_parts(self) -> tuple[Prompter, ...]:
        raise InvalidInputError("save the members of an ensemble one by one.")

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "members": [member.describe() for member in self.members]}


def make_prompter(name: str, preset: str | None = None, **options: Any) -> Prompter:
    """`Prompter.from_name`: one strategy, a composition `a+b`, or an ensemble `a|b` of either.

    With several parts every option, and the preset, goes to the parts that have it.
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
    """`Prompter.from_name`, in whose names parts may also be saved strategies: `"runs/patch+falip"`.

    Args:
        name: of strategies, folders and what ships, joined with `+` and `|`.
        preset: as in `from_name`; saved strategies have none.
        options: of every part that has them; of saved ones those that can be chosen anew.

    Raises:
        InvalidInputError: as `from_name`, `from_pretrained` and `with_options`; for a preset of something saved.
        UnknownNameError: as they do.
    """
    members = [[name]] if is_saved(name) else [[part.strip() for part in one.split("+")] for one in name.split("|")]
    if not any(is_saved(part) for member in members for part in member):
        return Prompter.from_name(name, preset=preset, **options)
    if preset:
        raise InvalidInputError(f"{name}: a saved strategy has settings of its own; no preset.")
    made = [functools.reduce(operator.add, map(_part_named, member)) for member in members]
    return with_options(made[0] if len(made) == 1 else Ensemble(made), options)


def _part_named(name: str) -> Prompter:
    return Prompter.from_pretrained(name) if is_saved(name) else Prompter.from_name(name)


def _from_record(saved: SavedPrompt) -> Prompter:
    """Makes the strategy, or the composition, that was saved.

    Options that its strategies do not know are left out, with a warning.

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
