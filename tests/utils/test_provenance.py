"""Which code makes results stale: everything but what only shows or keeps them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import visprompt
from visprompt.utils.provenance import hashed_sources, is_display, provenance, source_digest

ROOT = Path(visprompt.__file__).parent
#: how modules that only show figures may be imported by code that decides them: to draw what a run has learned
DRAWN = {("training/progress_images.py", "plots")}


def sources() -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Paths below the package of the modules that a source imports anywhere in it, type-only imports apart."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            package, _, inside = name.partition(".")
            stem = ROOT / inside.replace(".", "/")
            if package == "visprompt" and inside and stem.with_suffix(".py").is_file():
                yield f"{inside.replace('.', '/')}.py"


def test_all_sources_are_hashed_but_those_that_only_show() -> None:
    hashed = {path.relative_to(ROOT) for path in hashed_sources() if path.is_relative_to(ROOT)}
    assert {path for path in sources() if path not in hashed} == {path for path in sources() if is_display(path)}
    for numeric in ("runner", "geometry", "regions", "imaging", "attention", "models", "tasks", "data", "training"):
        assert all(path in hashed for path in sources() if path.parts[0] == numeric), numeric
    assert {"falip.py", "falip.yaml", "patch.py"} <= {path.name for path in hashed_sources()}


def test_of_the_benchmarks_all_that_decides_figures_is_hashed() -> None:
    hashed = {path.relative_to(ROOT).as_posix() for path in hashed_sources() if path.is_relative_to(ROOT)}
    for kind, modules in {"accuracy": {"answers"}, "tuning": set(), "gain": {"markers", "sweep"}}.items():
        assert {f"bench/{kind}/{name}.py" for name in {"spec", "unit", "summary"} | modules} <= hashed
    assert {"bench/kind.py", "bench/rows.py", "bench/schema.py"} <= hashed
    assert not [name for name in hashed if name.startswith("bench/report/")]


@pytest.mark.parametrize("path", [path for path in sources() if not is_display(path)], ids=str)
def test_what_decides_figures_imports_nothing_that_only_shows(path: Path) -> None:
    shown = {one for one in imported(path) if is_display(Path(one))}
    assert not {one for one in shown if (path.as_posix(), one.split("/")[0]) not in DRAWN}


def test_the_hash_is_part_of_provenance() -> None:
    assert provenance()["code"] == source_digest()
    assert len(source_digest()) == 16
