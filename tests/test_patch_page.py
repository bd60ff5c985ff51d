"""docs/strategies/patch.md names every option with its default, apart by what may be changed after learning."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import visprompt as vp

PAGE = Path(__file__).parents[1] / "docs/strategies/patch.md"


def tables() -> list[dict[str, str]]:
    """Default by option, of every table of options."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"\| option \| default \| meaning \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", text)
    return [dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", rows, re.MULTILINE)) for rows in found]


def test_its_options_are_those_of_the_strategy() -> None:
    made: Any = vp.Prompter.from_name("patch")
    defaults = {item.name: getattr(made.options, item.name) for item in dataclasses.fields(made.options)}
    use, learning = tables()
    assert set(use) == made.free
    assert set(learning) == set(defaults) - made.free
    told = {name: eval(text, {}) for name, text in {**use, **learning}.items()}
    assert told == defaults
