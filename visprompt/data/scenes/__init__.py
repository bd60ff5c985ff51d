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
