"""From pixels of the original image to the model input, to tokens, and back."""

from visprompt.geometry.analytic import InputMap, analytic, mean_rgb
from visprompt.geometry.fit import check_processable, fit_picture
from visprompt.geometry.geometry import MIN_VISIBLE_SHARE, Geometry, Tile
from visprompt.geometry.probe import probe
from visprompt.geometry.resolve import fitted, resolve, resolve_map

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
