"""The log of a training run: one JSON object per line in `metrics.jsonl`, and TensorBoard events on request."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from visprompt.errors import UnsupportedError
from visprompt.utils.files import write_text

FILE = "metrics.jsonl"
EVENTS = "tensorboard"


class Metrics:
    """Appends one JSON object per line to `metrics.jsonl`; a row is on the disk when `write` returns.

    >>> metrics = Metrics(None)
    >>> metrics.write({"epoch": 1, "step": 10, "train": {"loss": 0.7}})
    >>> metrics.lines
    1

    Args:
        folder: folder of `metrics.jsonl`, created if necessary; None: rows are only kept in memory.
        tensorboard: also write events into `tensorboard/` of the folder: every number under its name (`train/loss`), at
            the row's `step`, or its `epoch` where it has no step.

    Attributes:
        rows: all rows of the file, including those of an earlier process.

    Raises:
        UnsupportedError: if TensorBoard is requested and not installed.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, tensorboard: bool = False) -> None:
        self.path = None if folder is None else Path(folder) / FILE
        self._events = Path(folder) / EVENTS if tensorboard and folder is not None else None
        self._writer: Any = None
        if self._events is not None:
            _summary_writer()  # fails here, before training, if TensorBoard is not installed
        self.rows: list[dict[str, Any]] = [] if folder is None else read(folder)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not _ends_whole(self.path):
                self._rewrite()

    @property
    def lines(self) -> int:
        """The number of rows; a checkpoint stores it for `truncate`."""
        return len(self.rows)

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row.

        Args:
            row: values by name, nested dicts allowed; NaN and infinity become null.
        """
        clean = finite(dict(row))
        self.rows.append(clean)
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(clean, ensure_ascii=False) + "\n")
                file.flush()
        if self._events is not None:
            self._log(clean)

    def truncate(self, lines: int) -> None:
        """Removes the rows after a checkpoint, which the resumed run writes again.

        Args:
            lines: rows to keep.
        """
        if lines >= len(self.rows):
            return
        del self.rows[lines:]
        self.close()
        if self.path is not None:
            self._rewrite()

    def close(self) -> None:
        """Closes TensorBoard's file; may be called again."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rewrite(self) -> None:
        assert self.path is not None
        write_text(self.path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows))

    def _log(self, row: Mapping[str, Any]) -> None:
        step = _step_of(row)
        if self._writer is None:
            # Removes events of a killed run from this step on.
            self._writer = _summary_writer()(str(self._events), purge_step=step)
        for name, value in _numbers(row):
            if name not in ("step", "epoch"):
                self._writer.add_scalar(name, value, step)
        self._writer.flush()


def read(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads the rows of a folder's `metrics.jsonl`.

    Args:
        folder: folder of the run.

    Returns:
        The rows up to the first line that is no JSON object (cut off by a kill); empty without the file.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        if not isinstance(row, dict):
            break
        rows.append(row)
    return rows


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def finite(value: Any) -> Any:
    """Replaces NaN and infinity, which JSON does not have, by None.

    Args:
        value: a number, text, mapping or sequence, nested to any depth.

    Returns:
        The value; tuples become lists and keys become text.
    """
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(row: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{before}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{before}{key}", float(value)


def _step_of(row: Mapping[str, Any]) -> int:
    return int(row.get("step", row.get("epoch", 0)) or 0)


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UnsupportedError('TensorBoard is not installed: pip install "visprompt-toolkit[tensorboard]".') from error
    return SummaryWriter
