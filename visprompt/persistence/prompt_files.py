"""Files of saved prompts: reads and writes records; `visprompt.prompter` builds strategies from them.

A folder holds `config.json` (names and options of the strategies, in order); for learned strategies also
`prompt.safetensors` and a model card. The hub holds the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprompt.errors import InvalidInputError, unknown_name
from visprompt.utils.files import write_bytes, write_text
from visprompt.utils.renamed import renamed_names

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS, CARD = "config.json", "prompt.safetensors", "README.md"
_HUB_OPTIONS = frozenset({"revision", "cache_dir", "force_download", "local_files_only", "token"})


@dataclass(frozen=True, eq=False)
class SavedPart:
    """One strategy of a saved prompt.

    Attributes:
        name: name of the strategy in the registry.
        options: its options, ready for JSON.
        learned: `backbone` and `record` of a learned strategy; empty for others.
        tensors: trained tensors on the CPU, by the names of `Learned.state`.
    """

    name: str
    options: dict[str, Any]
    learned: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SavedPrompt:
    """The content of a folder.

    Attributes:
        file: path of its `config.json`.
        version: version of visprompt that wrote it.
        parts: its strategies in order.
    """

    file: Path
    version: str
    parts: tuple[SavedPart, ...]


def write_prompt(
    path: str | os.PathLike[str], parts: Sequence[SavedPart], beside: Callable[[Path], None] | None = None
) -> None:
    """Writes a prompt into a folder, created if necessary. Every file is replaced atomically.

    Args:
        path: the folder.
        parts: the strategies in order.
        beside: writes further files (model card, images) into the folder, for prompts with tensors.

    Raises:
        InvalidInputError: if the folder cannot be created.
    """
    from visprompt import __version__

    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"{folder} cannot be made a folder to save in: {error.strerror}.") from None
    described = [{"name": part.name, "options": part.options, **part.learned} for part in parts]
    content: dict[str, Any] = {"visprompt_version": __version__, "parts": described}
    tensors = {
        f"{number}.{name}": item.contiguous()
        for number, part in enumerate(parts)
        for name, item in part.tensors.items()
    }
    if tensors:
        from safetensors.torch import save

        # Weights first: a folder with a config then always has weights. After a crash they may be newer than it.
        written = save(tensors, metadata={"format": "pt"})  # one entry, since several have no fixed order
        write_bytes(folder / WEIGHTS, written)
        content["weights_sha256"] = hashlib.sha256(written).hexdigest()
        if beside is not None:
            beside(folder)
    write_text(folder / CONFIG, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_prompt(path: str | os.PathLike[str], **hub: Any) -> SavedPrompt:
    """Reads a prompt that `write_prompt` wrote, from a folder, from the package, or from the hub.

    Args:
        path: the folder; `bundled:NAME`; or a hub id, if there is no such folder.
        **hub: options for the hub (`hub_options`).

    Returns:
        The record of the prompt.

    Raises:
        InvalidInputError: if there is no readable `config.json`, or its weights are missing or do not match.
        UnknownNameError: if there is no bundled prompt of that name.
    """
    folder = _bundled(str(path)) or Path(path).expanduser()
    if not folder.exists() and _is_hub_id(str(path)):
        return _from_hub(str(path), **hub)
    if hub:
        raise InvalidInputError(f"{folder} is a folder; {', '.join(sorted(hub))} are for hub ids.")
    return _read_folder(folder)


def hub_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that are for the hub: `revision`, `token`, `cache_dir`, …"""
    return {name: value for name, value in options.items() if name in _HUB_OPTIONS}


def _bundled(name: str) -> Path | None:
    if not name.startswith("bundled:"):
        return None
    from visprompt import bundled

    try:
        return bundled.patch_path(name)
    except ValueError:
        raise unknown_name("bundled patch", name, [f"bundled:{one}" for one in bundled.patches()]) from None


def is_saved(name: str) -> bool:
    """True for a folder with a saved strategy, and for any name `bundled:…`, whether it exists or not."""
    joined = "+" in name or "|" in name
    return (Path(name).expanduser() / CONFIG).is_file() or (name.startswith("bundled:") and not joined)


def _read_folder(folder: Path) -> SavedPrompt:
    file = folder / CONFIG
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        parts = [(str(part["name"]), dict(part["options"]), dict(part)) for part in content["parts"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        unfinished = (folder / "run.json").is_file()
        hint = " An unfinished training run lies there: the same fit command goes on with it." if unfinished else ""
        raise InvalidInputError(
            f"{file} is not a saved strategy ({type(error).__name__}): expected what save_pretrained wrote.{hint}"
        ) from None
    learned = any("backbone" in entry for _, _, entry in parts)
    tensors = _weights(folder, content.get("weights_sha256")) if learned else {}
    made = []
    for number, (name, options, entry) in enumerate(parts):
        start = f"{number}."
        own = {key.removeprefix(start): item for key, item in tensors.items() if key.startswith(start)}
        rest = {key: _renamed(value) for key, value in entry.items() if key not in ("name", "options")}
        made.append(SavedPart(name, options, rest, own))
    return SavedPrompt(file, str(content.get("visprompt_version")), tuple(made))


def _renamed(value: Any) -> Any:
    """A record of 0.4.0 with today's keys and values."""
    if isinstance(value, dict):
        found = {
            ("image_gain" if key == "picture_gain" else key): _renamed(item) for key, item in value.items()
        }  # 0.4.0
        return {**found, "kind": "images"} if found.get("kind") == "pictures" else found  # 0.4.0
    return [_renamed(item) for item in value] if isinstance(value, list) else value


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
    """The hub's mixin around a saved prompt, created on first use, since importing it is slow."""
    from huggingface_hub import ModelHubMixin, snapshot_download

    class Stored(ModelHubMixin, library_name="visprompt", tags=["visual-prompting"]):  # type: ignore[call-arg]
        def __init__(
            self,
            saved: SavedPrompt | None = None,
            write: Callable[[Path], None] | None = None,
            card: Callable[[], str] | None = None,
        ) -> None:
            self.saved, self.write, self.card = saved, write, card

        def _save_pretrained(self, save_directory: Path) -> None:
            assert self.write is not None
            self.write(save_directory)

        @classmethod
        def _from_pretrained(cls, *, model_id: str, **options: Any) -> Any:
            folder = snapshot_download(
                model_id,
                allow_patterns=[CONFIG, WEIGHTS],
                **{name: options[name] for name in sorted(_HUB_OPTIONS) if options.get(name) is not None},
            )
            return cls(_read_folder(Path(folder)))

        def generate_model_card(self, *args: Any, **kwargs: Any) -> Any:
            from huggingface_hub import ModelCard

            assert self.card is not None
            return ModelCard(self.card())

    return Stored


def _from_hub(name: str, **options: Any) -> SavedPrompt:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        found = _mixin().from_pretrained(name, **options)
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInputError(
            f"there is no folder {name!r}, and it cannot be had from the hub either: {first_line}"
        ) from None
    saved: SavedPrompt = found.saved
    return saved


def push_prompt(write: Callable[[Path], None], card: Callable[[], str], repo_id: str, **options: Any) -> str:
    """Uploads a prompt; the token comes from the environment or `token=…` and is never written to a file.

    Args:
        write: writes the prompt's files into a folder.
        card: gives the model card as Markdown.
        repo_id: "user/name".
        **options: as in huggingface_hub's `push_to_hub`.

    Returns:
        The address of the upload.
    """
    return str(_mixin()(write=write, card=card).push_to_hub(repo_id, **options))


#: names of 0.4.0
__getattr__ = renamed_names(
    __name__,
    {
        "load_prompter": "prompter.Prompter.from_pretrained",
        "save_prompter": "prompter.Prompter.save_pretrained",
        "push_prompter": "prompter.Prompter.push_to_hub",
        "prompter_named": "prompter.prompter_named",
        "with_options": "registry.with_options",
        "write_whole": "utils.files.write_bytes",
    },
    globals(),
)
