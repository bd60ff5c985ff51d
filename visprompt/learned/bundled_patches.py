"""Which of the prompts that ship with the package was learned on a model: told by its weights, not by its name."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

from visprompt import bundled

if TYPE_CHECKING:
    from visprompt.models.base import Model


def patch_of(model: Model) -> Any:
    """The patch that was learned on a model's vision tower; None if none was.

    A copy of a bundled model in another folder or floating type is recognised, a fine-tuned one is another model.
    Of a vision-language model only the tower counts. What is given is shared: it must not be changed.
    """
    from visprompt.models.identity import is_tower_of

    return next((patch for patch in _patches() if is_tower_of(patch.backbone, model)), None)


@functools.cache
def _patches() -> tuple[Any, ...]:
    from visprompt.prompter import Prompter

    return tuple(Prompter.from_pretrained(f"bundled:{name}") for name in bundled.patches())


@functools.cache
def patch_digests() -> dict[str, str]:
    """For every bundled patch a hash of its weights and options: which figures may depend on it."""
    from visprompt.utils.hashing import digest

    found = {}
    for name in bundled.patches():
        content = json.loads((bundled.patch_path(name) / "config.json").read_text(encoding="utf-8"))
        options = [part["options"] for part in content["parts"]]
        found[name] = digest({"weights": content["weights_sha256"], "options": options})
    return found
