"""`load_model` and `wrap`: make a `Model` of a name, a folder, or a module that is already loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from visprompt.attention.compiled import is_compiled
from visprompt.errors import InvalidInputError, UnsupportedError, VispromptError, unknown_name
from visprompt.models.base import Model, Parts


def list_models() -> list[str]:
    """Lists the models that come with the package; any hub id, folder, open_clip or timm name can be loaded as well.

    >>> list_models()
    ['bundled:scenes-clip', 'bundled:scenes-clip-annotated', 'bundled:scenes-llava', 'bundled:scenes-mae']

    Returns:
        Names for `load_model`, sorted.
    """
    from visprompt import bundled

    return [f"bundled:{name}" for name in sorted(bundled.names())]


def load_model(
    name: str | os.PathLike[str],
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    trust_remote_code: bool = False,
    **options: Any,
) -> Model:
    """Loads a model and wraps it for visual prompts.

    Args:
        name: `"bundled:scenes-clip"`; a transformers hub id or local folder; `"open_clip:ARCHITECTURE/TAG"`;
            `"timm:NAME"`; `"remote:NAME"` with `base_url=…` for a model behind a chat API (`RemoteModel`).
        device: `"auto"` chooses CUDA, then Apple's MPS, then the CPU.
        dtype: `"auto"` keeps the checkpoint's type on a GPU and uses float32 on a CPU; or a name such as `"bfloat16"`.
        trust_remote_code: run code from a hub repository; off by default.
        **options: arguments of the library's loader (`revision`, `cache_dir`, …); for remote models the settings of
            `RemoteModel`, which ignores device and dtype.

    Returns:
        The model.

    Raises:
        UnknownNameError: for a bundled model, open_clip architecture or timm name that does not exist.
        InvalidInputError: if the folder or hub id cannot be loaded.
        UnsupportedError: for an unknown type of model.
    """
    if not isinstance(name, str | os.PathLike):
        raise InvalidInputError(f"load_model takes a name or a folder; got {name!r:.80}. For a module use vp.wrap.")
    name = os.fspath(name)
    where, kind = pick_device(device), pick_dtype(dtype)
    prefix, _, rest = name.partition(":")
    if prefix == "bundled":
        from visprompt import bundled

        if rest not in bundled.names():
            raise unknown_name("bundled model", rest, bundled.names())
        with _without_progress_bar():  # loading a few megabytes from disk needs none
            module, processor, tokenizer = _load_transformers(str(bundled.path(rest)), kind, where, False, options)
    elif prefix == "open_clip":
        module, processor, tokenizer = _load_open_clip(rest, options)
    elif prefix == "timm":
        module, processor, tokenizer = _load_timm(rest, options)
    elif prefix == "remote":
        from visprompt.models.remote.model import load_remote

        return load_remote(rest, **options)
    else:
        module, processor, tokenizer = _load_transformers(name, kind, where, trust_remote_code, options)
    module = module.to(where)
    if kind is not None or where.type == "cpu":
        module = module.to(kind or torch.float32)
    return wrap(module.eval(), processor, tokenizer, name=name)


def wrap(module: nn.Module, processor: Any = None, tokenizer: Any = None, name: str | None = None) -> Model:
    """Wraps a module that is already loaded; `model.unwrap()` returns it unchanged.

    Args:
        module: an image encoder of transformers, open_clip or timm, or an LVLM of transformers, on any device, in any
            floating type.
        processor: its image processor (or a processor that holds one), or its torchvision transform; for an LVLM its
            processor.
        tokenizer: its tokenizer, for models with a text tower.
        name: its name in results; None: its class.

    Returns:
        The model.

    Raises:
        InvalidInputError: if something is missing or `module` is no module.
        UnsupportedError: for an unknown type of model.
    """
    if isinstance(module, Model):
        raise InvalidInputError("this is a wrapped model already: use it as it is, or unwrap() it first.")
    if not isinstance(module, nn.Module):
        raise InvalidInputError(
            f"wrap takes a torch.nn.Module; got {type(module).__name__}. For a name use vp.load_model(name)."
        )
    inner = getattr(module, "_orig_mod", module)
    origins = {base.__module__.partition(".")[0] for base in type(inner).__mro__}
    parts: Parts
    if "transformers" in origins:
        from visprompt.models.lvlm.families import FAMILIES as LVLM_FAMILIES

        if str(getattr(inner.config, "model_type", "")) in LVLM_FAMILIES:
            from visprompt.models.lvlm.model import LVLM

            return LVLM(module, processor, tokenizer, name or type(inner).__name__)
        from visprompt.models.backends import transformers as backend

        parts = backend.parts_of(module, processor, tokenizer)
    elif hasattr(inner, "visual") and (hasattr(inner, "encode_image") or "open_clip" in origins):
        from visprompt.models.backends import open_clip as backend  # type: ignore[no-redef]

        parts = backend.parts_of(module, processor, tokenizer)
    elif hasattr(inner, "forward_features") and hasattr(inner, "forward_head"):
        from visprompt.models.backends import timm as backend  # type: ignore[no-redef]

        parts = backend.parts_of(module, processor, tokenizer)
    else:
        raise UnsupportedError(
            f"{type(inner).__name__} is not a model of transformers, open_clip or timm; visprompt wraps "
            "image encoders of "
            "these three (docs/adding-a-model.md says how to add another)."
        )
    model = Model(module, parts, name or type(inner).__name__)
    if is_compiled(module) and parts.tower is not None and parts.tower.sites[0].backend != "transformers":
        model.unwrap()
        raise UnsupportedError(
            f"{type(inner).__name__} is compiled, and its attention is reached through hooks, which "
            "compiled code ignores: "
            "wrap the module before torch.compile."
        )
    return model


def pick_device(device: str | torch.device) -> torch.device:
    """Chooses a device.

    Args:
        device: a device; `"auto"`: CUDA, then MPS, then CPU.

    Returns:
        The device.

    Raises:
        InvalidInputError: for a device that cannot be used.
    """
    if device != "auto":
        try:
            found = torch.device(device)
            torch.empty(1, device=found)
            return found
        except (RuntimeError, AssertionError) as error:
            raise InvalidInputError(f"device {device!r} cannot be used here: {str(error).splitlines()[0]}") from None
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def pick_dtype(dtype: str | torch.dtype) -> torch.dtype | None:
    """Converts the name of a floating type.

    Args:
        dtype: a name or type; `"auto"`.

    Returns:
        The type; None for `"auto"`.

    Raises:
        InvalidInputError: for anything else.
    """
    if dtype == "auto" or isinstance(dtype, torch.dtype):
        return None if dtype == "auto" else dtype
    found = getattr(torch, str(dtype), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InvalidInputError(f"dtype {dtype!r} is not a floating type: use float32, float16, bfloat16 or auto.")
    return found


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def _load_transformers(
    name: str, dtype: torch.dtype | None, device: torch.device, trust: bool, options: dict[str, Any]
) -> tuple[nn.Module, Any, Any]:
    import transformers

    folder = Path(name).expanduser()
    is_folder = folder.is_dir()
    if not is_folder and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise InvalidInputError(
            f"there is no folder {name!r}: give a folder with config.json and safetensors, or a hub id."
        )
    if not is_folder and "/" not in name:
        raise unknown_name(
            "model",
            name,
            list_models(),
            "Otherwise: a hub id such as 'openai/clip-vit-base-patch16', a folder, 'open_clip:ARCH/TAG' "
            "or 'timm:NAME'.",
        )
    where = str(folder) if is_folder else name
    common: dict[str, Any] = {"trust_remote_code": trust, **options}
    wanted: Any = dtype if dtype is not None else ("auto" if device.type != "cpu" else torch.float32)
    from visprompt.models.lvlm.families import FAMILIES as LVLM_FAMILIES

    try:
        kind = transformers.AutoConfig.from_pretrained(where, **common).model_type
        if kind in LVLM_FAMILIES:
            writes: Any = transformers.AutoModelForImageTextToText
            module = writes.from_pretrained(where, dtype=wanted, use_safetensors=True, **common)
            return module, transformers.AutoProcessor.from_pretrained(where, **common), None
        module = transformers.AutoModel.from_pretrained(where, dtype=wanted, use_safetensors=True, **common)
        processor = transformers.AutoImageProcessor.from_pretrained(where, **common)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InvalidInputError(
            f"{name!r} cannot be loaded as a transformers model: {first_line} (expected a hub id or a "
            "folder with config.json, "
            "safetensors weights and preprocessor_config.json)"
        ) from error
    tokenizer = None
    if hasattr(module, "get_text_features"):
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(where, **common)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise InvalidInputError(f"{name!r} has a text tower but its tokenizer cannot be loaded: {error}") from error
    return module, processor, tokenizer


def _load_open_clip(name: str, options: dict[str, Any]) -> tuple[nn.Module, Any, Any]:
    import open_clip

    architecture, _, tag = name.partition("/")
    local = name.startswith(("hf-hub:", "local-dir:"))
    if local:
        architecture, tag = name, ""
    elif architecture not in open_clip.list_models():
        raise unknown_name("open_clip architecture", architecture, open_clip.list_models()[:400])
    elif not tag:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise InvalidInputError(
            f"open_clip:{architecture} needs a pretrained tag, e.g. open_clip:{architecture}/{(tags or ['TAG'])[0]}."
        )
    elif not Path(tag).exists() and tag not in open_clip.list_pretrained_tags_by_model(architecture):
        raise unknown_name(
            f"pretrained tag of {architecture}", tag, open_clip.list_pretrained_tags_by_model(architecture)
        )
    try:
        module, _, transform = open_clip.create_model_and_transforms(architecture, pretrained=tag or None, **options)
        return module, transform, open_clip.get_tokenizer(architecture)
    except VispromptError:
        raise
    except Exception as error:
        raise InvalidInputError(f"open_clip:{name} cannot be loaded: {type(error).__name__}: {error}") from error


def _load_timm(name: str, options: dict[str, Any]) -> tuple[nn.Module, Any, Any]:
    import timm

    bare = name.partition(".")[0]
    local = name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    if not local and bare not in timm.list_models():
        raise unknown_name("timm model", bare, timm.list_models())
    try:
        module = timm.create_model(name, pretrained=True, **{"num_classes": 0, **options})
    except Exception as error:
        raise InvalidInputError(f"timm:{name} cannot be loaded: {type(error).__name__}: {error}") from error
    return module, timm.data.create_transform(**timm.data.resolve_model_data_config(module)), None
