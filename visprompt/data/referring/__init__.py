"""Images with expressions, regions or points: readers of published annotation files."""

from visprompt.data.referring.image import (
    Boxes,
    Expression,
    ReferringImage,
    grouped,
    iou,
    report_dropped,
    report_problem,
    report_undetected,
    usable_xyxy,
    xyxy_from_xywh,
)
from visprompt.utils.renamed import renamed_names

__all__ = [
    "Boxes",
    "Expression",
    "ReferringImage",
    "grouped",
    "iou",
    "report_dropped",
    "report_undetected",
    "report_problem",
    "usable_xyxy",
    "xyxy_from_xywh",
]

#: names of visprompt 0.4.0, which work with a DeprecationWarning
__getattr__ = renamed_names(__name__, {"ReferringPicture": "ReferringImage", "tell": "report_problem"}, globals())
