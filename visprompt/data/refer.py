"""Referring expressions in refer's own files: `refs(unc|umd|google).p` with `instances.json` (COCO) beside it.

The `.p` files are Python pickles, and a pickle can run code when it is opened. This reader loads plain containers,
texts and numbers only; a file that asks for anything else is refused with the name of what it asked for.
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

from visprompt.data.detections import load_json
from visprompt.data.reclip import gold_ids, picture_name
from visprompt.data.referring import Boxes, Expression, ReferringPicture, grouped, xyxy_from_xywh
from visprompt.errors import InvalidInputError


def read_refer(
    refs: str | Path,
    instances: str | Path,
    split: str,
    images: str | Path | None = None,
    detections: Mapping[str, Boxes] | None = None,
) -> list[ReferringPicture]:
    """Reads one split of a refer data set.

    Args:
        refs: the pickle, e.g. `refcoco/refs(unc).p`.
        instances: COCO annotations of the same pictures.
        split: as written in the file: "val", "testA", "testB", "test", "train".
        images: folder of the pictures (not opened here).
        detections: candidate boxes by image id; None: every annotated box of the picture is a candidate.

    Raises:
        InvalidInputError: if a file is missing, is not what it should be, or tries to load code.
    """
    entries = load_refs(refs)
    splits = sorted({str(entry.get("split")) for entry in entries})
    if split not in splits:
        raise InvalidInputError(f"{refs} has no split {split!r}; it has {', '.join(splits)}.")
    content = load_json(instances, "COCO annotations")
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise InvalidInputError(f"{instances} should hold COCO annotations: an object with images and annotations.")
    names = {str(image["id"]): str(image["file_name"]) for image in content.get("images", [])}
    categories = {category["id"]: str(category["name"]) for category in content.get("categories", [])}
    by_image: dict[str, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(str(annotation["image_id"]), []).append(annotation)
    folder = Path(images) if images is not None else Path()
    boxes = {
        key: xyxy_from_xywh([one["bbox"] for one in anns], f"{instances}, image {key}")
        for key, anns in by_image.items()
    }
    found = []
    for entry in entries:
        if str(entry.get("split")) != split:
            continue
        image_id = str(entry["image_id"])
        where = f"{Path(refs).name}, ref {entry.get('ref_id')}"
        annotations = by_image.get(image_id)
        if annotations is None:
            raise InvalidInputError(
                f"{where}: {instances} knows nothing of image {image_id}; do the two belong together?"
            )
        wanted = gold_ids(entry["ann_id"])
        gold = boxes[image_id][[i for i, one in enumerate(annotations) if str(one["id"]) in wanted]]
        if not len(gold):
            raise InvalidInputError(f"{where}: {instances} has no annotation {entry['ann_id']} on image {image_id}.")
        expressions = tuple(
            Expression(f"{image_id}/{entry.get('ref_id', entry['ann_id'])}/{number}", text.strip(), gold)
            for number, text in enumerate(_texts(entry, where))
            if text.strip()
        )
        name = names.get(image_id) or picture_name(str(entry.get("file_name", "")), wanted)
        if detections is None:
            labels = tuple(categories.get(one.get("category_id"), "") for one in annotations)
            candidates = boxes[image_id]
        else:
            labels, candidates = (), detections.get(image_id, np.zeros((0, 4)))
        found.append(ReferringPicture(image_id, folder / name, candidates, expressions, labels if all(labels) else ()))
    return grouped(found)


def load_refs(path: str | Path) -> list[dict[str, Any]]:
    """Loads `refs(*.p)`, written by Python 2 or 3, without running anything that is in it.

    Raises:
        InvalidInputError: if the file is missing, damaged, of another form, or asks for anything but plain data.
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
    # A damaged pickle can fail in as many ways as there are instructions in it.
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
    """The file asked for something that is not plain data."""


class _PlainDtype:
    """Stands in for `numpy.dtype`: numbers only, and nothing that could hold an object."""

    def __init__(self, code: str, *_: Any) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else str(code)
        if not re.fullmatch(r"[<>=|]?[biuf][1248]", text):
            raise _RefusedError(f"a numpy value of type {text!r}")
        self.code = text.lstrip("<>=|")
        self.order = text[0] if text[0] in "<>" else "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        self.order = ">" if order == ">" else "<"


def _scalar(dtype: _PlainDtype, data: Any) -> int | float | bool:
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    if not isinstance(dtype, _PlainDtype) or len(raw) != int(dtype.code[1:]):
        raise _RefusedError("a damaged numpy number")
    value: int | float | bool = np.frombuffer(raw, dtype=np.dtype(dtype.order + dtype.code))[0].item()
    return value


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _RefusedError(f"the codec {encoding!r}")
    return text.encode("latin1")


_BUILTINS = {
    name: kind for kind in (set, frozenset, list, dict, tuple, str, int, float, bool, bytes) for name in [kind.__name__]
}
_ALLOWED: dict[tuple[str, str], Any] = {
    **{(module, name): kind for module in ("builtins", "__builtin__") for name, kind in _BUILTINS.items()},
    ("__builtin__", "unicode"): str,
    ("__builtin__", "long"): int,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encoded,
    ("numpy", "dtype"): _PlainDtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _RefusedError("an object by reference")


def _texts(entry: dict[str, Any], where: str) -> list[str]:
    try:
        return [str(sentence.get("raw") or sentence["sent"]) for sentence in entry["sentences"]]
    except (TypeError, KeyError, AttributeError) as error:
        raise InvalidInputError(f"{where}: sentences should be a list of {{raw, sent}} ({error!r}).") from error
