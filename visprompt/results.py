"""Files of results: JSON lines that survive being killed, the provenance of a figure, and hashes.

Nothing here knows what is measured.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from visprompt.errors import InvalidInputError

#: what decides a figure and lives in this package: a change in any of these files makes old rows stale
_NUMERICS = ("attention", "models", "tasks", "strategies", "data")
_PACKAGES = ("torch", "transformers", "open_clip_torch", "timm", "numpy", "pillow")
#: beginnings of the names of sources that only say how figures are kept or shown
_NOT_NUMERICS = ("bench", "cli", "comparisons", "exhibits", "plots", "report", "results", "statistics", "suites")


class RowLog:
    """A `.jsonl` file that is only ever appended to.

    A last line that is not whole (the process was killed) is cut off before the next row is written; the row it
    stood for is simply made again.

    Raises:
        InvalidInputError: if a line before the last is not JSON: then the file is something else, and is left alone.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows: list[dict[str, Any]] | None = None
        self._mended = False

    def rows(self, run: str | None = None) -> list[dict[str, Any]]:
        """All rows, or those of one run; of rows with one id the last stands."""
        if self._rows is None:
            self._rows = list(self._read())
        kept: dict[tuple[str, str], dict[str, Any]] = {}
        for row in self._rows:
            if run is None or row.get("run") == run:
                kept[str(row.get("run")), str(row.get("id"))] = row
        return list(kept.values())

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Writes rows and hands them to the operating system before it returns."""
        new = list(rows)
        self.rows()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._mended:
            self._mend()
            self._mended = True
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json_line(row) for row in new)
        if self._rows is not None:
            self._rows.extend(new)

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


def require_folder(path: str | Path) -> Path:
    """Makes sure, before anything is computed, that files can be written into a folder; it need not be there yet.

    Raises:
        InvalidInputError: if it, or a part of its path, is a file, or may not be written.
    """
    path = Path(path)
    try:
        there = next(one for one in (path, *path.absolute().parents) if one.exists())
        usable = there.is_dir()
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot write into {path}: {getattr(error, 'strerror', None) or error}.") from error
    if not usable:
        raise InvalidInputError(f"cannot write into {path}: {there} is a file and not a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InvalidInputError(f"cannot write into {path}: permission denied.")
    return path


def require_file(path: str | Path, option: str) -> Path:
    """Makes sure, before anything is computed, that a file can be written; it and its folder need not be there yet.

    Args:
        path: the file.
        option: what it was given with, for the message.

    Raises:
        InvalidInputError: if it is a folder, or cannot be written.
    """
    path = Path(path)
    try:
        require_folder(path.parent)
    except InvalidInputError as error:
        raise InvalidInputError(f"{option} {path}: {error}") from None
    if path.is_dir():
        raise InvalidInputError(f"{option} {path} is a folder: give the name of a file in it.")
    if path.exists() and not os.access(path, os.W_OK):
        raise InvalidInputError(f"{option} {path} cannot be written: permission denied.")
    return path


def json_line(row: dict[str, Any]) -> str:
    """One row as one line; numpy numbers and arrays become plain ones."""
    return json.dumps(row, ensure_ascii=False, default=_plain) + "\n"


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replaces a file in one step: a reader sees the old rows or the new ones, never half of them."""
    write_text(path, "".join(json_line(row) for row in rows))


def write_text(path: str | Path, text: str) -> None:
    """Replaces a file in one step, its folder made if it is not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """All rows of a results file, a cut-off last line left out."""
    return RowLog(path).rows()


def digest(value: Any) -> str:
    """A short hash of anything that can be written as JSON, the same in every process.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(*paths: str | Path) -> str:
    """SHA-256 over the contents of files, 16 hexadecimal digits."""
    total = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    total.update(block)
        except OSError as error:
            raise InvalidInputError(f"cannot read {path}: {error.strerror or error}.") from error
    return total.hexdigest()[:16]


@functools.cache
def source_digest() -> str:
    """A hash of the code and defaults that decide figures, so that rows of another version are never reused.

    Taken once per process: what runs is what was imported, whatever happens to the files meanwhile.
    """
    import visprompt
    import visprompt.strategies

    root = Path(visprompt.__file__).parent
    files = [path for path in root.glob("*.py") if not path.name.startswith(_NOT_NUMERICS)]
    folders = [root / name for name in _NUMERICS if name != "strategies"]
    folders += [Path(path) for path in visprompt.strategies.__path__]
    for folder in folders:
        files += [path for path in folder.rglob("*") if path.suffix in (".py", ".yaml")]
    return file_digest(*sorted(set(files)))


def provenance() -> dict[str, Any]:
    """What a figure depends on apart from model, data and options: versions, code, machine."""
    import visprompt

    versions = {"visprompt": visprompt.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "git_commit": git_commit(Path(visprompt.__file__).parent),
        "code": source_digest(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def git_commit(folder: Path) -> str | None:
    """The commit of the checkout a folder is in, with "-dirty" if files differ from it; None outside of one."""
    if not (folder.parent / ".git").exists():
        return None
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("-dirty" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _plain(value: Any) -> Any:
    for method in ("tolist", "item"):
        if hasattr(value, method):
            return getattr(value, method)()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)
