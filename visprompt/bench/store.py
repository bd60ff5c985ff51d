"""The folder of a run: rows of earlier runs, results of units, and files that answers are added to.

One process writes a file at a time. Nothing here measures anything.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from visprompt.bench.rows import Row, RowKey, key_of, read_rows_or_none
from visprompt.utils.jsonl import RowLog, read_jsonl, write_jsonl

RESULTS = "results.jsonl"
#: files with one line for a unit, by its key
_UNITS = ("runs*.jsonl", "maps.jsonl")


class Store:
    """What is in a folder, and what is added to it.

    Args:
        out: the folder.
        fresh: what is in it is about to be replaced, so it may hold anything.

    Attributes:
        earlier: rows of `results.jsonl` as this run found them, in today's schema.
    """

    def __init__(self, out: Path, fresh: bool = False) -> None:
        self.out, self.fresh = out, fresh
        self.earlier = read_rows_or_none(out / RESULTS, fresh)
        self.touched: set[Path] = set()
        self._logs: dict[str, RowLog] = {}
        self._units: dict[str, Row] | None = None

    def log(self, stem: str) -> RowLog:
        """The file `stem.jsonl`, to which rows are added."""
        path = self.out / f"{stem}.jsonl"
        self.touched.add(path)
        return self._logs.setdefault(stem, RowLog(path))

    def reread(self) -> None:
        """Forgets what is in memory of the files, because other processes have written to them."""
        self._logs.clear()

    def known(self, key: str) -> Row | None:
        """The result of a unit, by its key, whichever run made it; None if there is none."""
        if self._units is None:
            self._units = {}
            for pattern in _UNITS:
                for file in sorted(self.out.glob(pattern)):
                    self._units.update((_unit_key(row), row) for row in read_jsonl(file))
        return self._units.get(key)

    def add(self, stem: str, row: Row) -> None:
        """Keeps the result of a unit."""
        self.log(stem).append([row])
        if self._units is not None:
            self._units[_unit_key(row)] = row

    # -- rows of results.jsonl ----------------------------------------------------------------------------------------

    def label(self, suite: str, name: str, weights: str, taken: Mapping[str, str]) -> str:
        """The name that a model gets in a suite's table: its own, with a piece of the weights' hash if it is taken.

        `taken` has the hashes of the weights of this run's other models, by the names that they got.
        """
        rows = [] if self.fresh else [row for row in self.earlier if row.get("suite") == suite]
        by_name = {str(row.get("model")): (row.get("model_identity") or {}).get("weights", "") for row in rows}
        by_name.update(taken)
        for label in (name, f"{name}-{weights[:6]}"):
            if by_name.get(label, weights) == weights:
                return label
        return f"{name}-{weights}"

    def merged(self, made: Iterable[Row]) -> list[Row]:
        """Rows of earlier runs, and those made now in the place of old ones."""
        every: dict[RowKey, Row] = {key_of(row): row for row in self.earlier}
        every.update((key_of(row), row) for row in made)
        return list(every.values())

    def beside(self, suite: str, model: str, task: str, made: Iterable[Row]) -> list[Row]:
        """Rows of earlier runs of the same suite, model and task that were not made again."""
        again = {key_of(row) for row in made}
        wanted = (suite, model, task)
        return [row for row in self.earlier if key_of(row)[:3] == wanted and key_of(row) not in again]

    def write(self, rows: Sequence[Row], name: str = RESULTS) -> None:
        """Replaces a file in one step."""
        write_jsonl(self.out / name, rows)

    # -- forgetting ---------------------------------------------------------------------------------------------------

    def forget(self, patterns: Iterable[str], model: str | None = None) -> None:
        """Removes files and folders by their patterns, and the rows of a model by its name in the table."""
        for pattern in patterns:
            for path in self.out.glob(pattern):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
        if model is not None:
            self.earlier = [row for row in self.earlier if row.get("model") != model]
            maps = self.out / "maps.jsonl"
            if maps.exists():
                write_jsonl(maps, [row for row in read_jsonl(maps) if row.get("model") != model])
        self._logs.clear()
        self._units = None

    def forget_untouched(self) -> None:
        """Removes answers and rows of earlier runs that this run did not ask for."""
        for pattern in ("items-*.jsonl", "runs-*.jsonl"):
            for file in self.out.glob(pattern):
                if file not in self.touched:
                    file.unlink()
        self.earlier = []
        self._units = None


def _unit_key(row: Row) -> str:
    """The key of a unit's row: maps are known by their run and what they are of, all others by `id`."""
    return f"{row.get('run')}/{row['id']}" if "maps" in row else str(row.get("id"))
