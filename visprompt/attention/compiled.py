"""Detects compiled code between a model and its attention: compiled code silently ignores hooks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from visprompt.errors import UnsupportedError


def is_compiled(module: nn.Module) -> bool:
    """Whether `torch.compile` or `module.compile()` has been called on a module.

    Args:
        module: the module itself; its children are not looked at.

    Returns:
        True if it is compiled.
    """
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def refuse_compiled(name: str) -> UnsupportedError:
    """Makes the error for an edit that needs hooks on a compiled model, where hooks added later have no effect.

    Args:
        name: the model's name for the message.

    Returns:
        The error, for the caller to raise.
    """
    return UnsupportedError(
        f"{name} is compiled, and this edit reaches its attention through hooks, which compiled code ignores: use it "
        "without torch.compile, or a transformers model with edits in its blocks, where they work under compilation."
    )


class CompiledCheck:
    """Checks whether any module between a model and the modules that edits reach is compiled.

    The path from the model to those modules is walked once, and again when the model or a module on the path has been
    replaced. Otherwise a check reads one attribute of each module on the path, so a later `torch.compile` is noticed
    too.
    """

    def __init__(self) -> None:
        self._root: nn.Module | None = None
        #: for every module on the path: the dict in which its parent keeps it, its name in that dict, and the module
        self._links: tuple[tuple[dict[str, Any], str, Any], ...] = ()
        self._compiled = False

    def __call__(self, root: nn.Module, reached: Iterable[nn.Module]) -> bool:
        """Whether compiled code runs on the path.

        Args:
            root: the model.
            reached: the modules inside it that edits reach; only read when the path is walked.

        Returns:
            True if a module on the path is compiled.
        """
        if root is not self._root or any(children.get(name) is not child for children, name, child in self._links):
            self._walk(root, reached)
        return self._compiled or any(child._compiled_call_impl is not None for _, _, child in self._links)

    def _walk(self, root: nn.Module, reached: Iterable[nn.Module]) -> None:
        parents: dict[int, tuple[nn.Module, str]] = {}
        for parent in root.modules():
            for name, child in parent._modules.items():
                if child is not None:
                    parents.setdefault(id(child), (parent, name))
        links: dict[int, tuple[dict[str, Any], str, Any]] = {id(root): ({"": root}, "", root)}
        for module in reached:
            while id(module) not in links:
                # A module that is no longer part of the model has no parent: its path is the module alone.
                parent, name = parents.get(id(module), (root, ""))
                children = parent._modules if name else {"": module}
                links[id(module)] = (children, name, module)
                module = parent
        self._links = tuple(links.values())
        self._compiled = any(hasattr(child, "_orig_mod") for _, _, child in links.values())
        self._root = root
