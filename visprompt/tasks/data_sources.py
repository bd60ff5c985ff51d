"""Data sources: turns the `data:` section of a suite into images with annotations.

Examples: `{source: scenes, kind: hard, split: test, n: 1000}`, `{source: reclip, file: …}` or `{source: refer, refs:
…}`; with points `{source: scenes-points, …}` or `{source: cub, …}`; for tasks answered in words `{source: scenes-vqa,
difficulty: hard, …}`, `{source: mmmu, …}`, `{source: vlmevalkit, …}`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from visprompt.data.referring.cub import FILES as CUB_FILES
from visprompt.data.referring.cub import read_cub
from visprompt.data.referring.detections import read_detections
from visprompt.data.referring.image import Expression, ReferringImage
from visprompt.data.referring.reclip import read_reclip
from visprompt.data.referring.refer import read_refer
from visprompt.data.scenes.points import scene_points
from visprompt.errors import InvalidInputError, unknown_name
from visprompt.tasks.scene_questions import content_hash, scene_vqa
from visprompt.utils.hashing import digest, file_digest
from visprompt.utils.renamed import renamed_attributes, renamed_names

_HASHED_SCENES = 8
_HASHED_QUESTIONS = 16


@renamed_attributes(pictures="images")
@dataclass(frozen=True, eq=False)
class Data:
    """Images with their annotations, and the identity of the data set.

    Attributes:
        images: `ReferringImage`s, `PointedImage`s or `Question`s in a fixed order; a limit takes the first.
        identity: source, settings and hash of the data; written into every result row.
        boxes: origin of the candidate boxes: "gold", "detector", or "no" for questions.
        problems: sentences about what was left out or is missing.
    """

    images: list[Any]
    identity: dict[str, Any]
    boxes: str
    problems: tuple[str, ...] = ()


def load_data(spec: Mapping[str, Any], images: str | Path | None = None, annotations: str | Path | None = None) -> Data:
    """Reads or generates the data that a `data:` section describes.

    Args:
        spec: the section, with the key `source`.
        images: folder of the images; only for sources that read files.
        annotations: folder that file names in the section are relative to.

    Returns:
        The data.

    Raises:
        UnknownNameError: for a source or key that does not exist.
        InvalidInputError: for files that are missing or in another format.
    """
    source = spec.get("source")
    if source not in _SOURCES:
        raise unknown_name("data source", source, _SOURCES)
    known, load = _SOURCES[source]
    for key in spec:
        if key != "source" and key not in known:
            raise unknown_name(f"key of data source {source!r}", key, known)
    return load(spec, images, annotations)


def _scenes(spec: Mapping[str, Any], images: str | Path | None, annotations: str | Path | None) -> Data:
    settings: dict[str, Any] = {
        "kind": str(spec.get("kind", "hard")),
        "split": str(spec.get("split", "test")),
        "seed": int(spec.get("seed", 0)),
        "size_wh": tuple(spec.get("size_wh", (64, 64))),
    }
    samples = list(scene_images(int(spec.get("n", 1000)), **settings))
    total = hashlib.sha256()
    for sample in scene_images(_HASHED_SCENES, **settings):
        total.update(np.asarray(sample.image).tobytes())
        total.update("\n".join(one.text for one in sample.expressions).encode())
        total.update(sample.candidates_xyxy.tobytes())
    # The number of scenes is left out, so that a longer run can reuse the rows of a shorter one.
    identity = {"source": "scenes", **settings, "size_wh": list(settings["size_wh"]), "hash": total.hexdigest()[:16]}
    return Data(samples, identity, "gold")


@lru_cache(maxsize=8)
def scene_images(
    n: int, kind: str = "hard", split: str = "test", seed: int = 0, size_wh: tuple[int, int] = (64, 64)
) -> tuple[ReferringImage, ...]:
    """Generates scenes as referring data, with one expression each, so that items are independent draws.

    Args:
        n: number of scenes; scenes without an expression are left out.
        kind, split, seed, size_wh: as in `visprompt.data.scenes.world.scene`.

    Returns:
        One image per scene.

    Raises:
        InvalidInputError: for a kind or split that does not exist.
    """
    from visprompt.data.scenes import world as scenes

    try:
        made = scenes.scenes(n, split=split, seed=seed, kind=cast(Any, kind), size_wh=size_wh)
    except ValueError as error:
        raise InvalidInputError(f"data source 'scenes': {error}.") from error
    found = []
    for number, scene in enumerate(made):
        if not scene.referring:
            continue
        expression = scene.referring[0]
        key = f"{kind}-{split}-{seed}-{number:05d}"
        boxes = np.array([scene.objects[index].box_xyxy for index in expression.candidates], dtype=np.float64)
        names = tuple(scene.objects[index].name for index in expression.candidates)
        gold = np.array([expression.box_xyxy], dtype=np.float64)
        found.append(ReferringImage(key, scene.pil, boxes, (Expression(key, expression.text, gold),), names))
    return tuple(found)


def _scenes_points(spec: Mapping[str, Any], images: str | Path | None, annotations: str | Path | None) -> Data:
    settings: dict[str, Any] = {
        "kind": str(spec.get("kind", "hard")),
        "split": str(spec.get("split", "test")),
        "seed": int(spec.get("seed", 0)),
        "size_wh": tuple(spec.get("size_wh", (64, 64))),
        "points": int(spec.get("points", 1)),
    }
    samples = list(scene_points(int(spec.get("n", 1000)), **settings))
    total = hashlib.sha256()
    for sample in scene_points(_HASHED_SCENES, **settings):
        total.update(np.asarray(sample.image).tobytes())
        total.update(repr((sample.points_xy.tolist(), sample.names)).encode())
    # As for scenes, the number is left out of the identity.
    identity = {"source": "scenes-points", **settings, "size_wh": list(settings["size_wh"])}
    return Data(samples, {**identity, "hash": total.hexdigest()[:16]}, "gold")


def _cub(spec: Mapping[str, Any], images: str | Path | None, annotations: str | Path | None) -> Data:
    given = Path(str(spec.get("folder", "."))).expanduser()
    root = given if annotations is None else Path(annotations) / given
    merge = spec.get("merge_sides", False)
    if not isinstance(merge, bool):
        raise InvalidInputError(f"data source 'cub': merge_sides is true or false; got {merge!r}.")
    if not (root / "images.txt").is_file():
        raise InvalidInputError(f"there is no {root / 'images.txt'}: give CUB_200_2011 with --annotations DIR.")
    folder = _folder({"images": root / "images", **spec}, images)
    problems: list[str] = []
    found = read_cub(root, str(spec.get("split", "test")), folder, merge_sides=merge, problems=problems)
    identity = _identity(spec, folder, *(root / name for name in CUB_FILES))
    return Data(list(found), identity, "gold", tuple(problems))


def _reclip(spec: Mapping[str, Any], images: str | Path | None, annotations: str | Path | None) -> Data:
    path, folder = _path(spec, "file", annotations), _folder(spec, images)
    detector = _optional(spec, "detections", annotations)
    problems: list[str] = []
    boxes = read_detections(detector, problems=problems) if detector else None
    found = read_reclip(path, folder, boxes, problems=problems)
    return Data(found, _identity(spec, folder, path, detector), "detector" if detector else "gold", tuple(problems))


def _refer(spec: Mapping[str, Any], images: str | Path | None, annotations: str | Path | None) -> Data:
    refs, instances = _path(spec, "refs", annotations), _path(spec, "instances", annotations)
    detector, folder = _optional(spec, "detections", annotations), _folder(spec, images)
    problems: list[str] = []
    boxes = read_detections(detector, problems=problems) if detector else None
    found = read_refer(refs, instances, str(spec.get("split", "val")), folder, boxes, problems=problems)
    identity = _identity(spec, folder, refs, instances, detector)
    return Data(found, identity, "detector" if detector else "gold", tuple(problems))


def _scenes_vqa(spec: Mapping[str, Any], images: str | Path | None, annotations: str | Path | None) -> Data:
    settings: dict[str, Any] = {
        "difficulty": str(spec.get("difficulty", "easy")),
        "split": str(spec.get("split", "test")),
        "seed": int(spec.get("seed", 0)),
        "kinds": tuple(spec["kinds"]) if spec.get("kinds") else None,
    }
    found = list(scene_vqa(int(spec.get("n", 1000)), **settings))
    # As for scenes, the number is left out of the identity.
    described = {**settings, "kinds": list(settings["kinds"]) if settings["kinds"] else "all"}
    total = content_hash(scene_vqa(_HASHED_QUESTIONS, **settings))
    return Data(found, {"source": "scenes-vqa", **described, "hash": total}, "gold")


def _asked(spec: Mapping[str, Any], images: str | Path | None, annotations: str | Path | None) -> Data:
    """Reads a benchmark's questions; those without a published answer, or that need a judge, are left out."""
    from visprompt.data.questions.mmmu import read_mmmu
    from visprompt.data.questions.vlmevalkit import read_tsv

    path = _path(spec, "file", annotations)
    given = images if images is not None else spec.get("images")
    read = read_mmmu if spec["source"] == "mmmu" else read_tsv
    every = read(path, given)
    found = [one for one in every if one.answer is not None]
    if not found:
        raise InvalidInputError(f"{path}: not one of the {len(every)} questions has an answer to compare with.")
    left_out = len(every) - len(found)
    problems = (f"{path}: {left_out} of {len(every)} questions have no answer to compare with.",) if left_out else ()
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    folder = Path(given) if given is not None else path.parent
    return Data(found, _identity(spec, folder, *files), "no", problems)


_Loader = Callable[[Mapping[str, Any], "str | Path | None", "str | Path | None"], Data]
_SOURCES: dict[Any, tuple[tuple[str, ...], _Loader]] = {
    "scenes": (("kind", "split", "n", "seed", "size_wh"), _scenes),
    "scenes-points": (("kind", "split", "n", "seed", "size_wh", "points"), _scenes_points),
    "cub": (("folder", "split", "merge_sides", "images"), _cub),
    "reclip": (("file", "detections", "images"), _reclip),
    "refer": (("refs", "instances", "split", "detections", "images"), _refer),
    "scenes-vqa": (("difficulty", "kinds", "split", "n", "seed"), _scenes_vqa),
    "mmmu": (("file", "images"), _asked),
    "vlmevalkit": (("file", "images"), _asked),
}
#: keys of every source, for checking a suite before data are loaded
SOURCE_KEYS: dict[str, tuple[str, ...]] = {name: keys for name, (keys, _) in _SOURCES.items()}
#: default values of the keys that determine which images a source gives
SOURCE_DEFAULTS: dict[str, dict[str, Any]] = {
    "scenes": {"kind": "hard", "split": "test", "size_wh": [64, 64]},
    "scenes-points": {"kind": "hard", "split": "test", "size_wh": [64, 64], "points": 1},
    "cub": {"split": "test", "folder": ".", "merge_sides": False},
    "refer": {"split": "val"},
    "scenes-vqa": {"difficulty": "easy", "split": "test"},
}


def _identity(spec: Mapping[str, Any], folder: Path, *used: Path | None) -> dict[str, Any]:
    """Returns settings, hashes of the files and the folder of the images; rows keep the stamps of the images."""
    files = [file for file in used if file is not None]
    named = {key: value for key, value in spec.items() if key != "images"}
    return {
        **named,
        "images": str(folder.resolve()),
        "files": [file.name for file in files],
        "hash": digest([file_digest(*files), named]),
    }


def _path(spec: Mapping[str, Any], key: str, annotations: str | Path | None) -> Path:
    found = _optional(spec, key, annotations)
    if found is None:
        raise InvalidInputError(f"data source {spec['source']!r} needs {key}: the name of a file.")
    return found


def _optional(spec: Mapping[str, Any], key: str, annotations: str | Path | None) -> Path | None:
    value = spec.get(key)
    if value is None:
        return None
    path = Path(str(value)).expanduser()
    if not path.is_absolute() and annotations is not None:
        path = Path(annotations) / path
    if not path.exists():
        hint = "" if annotations is not None or path.is_absolute() else " Give the folder with --annotations DIR."
        raise InvalidInputError(f"there is no file {path} ({key} of the suite's data).{hint}")
    return path


def _folder(spec: Mapping[str, Any], images: str | Path | None) -> Path:
    folder = Path(images if images is not None else spec.get("images", "."))
    if not folder.is_dir():
        raise InvalidInputError(f"there is no folder of images at {folder}: give it with --images DIR.")
    return folder


#: names of visprompt 0.4.0, which work with a DeprecationWarning
__getattr__ = renamed_names(__name__, {"scene_pictures": "scene_images"}, globals())
