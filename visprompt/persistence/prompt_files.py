"""Strategies on the disk and on the hub: `config.json`, `prompt.safetensors`, a model card."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import operator
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprompt.errors import InvalidInputError, unknown_name
from visprompt.learned.strategy import Learned, learned_parts
from visprompt.prompter import Composition, Prompter, checked_options
from visprompt.registry import Ensemble, get_class
from visprompt.utils.files import write_bytes, write_text

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS, CARD = "config.json", "prompt.safetensors", "README.md"
_HUB_OPTIONS = frozenset({"revision", "cache_dir", "force_download", "local_files_only", "token"})


def save_prompter(prompter: Prompter, path: str | os.PathLike[str]) -> None:
    """Writes a strategy's name and options, and what it learned. Every file is replaced in one go."""
    from visprompt import __version__

    if isinstance(prompter, Ensemble):
        raise InvalidInputError("save the members of an ensemble one by one.")
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"{folder} cannot be made a folder to save in: {error.strerror}.") from None
    parts = prompter.parts if isinstance(prompter, Composition) else (prompter,)
    described: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for number, part in enumerate(parts):
        entry: dict[str, Any] = {"name": part.name, "options": dataclasses.asdict(part.options)}
        if isinstance(part, Learned):
            if part.parameters is None:
                raise InvalidInputError(
                    f"{part.name!r} has learned nothing yet, so there is nothing to save: fit it first."
                )
            entry |= {"backbone": part.backbone, "record": part.record}
            tensors |= {f"{number}.{name}": item.contiguous() for name, item in part.state().items()}
        described.append(entry)
    content: dict[str, Any] = {"visprompt_version": __version__, "parts": described}
    if tensors:
        from safetensors.torch import save

        # Weights first: a folder with a config always has weights. After a crash in between they may be newer than it.
        written = save(tensors, metadata={"format": "pt"})  # two would come in any order
        write_bytes(folder / WEIGHTS, written)
        content["weights_sha256"] = hashlib.sha256(written).hexdigest()
        from visprompt.persistence.model_card import card

        write_text(folder / CARD, card(prompter))
        for number, part in enumerate(learned_parts(prompter)):
            part.sketch(folder, number)
    write_text(folder / CONFIG, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def load_prompter(path: str | os.PathLike[str], **options: Any) -> Prompter:
    """Reads what `save_prompter` wrote, from a folder, from what ships, or from the hub: `Prompter.from_pretrained`.

    Raises:
        InvalidInputError: if there is no readable `config.json`, its weights are missing or do not fit, or an option
            belongs to what was learned.
        UnknownNameError: if its strategy is not installed, or there is none of that name.
    """
    folder, hub = _bundled(str(path)) or Path(path).expanduser(), {}
    for name in set(options) & _HUB_OPTIONS:
        hub[name] = options.pop(name)
    if not folder.exists() and _is_hub_id(str(path)):
        return with_options(_from_hub(str(path), **hub), options)
    if hub:
        raise InvalidInputError(f"{folder} is a folder; {', '.join(sorted(hub))} are for hub ids.")
    return with_options(_load_folder(folder), options)


def _bundled(name: str) -> Path | None:
    if not name.startswith("bundled:"):
        return None
    from visprompt import bundled

    try:
        return bundled.patch_path(name)
    except ValueError:
        raise unknown_name("bundled patch", name, [f"bundled:{one}" for one in bundled.patches()]) from None


def is_saved(name: str) -> bool:
    """True for a folder that a strategy was saved in, and for what ships (`bundled:…`), if it is there or not."""
    joined = "+" in name or "|" in name
    return (Path(name).expanduser() / CONFIG).is_file() or (name.startswith("bundled:") and not joined)


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
    made = [
        functools.reduce(operator.add, [load_prompter(p) if is_saved(p) else Prompter.from_name(p) for p in member])
        for member in members
    ]
    return with_options(made[0] if len(made) == 1 else Ensemble(made), options)


def with_options(prompter: Prompter, values: Mapping[str, Any]) -> Prompter:
    """The same strategy with some options chosen anew: those that what was learned does not depend on.

    Args:
        prompter: it is changed; of several joined every part that has the option.
        values: by name.

    Raises:
        UnknownNameError: for an option that no part has.
        InvalidInputError: for one that belongs to what was learned, or a value that it cannot have.
    """
    parts = _parts(prompter)
    known = {part: {item.name for item in dataclasses.fields(part.options)} for part in parts}
    free = {part: part.free & known[part] if isinstance(part, Learned) else known[part] for part in parts}
    for key in values:
        if not any(key in names for names in known.values()):
            raise unknown_name(f"option of {prompter.name!r}", key, set().union(*known.values()))
        if not any(key in names for names in free.values()):
            left = ", ".join(sorted(set().union(*free.values()))) or "none"
            raise InvalidInputError(
                f"{key} belongs to what {prompter.name!r} has learned, and cannot be chosen anew; these can: {left}."
            )
    for part in parts:
        own = {key: value for key, value in values.items() if key in free[part]}
        if own:
            part.options = dataclasses.replace(part.options, **own)
            part.given |= frozenset(own)
    return prompter


def _parts(prompter: Prompter) -> tuple[Prompter, ...]:
    inside: tuple[Prompter, ...] = getattr(prompter, "parts", None) or getattr(prompter, "members", None) or ()
    return tuple(one for part in inside for one in _parts(part)) if inside else (prompter,)


def _load_folder(folder: Path) -> Prompter:
    from visprompt import __version__

    file = folder / CONFIG
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        parts = [(str(part["name"]), dict(part["options"]), dict(part)) for part in content["parts"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        unfinished = (folder / "run.json").is_file()
        hint = " A training run lies there unfinished: the same fit command goes on with it." if unfinished else ""
        raise InvalidInputError(
            f"{file} is not a saved strategy ({type(error).__name__}): expected what save_pretrained wrote.{hint}"
        ) from None
    learned = any("backbone" in entry for _, _, entry in parts)
    tensors = _weights(folder, content.get("weights_sha256")) if learned else {}
    made: list[Prompter] = []
    for number, (name, options, entry) in enumerate(parts):
        kind = get_class(name)
        fields = {item.name for item in dataclasses.fields(kind.Options)}
        unknown = sorted(set(options) - fields)
        if unknown:
            warnings.warn(
                f"{file} was written by visprompt {content.get('visprompt_version')} (this is {__version__}); options "
                f"{unknown} of {name!r} are not known here and are left out.",
                stacklevel=4,
            )
        values = {
            key: tuple(value) if isinstance(value, list) else value for key, value in options.items() if key in fields
        }
        prompter = kind(checked_options(kind.Options, name, values))
        prompter.name = name
        if isinstance(prompter, Learned):
            if not isinstance(entry.get("backbone"), dict):
                raise InvalidInputError(f"{file} holds {name!r} without the backbone that it was learned on.")
            start = f"{number}."
            own = {key.removeprefix(start): item for key, item in tensors.items() if key.startswith(start)}
            prompter.restore(own, entry)
        made.append(prompter)
    return made[0] if len(made) == 1 else Composition(made)


def _weights(folder: Path, sha256: str | None) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    file = folder / WEIGHTS
    try:
        content = file.read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise InvalidInputError(
                f"{file} is not what {CONFIG} beside it speaks of: saving was cut off, or one of the two comes from "
                "elsewhere. Save it again."
            )
        return load(content)
    except (OSError, SafetensorError) as error:
        raise InvalidInputError(
            f"{file} cannot be read ({type(error).__name__}: {error}): a learned prompt needs its weights beside "
            f"{CONFIG}."
        ) from None


# -- the hub ----------------------------------------------------------------------------------------------------------


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _mixin() -> Any:
    """The hub's own mixin around a strategy, made on first use: importing it takes a while."""
    from huggingface_hub import ModelHubMixin, snapshot_download

    class Stored(ModelHubMixin, library_name="visprompt", tags=["visual-prompting"]):  # type: ignore[call-arg]
        def __init__(self, prompter: Prompter) -> None:
            self.prompter = prompter

        def _save_pretrained(self, save_directory: Path) -> None:
            save_prompter(self.prompter, save_directory)

        @classmethod
        def _from_pretrained(cls, *, model_id: str, **options: Any) -> Any:
            folder = snapshot_download(
                model_id,
                allow_patterns=[CONFIG, WEIGHTS],
                **{name: options[name] for name in sorted(_HUB_OPTIONS) if options.get(name) is not None},
            )
            return cls(_load_folder(Path(folder)))

        def generate_model_card(self, *args: Any, **kwargs: Any) -> Any:
            from huggingface_hub import ModelCard

            from visprompt.persistence.model_card import card

            return ModelCard(card(self.prompter))

    return Stored


def _from_hub(name: str, **options: Any) -> Prompter:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        found = _mixin().from_pretrained(name, **options)
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInputError(
            f"there is no folder {name!r}, and it cannot be had from the hub either: {first_line}"
        ) from None
    prompter: Prompter = found.prompter
    return prompter


def push_prompter(prompter: Prompter, repo_id: str, **options: Any) -> str:
    """Uploads what `save_prompter` writes; the token comes from the environment or `token=…`, never into a file."""
    return str(_mixin()(prompter).push_to_hub(repo_id, **options))
