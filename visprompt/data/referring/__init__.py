"""Images with expressions, regions or points: readers of published annotation files."""

from visprompt.data.referring.image import (
    Boxes,
    Expression,
    ReferringPicture,
    grouped,
    iou,
    report_dropped,
    report_undetected,
    tell,
    usable_xyxy,
    xyxy_from_xywh,
)

__all__ = [
    "Boxes",
    "Expression",
    "ReferringPicture",
    "grouped",
    "iou",
    "report_dropped",
    "report_undetected",
    "tell",
    "usable_xyxy",
    "xyxy_from_xywh",
]
