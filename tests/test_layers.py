"""Who may import whom, and that the core knows no strategy by name: read from the source, nothing is imported."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = sorted((ROOT / "visprompt").rglob("*.py"))
STRATEGIES = sorted((ROOT / "strategies").glob("*.py"))
NAMES = set(re.findall(r'^(\w+) = "visprompt\.strategies\.', (ROOT / "pyproject.toml").read_text("utf-8"), re.M))
#: names of strategies that are also values of other options, keys of tables or shapes
EVERYDAY = {"blur", "box", "circle", "crop", "grey", "patch", "shade"}

#: what a strategy may import of the package, with all below it
BELOW_STRATEGIES = (
    "learned", "training.patch", "training.objectives", "prompter", "registry", "models", "attention", "request",
    "visual_prompt", "data", "geometry", "imaging", "regions", "utils", "errors", "strategies",
)  # fmt: skip
#: finds the folder of the strategies, whose sources decide results as the package's own do
FINDS_STRATEGIES = "utils/provenance.py"

#: calls that take a strategy's name first
MAKERS = {"from_name", "make_prompter", "get_class", "prompter_named"}
#: defaults of commands and suites, which may name strategies: path or folder below visprompt → names
DEFAULTS = {
    "cli/answer_export.py": {"api"},
    "cli/gain_table.py": {"circle"},
    "cli/show_heatmap.py": {"api"},
    "cli/show_score.py": {"falip"},
    "bench/": {"circle", "crop", "falip", "patch", "vpt"},
}


def below_core(path: Path) -> str:
    return path.relative_to(ROOT / "visprompt").as_posix()


def inside(name: str, *packages: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in packages)


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, at its top, in functions and for types."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "visprompt":
            yield from (f"visprompt.{item.name}" for item in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{path}: imports are absolute"
            yield node.module


def named_in(path: Path) -> set[str]:
    """Strategies that a file names: strings in its code that are a name, docstrings left out.

    Of the everyday words only those count that are given to a maker, or compared with something that is called a
    strategy, prompter or marker.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
            found |= parts_of(node) - EVERYDAY
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            found |= parts_of(node.args[0]) if called in MAKERS else set()
        elif isinstance(node, ast.Compare) and re.search("strateg|prompter|marker", ast.unparse(node)):
            found |= {name for side in (node.left, *node.comparators) for name in parts_of(side)}
    return found


def parts_of(node: ast.expr) -> set[str]:
    """Names in a constant, joined with `+` or `|` or not."""
    value = node.value if isinstance(node, ast.Constant) else None
    return set(re.split(r"[+|]", value)) & NAMES if isinstance(value, str) else set()


def test_what_is_read_is_there() -> None:
    assert {"falip", "patch", "vpt"} <= NAMES
    assert EVERYDAY <= NAMES
    assert len(CORE) > 100
    assert len(STRATEGIES) > len(NAMES)


def test_the_core_imports_no_strategy_no_benchmark_and_no_test() -> None:
    outside = ("visprompt.strategies", "visprompt.benchmarks", "strategies", "benchmarks", "zoo", "tests")
    found = {(below_core(path), name) for path in CORE for name in imports(path) if inside(name, *outside)}
    assert found - {(FINDS_STRATEGIES, "visprompt.strategies")} == set()


def test_strategies_import_what_lies_below_them() -> None:
    allowed = [f"visprompt.{one}" for one in BELOW_STRATEGIES]
    found = {
        (path.name, name)
        for path in STRATEGIES
        for name in imports(path)
        if inside(name, "visprompt", "zoo", "tests", "benchmarks") and not inside(name, *allowed)
    }
    assert found == set()


def test_a_strategy_is_a_small_file() -> None:
    assert {path.name for path in STRATEGIES if len(path.read_text(encoding="utf-8").splitlines()) > 250} == set()


@pytest.mark.parametrize("part", ["models", "attention", "training", "learned", "tasks", "runner", "plots", "testing"])
def test_no_strategy_is_named_in(part: str) -> None:
    files = [path for path in CORE if below_core(path).startswith(f"{part}/")]
    assert files
    assert {(below_core(path), name) for path in files for name in named_in(path)} == set()


def test_strategies_are_named_as_defaults_alone() -> None:
    found = {(below_core(path), name) for path in CORE for name in named_in(path)}
    allowed = {(path, name) for path, name in found for place, names in DEFAULTS.items()
               if path.startswith(place) and name in names}  # fmt: skip
    assert found - allowed == set()


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ('row["strategy"] == "circle"', {"circle"}),
        ('Prompter.from_name("box+patch")', {"box", "patch"}),
        ('made = {"how": "vpt"}', {"vpt"}),
        ('shape == "circle"', set()),
        ('def f():\n    """As falip.\n\n    More.\n    """', set()),
    ],
)
def test_a_name_is_found_where_it_counts(tmp_path: Path, code: str, wanted: set[str]) -> None:
    (tmp_path / "one.py").write_text(code, encoding="utf-8")
    assert named_in(tmp_path / "one.py") == wanted
