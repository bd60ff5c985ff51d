"""No file, function or list of parameters grows past what one reads in a sitting."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import visprompt

#: the package; in a checkout `strategies/`, `benchmarks/` and `zoo/` lie beside it
PACKAGE = Path(visprompt.__file__).parent
BESIDE = tuple(PACKAGE.parent / name for name in ("strategies", "benchmarks", "zoo"))
FILE_LINES, FUNCTION_LINES, PARAMETERS = 400, 60, 12


def sources() -> list[Path]:
    """All Python files that are checked."""
    folders = [PACKAGE, *(folder for folder in BESIDE if folder.is_dir())]
    # In an installed package the three folders are links inside of the package.
    found = {path.resolve() for folder in folders for path in folder.rglob("*.py")}
    return sorted(found)


def _called(path: Path) -> str:
    root = PACKAGE.parent.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def too_large(text: str) -> Iterator[str]:
    """What of a file's text is too large, as sentences."""
    lines = text.count("\n")
    if lines > FILE_LINES:
        yield f"{lines} lines"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        assert node.end_lineno is not None
        length = node.end_lineno - node.lineno + 1
        if length > FUNCTION_LINES:
            yield f"line {node.lineno}: {node.name} has {length} lines"
        given = node.args
        names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        names += [one.arg for one in (given.vararg, given.kwarg) if one is not None]
        count = len(names) - (names[:1] in (["self"], ["cls"]))
        if count > PARAMETERS:
            yield f"line {node.lineno}: {node.name} has {count} parameters"


def test_no_file_or_function_is_too_large() -> None:
    checked = sources()
    assert len(checked) > 100  # the folders were found
    problems = [f"{_called(path)}: {one}" for path in checked for one in too_large(path.read_text(encoding="utf-8"))]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("x = 1\n" * 401, "401 lines"),
        ("def f():\n" + "    x = 1\n" * 60, "f has 61 lines"),
        ("class A:\n    def f(self, a, b, c, d, e, f, g, h, i, j, k, l, *m): ...\n", "f has 13 parameters"),
    ],
)
def test_what_is_too_large_is_found(text: str, problem: str) -> None:
    (found,) = too_large(text)
    assert found.endswith(problem)


def test_what_is_just_small_enough_is_not() -> None:
    assert not list(too_large("x = 1\n" * 400))
    assert not list(too_large("def f():\n" + "    x = 1\n" * 59))
    assert not list(too_large("class A:\n    def f(self, a, b, c, d, e, f, g, h, i, j, k, *, l): ...\n"))
