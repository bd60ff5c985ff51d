"""Pages are finished: nothing that was to be filled in is left in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("visprompt/bundled/*/README.md")),
]
#: FIGURES alone on a line or in a cell, SPEED_SENTENCE, <!-- bench -->
_PLACEHOLDER = re.compile(
    r"^\W*FIGURES\W*$|\w*_SENTENCE\b|<!--\s*bench\s*-->|\bPLACEHOLDER\b|\bTBD\b|\bSPEED\b", re.MULTILINE
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_placeholder_is_left(page: Path) -> None:
    found = _PLACEHOLDER.findall(page.read_text(encoding="utf-8"))
    assert not found, f"{page.relative_to(ROOT)} still has {', '.join(found)}"


@pytest.mark.parametrize(
    "text", ["FIGURES", "a SPEED_SENTENCE b", "<!-- bench -->", "x\nFIGURES\ny", "on a CPU; SPEED"]
)
def test_placeholders_are_recognised(text: str) -> None:
    assert _PLACEHOLDER.search(text)
