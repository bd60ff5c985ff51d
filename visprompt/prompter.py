"""The interface of every strategy, and composition.

A strategy turns one `VisualPrompt` into the next: `edit(prompt, model)`. That makes composition a chain, left to right,
and keeps strategies ignorant of batching, devices, hooks and checkpoints.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from visprompt.errors import InvalidInputError, UnsupportedError, unknown_name
from visprompt.visual_prompt import VisualPrompt

if TYPE_CHECKING:
    from visprompt.models.base import Model
    from visprompt.request import Request


@dataclasses.dataclass(frozen=True)
class Options:
    """Base of every strategy's options: a frozen dataclass whose fields are the option names."""


class Prompter:
    """A way of making a model look somewhere.

    Sub-classes set `Options`, `acts_on`, `needs` and write `edit`. Numbers in `<module>.yaml` beside the module are the
    measured defaults (`defaults:`) and named settings (`presets:`).

    >>> import visprompt as vp
    >>> vp.Prompter.from_name("circle", width=3).options.width
    3
    """

    Options: ClassVar[type[Options]] = Options
    #: what it changes: "pixels", "text", "tokens", "attention"
    acts_on: ClassVar[frozenset[str]] = frozenset()
    #: what it cannot do without: "region", "query", "training", "prompt" (another strategy before it), "vision" (a
    #: vision tower that can be edited), "map" (a model that can be asked where it looks)
    needs: ClassVar[frozenset[str]] = frozenset({"region"})
    #: options with which it changes nothing, or None if it has no such setting; the tests check it bit for bit
    neutral: ClassVar[dict[str, Any] | None] = None
    #: of a strategy that needs another one before it, the name of one that suits; for checks and examples
    follows: ClassVar[str] = ""
    #: the name in the registry; set by the registry
    name: str = ""
    #: names of the options that were asked for, also by a preset; set by the registry
    given: frozenset[str] = frozenset()

    def __init__(self, options: Any = None) -> None:
        self.options: Any = options if options is not None else self.Options()

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
        from visprompt.registry import make_prompter

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
        from visprompt.persistence.prompt_files import load_prompter

        return load_prompter(path, **options)

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Writes `config.json` (strategy, options, version), for a learned strategy `prompt.safetensors` and a model
        card too, into the folder `path`, made if it is not there.
        """
        from visprompt.persistence.prompt_files import save_prompter

        save_prompter(self, path)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Puts what `save_pretrained` writes on the Hugging Face hub.

        Args:
            repo_id: "user/name".
            **options: `private`, `token`, `branch`, `commit_message`, …, as huggingface_hub has them.

        Returns:
            Where it is.
        """
        from visprompt.persistence.prompt_files import push_prompter

        return push_prompter(self, repo_id, **options)

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
        """True for a picture that is left as it is: of several in one request, those without a region of their own."""
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
        if not isinstance(prompt, VisualPrompt) or not hasattr(prompt.picture, "getpixel"):
            raise TypeError(
                f"{type(self).__name__}.edit() must return a VisualPrompt with a PIL picture; it "
                f"returned {prompt!r:.60}."
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

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "parts": [part.describe() for part in self.parts]}

    def __repr__(self) -> str:
        return f"<Prompter {self.name}>"


def _companion_has_region(prompt: VisualPrompt) -> bool:
    """True if another picture of the same request has a region."""
    request, count = prompt.request, prompt.place[1]
    return count > 1 and request is not None and any(request.regions_of(number) for number in range(count))


def checked_options(kind: type[Options], name: str, values: dict[str, Any]) -> Options:
    """Builds options, naming the known ones if one does not exist."""
    known = [item.name for item in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            raise unknown_name(f"option of {name!r}", key, known)
    return kind(**values)
