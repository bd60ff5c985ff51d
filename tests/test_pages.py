"""Pages are finished and true: nothing that was to be filled in is left, and the files and names they mention exist."""

from __future__ import annotations

import importlib
import re
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("visprompt/bundled/*/README.md")),
]
#: FIGURES alone on a line or in a cell, SPEED_SENTENCE, <!-- bench -->
_PLACEHOLDER = re.compile(
    r"^\W*FIGURES\W*$|\w*_SENTENCE\b|<!--\s*bench\s*-->|\bPLACEHOLDER\b|\bTBD\b|\bSPEED\b", re.MULTILINE
)
#: paths from the top of the repository; not parts of longer paths or addresses
_PATH = re.compile(r"(?<![\w/.:-])(?:visprompt|strategies|benchmarks|tests|docs|zoo|examples)/[\w./*-]*\w[/\w*]*")
#: stands for a name of the reader's choice in a path
_OWN_NAME = "NAME"
_DOTTED = re.compile(r"\bvisprompt(?:\.\w+)+")
_IMPORT = re.compile(r"^\s*from (visprompt[\w.]*) import ([\w, ]+)", re.MULTILINE)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def exists(path: str, page: Path) -> bool:
    """Whether a path is in the repository, or, as a link may be, below the page's folder."""
    pattern = path.split(_OWN_NAME)[0].rpartition("/")[0] if _OWN_NAME in path else path.rstrip("/")
    return any(any(folder.glob(pattern)) for folder in (ROOT, page.parent))


def resolves(name: str) -> bool:
    """Whether a dotted name can be imported, at its present place and not by an old path."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_to_headings(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            linked = page.parent / target if target else page
            assert anchor in anchors(linked), (
                f"{page.relative_to(ROOT)} links to {target}#{anchor}, which does not exist"
            )


@every_page
def test_paths_are_there(page: Path) -> None:
    paths = set(_PATH.findall(page.read_text(encoding="utf-8")))
    missing = sorted(path for path in paths if not exists(path, page))
    assert not missing, f"{page.relative_to(ROOT)} mentions {', '.join(missing)}"


@every_page
def test_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = set(_DOTTED.findall(text)) - {"visprompt.strategies", "visprompt.benchmarks"}
    names |= {
        f"{module}.{name.split(' as ')[0].strip()}"
        for module, imported in _IMPORT.findall(text)
        for name in imported.split(",")
        if name.strip()
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*has moved", DeprecationWarning)
        missing = sorted(name for name in names if not resolves(name))
    assert not missing, f"{page.relative_to(ROOT)} mentions {', '.join(missing)}"


def test_missing_paths_and_names_are_found() -> None:
    text = (
        "see `visprompt/no.py`, docs/concepts.md, strategies/NAME.py, https://x/docs/no.md, visprompt.geometry.Nothing"
    )
    paths = _PATH.findall(text)
    assert paths == ["visprompt/no.py", "docs/concepts.md", "strategies/NAME.py"]
    assert [exists(path, ROOT / "README.md") for path in paths] == [False, True, True]
    assert not resolves("visprompt.geometry.Nothing")
    assert not resolves("visprompt.nowhere")
    assert resolves("visprompt.geometry.Geometry.coverage")


@every_page
def test_no_placeholder_is_left(page: Path) -> None:
    found = _PLACEHOLDER.findall(page.read_text(encoding="utf-8"))
    assert not found, f"{page.relative_to(ROOT)} still has {', '.join(found)}"


@pytest.mark.parametrize(
    "text", ["FIGURES", "a SPEED_SENTENCE b", "<!-- bench -->", "x\nFIGURES\ny", "on a CPU; SPEED"]
)
def test_placeholders_are_recognised(text: str) -> None:
    assert _PLACEHOLDER.search(text)
