"""Labelled data to tune on: folders, tables, VTAB-1k, FGVC, ADE20K, the Hugging Face hub."""

from visprompt.data.labelled.dataset import (
    FORMATS,
    IGNORE,
    KINDS,
    Labelled,
    Splits,
    load_splits,
)

__all__ = ["FORMATS", "IGNORE", "KINDS", "Labelled", "Splits", "load_splits"]
