"""Labelled data to tune on: folders, tables, VTAB-1k, FGVC, ADE20K, the Hugging Face hub."""

from visprompt.data.labelled.columns import ColumnSpec
from visprompt.data.labelled.dataset import IGNORE, KINDS, Labelled
from visprompt.data.labelled.parts import Splits
from visprompt.data.labelled.splits import FORMATS, load_splits

__all__ = ["FORMATS", "IGNORE", "KINDS", "ColumnSpec", "Labelled", "Splits", "load_splits"]
