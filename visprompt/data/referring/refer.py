"""Reader of referring expressions in refer's files: `refs(unc|umd|google).p` with COCO's `instances.json`.

The `.p` files are Python pickles, and a pickle can run code when it is opened. This reader loads only plain containers,
strings and numbers. It refuses a file that refers to any other class or function, and names it in the error.
"""

from __future__ import annotations

import collections
import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from visprompt.data.referring.detections import load_json
from visprompt.data.referring.image import (
    Boxes,
    Expression,
    ReferringImage,
    grouped,
    report_dropped,
    report_undetected,
    usable_xyxy,
    xyxy_from_xywh,
)
from visprompt.data.referring.reclip import gold_ids, image_name
from visprompt.errors import InvalidInputError


def read_refer(
    refs: str | Path,
    instances: str | Path,
    split: str,
    images: str | Path | None = None,
    detections: Mapping[str, Boxes] | None = None,
    *,
    problems: list[str] | None = None,
) -> list[ReferringImage]:
    """Reads one split of a refer data set.

    Annotated boxes without an area and crowds (`iscrowd`) are no candidates, unless an expression refers to them.

    Args:
        refs: the pickle, for example `refcoco/refs(unc).p`.
        instances: COCO annotations of the same images.
        split: name of the split as written in the file: "val", "testA", "testB", "test", "train".
        images: folder of the images; no image is opened here.
        detections: candidate boxes by image id; None: every annotated box of the image is a candidate.
        problems: list to which a sentence is appended for what was left out or is missing; None: warn instead.

    Returns:
        One `ReferringImage` per image, in the order of the file.

    Raises:
        InvalidInputError: if a file is missing, not in the expected format, or refers to code, and if the detector's
            file has none of the images.
    """
    entries = load_refs(refs)
    splits = sorted({str(entry.get("split")) for entry in entries})
    if split not in splits:
        raise InvalidInputError(f"{refs} has no split {split!r}; it has {', '.join(splits)}.")
    content = load_json(instances, "COCO annotations")
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise InvalidInputError(f"{instances} should hold COCO annotations: an object with images and annotations.")
    chosen = [(number, entry) for number, entry in enumerate(entries) if str(entry.get("split")) == split]
    wanted_on: dict[str, set[str]] = {}
    for _, entry in chosen:
        wanted_on.setdefault(str(entry["image_id"]), set()).update(gold_ids(entry["ann_id"]))
    coco = _Coco(content, instances, wanted_on)
    folder = Path(images) if images is not None else Path()
    found = []
    for number, entry in chosen:
        where = f"{Path(refs).name}, ref {entry.get('ref_id', f'entry{number}')}"
        expressions, name = _referred(coco, entry, number, where)
        image_id = str(entry["image_id"])
        if detections is None:
            candidates, labels = coco.candidates(image_id)
        else:
            candidates, labels = detections.get(image_id, np.zeros((0, 4))), ()
        found.append(ReferringImage(image_id, folder / name, candidates, expressions, labels))
    report_dropped(problems, instances, sum(coco.dropped.values()), f"on image {next(iter(coco.dropped), '')}")
    if detections is not None:
        report_undetected(problems, refs, (sample.id for sample in found), detections)
    return grouped(found)


def _referred(coco: _Coco, entry: dict[str, Any], number: int, where: str) -> tuple[tuple[Expression, ...], str]:
    """Returns the expressions of one entry with their gold box, and the file name of its image.

    Raises:
        InvalidInputError: if the annotations do not have the image or the box.
    """
    image_id, instances = str(entry["image_id"]), coco.path
    ref = entry.get("ref_id", f"entry{number}")
    annotated = coco.annotated.get(image_id)
    if annotated is None:
        raise InvalidInputError(f"{where}: {instances} has no image {image_id}; do the two belong together?")
    wanted = gold_ids(entry["ann_id"])
    boxes = [one["bbox"] for one in annotated if str(one["id"]) in wanted]
    gold = xyxy_from_xywh(boxes, f"{instances}, annotation {entry['ann_id']}")
    if not len(gold):
        raise InvalidInputError(f"{where}: {instances} has no annotation {entry['ann_id']} on image {image_id}.")
    expressions = tuple(
        Expression(f"{image_id}/{ref}/{i}", text.strip(), gold)
        for i, text in enumerate(_texts(entry, where))
        if text.strip()
    )
    return expressions, coco.names.get(image_id) or image_name(str(entry.get("file_name", "")), wanted)


class _Coco:
    """COCO annotations of the images of one split; annotations of other images are skipped."""

    def __init__(self, content: dict[str, Any], path: str | Path, wanted_on: Mapping[str, set[str]]) -> None:
        self.path, self.wanted_on = path, wanted_on
        #: annotations by image id, in the order of the file
        self.annotated: dict[str, list[dict[str, Any]]] = {}
        #: number of boxes without an area that were left out, by image id
        self.dropped: dict[str, int] = {}
        try:
            self.names = {str(image["id"]): str(image["file_name"]) for image in content.get("images", [])}
            self.categories = {one["id"]: str(one["name"]) for one in content.get("categories", [])}
        except (TypeError, KeyError) as error:
            raise InvalidInputError(
                f"{path}: images need id and file_name, categories need id and name ({error!r})."
            ) from error
        for number, one in enumerate(content["annotations"]):
            if not isinstance(one, dict) or "image_id" not in one:
                raise InvalidInputError(f"{path}: annotation number {number} has no image_id; it is {one!r:.60}.")
            image_id = str(one["image_id"])
            if image_id not in wanted_on:
                continue
            missing = [key for key in ("id", "bbox") if one.get(key) is None]
            if missing:
                raise InvalidInputError(
                    f"{path}: annotation {one.get('id', f'number {number}')} of image {image_id} has no "
                    f"{' and no '.join(missing)}; a referring expression needs boxes to choose from."
                )
            self.annotated.setdefault(image_id, []).append(one)
        self._candidates: dict[str, tuple[Boxes, tuple[str, ...]]] = {}

    def candidates(self, image_id: str) -> tuple[Boxes, tuple[str, ...]]:
        """Returns the candidate boxes `[k, 4]` of an image and their categories (empty unless every box has one)."""
        if image_id not in self._candidates:
            wanted = self.wanted_on[image_id]
            # A crowd covers many objects; it is a candidate only if an expression refers to it.
            single = [one for one in self.annotated[image_id] if not one.get("iscrowd") or str(one["id"]) in wanted]
            boxes, kept = usable_xyxy((one["bbox"] for one in single), f"{self.path}, image {image_id}")
            if not kept.all():
                self.dropped[image_id] = int((~kept).sum())
            used = [one for one, keep in zip(single, kept.tolist(), strict=True) if keep]
            labels = tuple(self.categories.get(one.get("category_id"), "") for one in used)
            self._candidates[image_id] = boxes, labels if all(labels) else ()
        return self._candidates[image_id]


def load_refs(path: str | Path) -> list[dict[str, Any]]:
    """Loads `refs(*.p)`, written by Python 2 or 3, without running any code that the file contains.

    Args:
        path: the pickle.

    Returns:
        The entries, each with at least `ann_id`, `image_id`, `sentences` and `split`.

    Raises:
        InvalidInputError: if the file is missing, damaged, in another format, or refers to anything but plain data.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror or error}.") from error
    try:
        value = _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except _RefusedError as error:
        raise InvalidInputError(
            f"{path} tries to load {error}, which plain annotations never need. It was not opened: "
            "a pickle can run code. Get the file from a source you trust, or convert it to .jsonl."
        ) from error
    # A damaged pickle can raise errors of almost any type.
    except Exception as error:
        raise InvalidInputError(f"{path} is not a readable pickle: {type(error).__name__}: {error}.") from error
    needed = {"ann_id", "image_id", "sentences", "split"}
    if (
        not isinstance(value, list)
        or not value
        or not all(isinstance(one, dict) and needed <= one.keys() for one in value)
    ):
        raise InvalidInputError(f"{path} should hold a list of refs, each with {', '.join(sorted(needed))}.")
    return value


class _RefusedError(pickle.UnpicklingError):
    """The pickle refers to something that is not plain data."""


class _Number:
    """Replaces `numpy.dtype` while unpickling: it accepts number types only, none that could hold an object."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else str(code)
        if not re.fullmatch(r"[<>=|]?[biuf][1248]", text):
            raise _RefusedError(f"a numpy value of type {text!r}")
        self.code = text.lstrip("<>=|")
        self.order = text[0] if text[0] in "<>" else "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        self.order = ">" if order == ">" else "<"


class _Callable:
    """Base class of the objects that replace functions named in a pickle: they can be called and nothing else.

    A pickle can set attributes of the objects it creates (the BUILD instruction) and so could change one of our
    functions for the whole process. These objects have no attributes, refuse any state, and are created anew for every
    file.
    """

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise _RefusedError("a function with a changed state")


class _Dtype(_Callable):
    __slots__ = ()

    def __call__(self, code: Any, *_: Any) -> _Number:
        return _Number(code)


class _Scalar(_Callable):
    __slots__ = ()

    def __call__(self, dtype: Any, data: Any) -> int | float | bool:
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data) if isinstance(data, bytes) else b""
        if not isinstance(dtype, _Number) or len(raw) != int(dtype.code[1:]):
            raise _RefusedError("a damaged numpy number")
        value: int | float | bool = np.frombuffer(raw, dtype=np.dtype(dtype.order + dtype.code))[0].item()
        return value


class _Encode(_Callable):
    __slots__ = ()

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _RefusedError(f"the codec {encoding!r}")
        return text.encode("latin1")


# Types written in C: a pickle cannot set their attributes.
_BUILTINS: tuple[type, ...] = (set, frozenset, list, dict, tuple, str, int, float, bool, bytes)
_TYPES: dict[tuple[str, str], type] = {
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in _BUILTINS},
    ("__builtin__", "unicode"): str,
    ("__builtin__", "long"): int,
    ("collections", "OrderedDict"): collections.OrderedDict,
}
_FUNCTIONS: dict[tuple[str, str], type[_Callable]] = {
    ("_codecs", "encode"): _Encode,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "scalar"): _Scalar,
    ("numpy._core.multiarray", "scalar"): _Scalar,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        key = (module, name)
        if key in _TYPES:
            return _TYPES[key]
        if key in _FUNCTIONS:
            return _FUNCTIONS[key]()
        raise _RefusedError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError("an object by reference")


def _texts(entry: dict[str, Any], where: str) -> list[str]:
    try:
        return [str(sentence.get("raw") or sentence["sent"]) for sentence in entry["sentences"]]
    except (TypeError, KeyError, AttributeError) as error:
        raise InvalidInputError(f"{where}: sentences should be a list of {{raw, sent}} ({error!r}).") from error
