"""From pixels of the original image to the model input, to tokens, and back."""

from visprompt.geometry.geometry import (
    MIN_VISIBLE_SHARE,
    Geometry,
    InputMap,
    Tile,
    analytic,
    check_processable,
    fit_picture,
    fitted,
    mean_rgb,
    probe,
    resolve,
    resolve_map,
)

__all__ = [
    "Geometry",
    "InputMap",
    "MIN_VISIBLE_SHARE",
    "Tile",
    "analytic",
    "check_processable",
    "fit_picture",
    "fitted",
    "mean_rgb",
    "probe",
    "resolve",
    "resolve_map",
]
