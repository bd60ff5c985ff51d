"""Coordinates: from pixels of the original image to pixels of the model input and to patches, and back."""

from visprompt.geometry.analytic import InputMap, analytic, mean_rgb
from visprompt.geometry.fit import check_processable, fit_image
from visprompt.geometry.geometry import MIN_VISIBLE_SHARE, Geometry, Tile
from visprompt.geometry.probe import probe
from visprompt.geometry.resolve import fitted, resolve, resolve_map
from visprompt.utils.renamed import renamed_names

__all__ = [
    "Geometry",
    "InputMap",
    "MIN_VISIBLE_SHARE",
    "Tile",
    "analytic",
    "check_processable",
    "fit_image",
    "fitted",
    "mean_rgb",
    "probe",
    "resolve",
    "resolve_map",
]

#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"fit_picture": "fit_image"}, globals())
