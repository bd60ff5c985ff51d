"""Labelled data to tune on: folders, tables, VTAB-1k, FGVC, ADE20K, the Hugging Face hub."""

from visprompt.data.labelled.columns import ColumnSpec
from visprompt.data.labelled.dataset import IGNORE, KINDS, Labelled
from visprompt.data.labelled.parts import Splits
from visprompt.data.labelled.splits import FORMATS, load_splits
from visprompt.utils.renamed import renamed_names

__all__ = ["FORMATS", "IGNORE", "KINDS", "ColumnSpec", "Labelled", "Splits", "load_splits"]


#: names of 0.4.0
__getattr__ = renamed_names(
    __name__,
    {
        "Kind": "data.labelled.dataset.Kind",
        "Label": "data.labelled.dataset.Label",
        "NAMED": "data.labelled.dataset.NAMED",
        "OnBad": "data.labelled.dataset.OnBad",
        "report": "data.labelled.dataset.report",
    },
    globals(),
)
