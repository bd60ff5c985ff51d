"""Generated scenes with full annotations, and questions about them."""

from visprompt.data.scenes.world import (
    COLOUR_RGB,
    COLOURS,
    MAX_OBJECTS,
    POSITIONS,
    SHAPES,
    SIZES,
    SPLITS,
    Referring,
    Scene,
    SceneObject,
    SceneSequence,
    all_names,
    position_scenes,
    scene,
    scenes,
)
from visprompt.utils.renamed import renamed_names

__all__ = [
    "COLOURS",
    "COLOUR_RGB",
    "MAX_OBJECTS",
    "POSITIONS",
    "Referring",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "Scene",
    "SceneObject",
    "SceneSequence",
    "all_names",
    "position_scenes",
    "scene",
    "scenes",
]


#: names of 0.4.0
__getattr__ = renamed_names(
    __name__,
    {"Kind": "data.scenes.world.Kind", "MIN_VISIBLE_FRACTION": "data.scenes.world.MIN_VISIBLE_FRACTION"},
    globals(),
)
