"""Values that papers report, to stand beside those that are measured."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml


def load_published() -> list[dict[str, Any]]:
    """The papers' values (`benchmarks/published.yaml`), each with its source and how sure it is."""
    text = resources.files("visprompt.benchmarks").joinpath("published.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    return [{**figure, "source": content["papers"][figure["paper"]]} for figure in content["figures"]]
