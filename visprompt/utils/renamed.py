"""Names of visprompt 0.4.0 that were changed: the old ones work for one release, with a DeprecationWarning.

This covers parameters, attributes, names in modules, keys of files and values of options. Module paths are in
`moved_modules`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

#: the release that removes the old names
LAST = "0.6.0"
F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


def warn_renamed(what: str, old: str, new: str, stacklevel: int = 3) -> None:
    """Warns that a name was changed.

    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     warn_renamed("the parameter", "picture", "image")
    >>> print(caught[0].message)
    the parameter 'picture' is called 'image' now; the old name works until visprompt 0.6.0.

    Args:
        what: kind of the name, for the message.
        old: the old name.
        new: the new name.
        stacklevel: as in `warnings.warn`.
    """
    message = f"{what} {old!r} is called {new!r} now; the old name works until visprompt {LAST}."
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)


def warn_replaced(old: str, new: str, stacklevel: int = 3) -> None:
    """Warns that something of 0.4.0 was replaced, where `warn_renamed` would say too little.

    Args:
        old: the old function, class or call.
        new: what replaces it.
        stacklevel: as in `warnings.warn`; 3 is the caller of the function that calls this one.
    """
    warnings.warn(f"{old} is now {new}; the old name works until {LAST}.", DeprecationWarning, stacklevel=stacklevel)


def renamed_parameters(**names: str) -> Callable[[F], F]:
    """Makes a decorator that lets a function accept keyword arguments by their old names.

    Args:
        **names: old name → new name.

    >>> @renamed_parameters(picture="image")
    ... def size(image): return image
    >>> size(3)
    3

    Raises:
        TypeError: when the function is called with both names of an argument.
    """

    def wrap(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for old in names.keys() & kwargs.keys():
                new = names[old]
                if new in kwargs:
                    raise TypeError(f"{function.__qualname__}() got {new!r} twice: also under its old name {old!r}.")
                warn_renamed(f"{function.__qualname__}: the parameter", old, new)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        call.__renamed_parameters__ = dict(names)  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return wrap


def renamed_attributes(**names: str) -> Callable[[C], C]:
    """Makes a class decorator that keeps old names of attributes, methods and constructor arguments.

    Args:
        **names: old name → new name. If the new name is a parameter of the constructor, the old keyword is accepted
            too.
    """

    def property_of(old: str, new: str) -> property:
        def get(self: Any) -> Any:
            warn_renamed(f"{type(self).__name__}: the attribute", old, new)
            return getattr(self, new)

        return property(get, doc=f"The old name of `{new}`, until visprompt {LAST}.")

    def wrap(kind: C) -> C:
        for old, new in names.items():
            if old not in kind.__dict__:
                setattr(kind, old, property_of(old, new))
        parameters = inspect.signature(kind.__init__).parameters  # type: ignore[misc]
        taken = {old: new for old, new in names.items() if new in parameters}
        if taken:
            kind.__init__ = renamed_parameters(**taken)(kind.__init__)  # type: ignore[misc]
        return kind

    return wrap


def renamed_in_methods(**names: str) -> Callable[[C], C]:
    """`renamed_parameters` for all public methods of a class that have a parameter of a new name.

    Args:
        **names: old name → new name.
    """

    def wrap(kind: C) -> C:
        for name, function in list(vars(kind).items()):
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            parameters = inspect.signature(function).parameters
            taken = {old: new for old, new in names.items() if new in parameters and old not in parameters}
            if taken:
                setattr(kind, name, renamed_parameters(**taken)(function))
        return kind

    return wrap


def renamed_hooks(**names: str) -> Callable[[C], C]:
    """For a class that others derive from: a sub-class that overrides a method by its old name overrides the new one.

    The old name can be called too, `super().old()` in such an override included.

    Args:
        **names: old name → new name, of methods that the class itself has.
    """

    def wrap(kind: C) -> C:
        for old, new in names.items():
            setattr(kind, old, _old_method(old, new, kind.__dict__[new]))

        def take_old_names(sub: type, **options: Any) -> None:
            super(kind, sub).__init_subclass__(**options)  # type: ignore[arg-type]
            for old, new in names.items():
                if old in sub.__dict__ and new not in sub.__dict__:
                    warn_renamed(f"{sub.__name__}: the method", old, new)
                    setattr(sub, new, _overriding(sub.__dict__[old]))

        kind.__init_subclass__ = classmethod(take_old_names)  # type: ignore[assignment, arg-type]
        return kind

    return wrap


def _old_method(old: str, new: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """What the base class has under the old name."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        warn_renamed(f"{type(self).__name__}: the method", old, new)
        if hasattr(getattr(type(self), new), "__overrides_old_name__"):  # then this is its super() call
            return function(self, *args, **kwargs)
        return getattr(self, new)(*args, **kwargs)

    call.__doc__ = f"The old name of `{new}`, until visprompt {LAST}."
    return call


def _overriding(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method that a sub-class has under the old name, for the new one."""

    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    call.__overrides_old_name__ = True  # type: ignore[attr-defined]
    return call


def renamed_names(module: str, names: Mapping[str, str], namespace: Mapping[str, Any]) -> Callable[[str], Any]:
    """Makes a module's `__getattr__` that finds functions and classes by their old names.

    It raises AttributeError for names that are not in the table.

    Args:
        module: `__name__` of the module.
        names: old name → new name in the same module, or its path below `visprompt`, as in "prompter.Ensemble".
        namespace: `globals()` of the module.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new = names[name]
        if "." not in new:
            warn_renamed(module, name, new)
            return namespace[new]
        warn_renamed(module, name, f"visprompt.{new}")
        return _found(new)

    return find


def _found(path: str) -> Any:
    """What is at a path below `visprompt`: a module's name, or an attribute of it."""
    *parents, name = path.split(".")
    try:
        parent = importlib.import_module(".".join(["visprompt", *parents]))
    except ModuleNotFoundError:
        parent = _found(".".join(parents))
    return getattr(parent, name)


def renamed_keys(content: Mapping[str, Any], names: Mapping[str, str], where: str) -> dict[str, Any]:
    """Returns the content of a file with old keys replaced by new ones, in the same order.

    Args:
        content: the mapping as it was read.
        names: old key → new key.
        where: description of the file, for the warning.
    """
    found = {}
    for key, value in content.items():
        new = names.get(key, key)
        if new != key and new not in content:
            warn_renamed(f"{where}: the key", key, new)
        found[new if new not in content else key] = value
    return found


def renamed_value(value: Any, names: Mapping[str, str], where: str) -> Any:
    """Returns an option's value under its new name; other values are returned unchanged.

    >>> renamed_value("folder", {"pictures": "images"}, "format")
    'folder'

    Args:
        value: the value as given.
        names: old value → new value.
        where: description of the option, for the warning.
    """
    if not isinstance(value, str) or value not in names:
        return value
    warn_renamed(
        f"{where}: the value", value, names[value], stacklevel=4
    )  # whoever called the function with the option
    return names[value]
