"""JSON-lines files that stay readable when the writing process is killed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from visprompt.errors import InvalidInputError
from visprompt.utils.files import write_text
from visprompt.utils.hashing import plain_value
from visprompt.utils.renamed import renamed_names


class RowLog:
    """A `.jsonl` file to which rows are only appended.

    An incomplete last line (the process was killed) is removed before the next row is written.

    Args:
        path: the file; it need not exist yet.

    Raises:
        InvalidInputError: if a line before the last is not JSON; the file is then left unchanged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows: dict[tuple[str, str], dict[str, Any]] | None = None
        self._by_run: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self._mended = False

    def rows(self, run: str | None = None) -> list[dict[str, Any]]:
        """Returns all rows, or those of one run; of rows with the same id the last one is returned.

        Args:
            run: hash of a run; None: all runs.
        """
        if self._rows is None:
            self._rows = {}
            for row in self._read():
                self._keep(self._rows, row)
        return list((self._rows if run is None else self._by_run.get(run, {})).values())

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Writes rows and flushes them to the operating system before returning."""
        new = list(rows)
        self.rows()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._mended:
            self._mend()
            self._mended = True
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json_line(row) for row in new)
        assert self._rows is not None
        for row in new:
            self._keep(self._rows, row)

    def _keep(self, rows: dict[tuple[str, str], dict[str, Any]], row: dict[str, Any]) -> None:
        run = str(row.get("run"))
        key = run, str(row["id"]) if "id" in row else f"line {len(rows)}"
        rows[key] = row
        self._by_run.setdefault(run, {})[key] = row

    def _read(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        *lines, _unfinished = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InvalidInputError(
                    f"{self.path}, line {number} is not JSON: {error}. It is not a file of results, or it was edited; "
                    "move it away, or start over with --fresh."
                ) from error
            if isinstance(row, dict):
                yield row

    def _mend(self) -> None:
        if not self.path.exists():
            return
        with open(self.path, "rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole != len(content):
                file.truncate(whole)


def json_line(row: dict[str, Any]) -> str:
    """Returns a row as one line of JSON; numpy numbers and arrays are converted."""
    return json.dumps(row, ensure_ascii=False, default=plain_value) + "\n"


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replaces a JSON-lines file in one step: a reader sees the old rows or the new ones, never a part."""
    write_text(path, "".join(json_line(row) for row in rows))


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Returns all rows of a results file, without an incomplete last line."""
    return RowLog(path).rows()


#: names of 0.4.0
__getattr__ = renamed_names(
    __name__,
    {
        "require_folder": "utils.files.require_folder",
        "require_file": "utils.files.require_file",
        "write_text": "utils.files.write_text",
        "digest": "utils.hashing.digest",
        "file_digest": "utils.hashing.file_digest",
        "source_digest": "utils.provenance.source_digest",
        "provenance": "utils.provenance.provenance",
        "git_commit": "utils.provenance.git_commit",
    },
    globals(),
)
