"""What a figure depends on apart from model, data and options: the package's own code, versions, the machine."""

from __future__ import annotations

import fnmatch
import functools
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from visprompt.utils.hashing import file_digest

#: the package's folder; `visprompt` itself is not imported here, since it knows layers above this one
PACKAGE = Path(__file__).parents[1]
_LIBRARIES = ("torch", "transformers", "open_clip_torch", "timm", "numpy", "pillow")
#: What below `visprompt` only shows or keeps figures, as patterns of paths. Everything else decides figures: a change
#: there makes old rows stale. `tests/utils/test_provenance.py` fails if code that decides figures imports one of these.
DISPLAY = (
    "__main__.py",
    "benchmarks/*",
    "cli/*",
    "plots/*",
    "testing/*",
    "bench/__init__.py",
    "bench/old_names.py",
    "bench/pipeline.py",
    "bench/store.py",
    "bench/suite.py",
    "bench/workers.py",
    "bench/report/*",
    "bench/*/__init__.py",
    "bench/*/document*.py",
    "bench/*/examples*.py",
    "bench/*/findings.py",
)


def hashed_sources() -> list[Path]:
    """The sources and defaults that decide figures: all of the package and of `strategies/` except `DISPLAY`."""
    strategies = importlib.util.find_spec("visprompt.strategies")
    folders = [] if strategies is None else strategies.submodule_search_locations or []
    return sorted({*_sources(PACKAGE), *_strategies(folders)})


@functools.cache
def source_digest() -> str:
    """A hash of the code and defaults that decide figures, so that rows of another version are never reused.

    It is taken once per process: what runs is what was imported, even if files change later.
    """
    return file_digest(*hashed_sources())


def is_display(path: Path) -> bool:
    """Whether a source, given by its path below the package, only shows or keeps figures."""
    return any(fnmatch.fnmatchcase(path.as_posix(), pattern) for pattern in DISPLAY)


def _sources(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        if path.suffix in (".py", ".yaml") and not is_display(path.relative_to(root)):
            yield path


def _strategies(folders: Any) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in Path(folder).rglob("*") if path.suffix in (".py", ".yaml"))


@functools.cache
def provenance() -> dict[str, Any]:
    """What a figure depends on apart from model, data and options: versions, code, machine."""
    versions = {"visprompt": sys.modules["visprompt"].__version__, "python": platform.python_version()}
    for package in _LIBRARIES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "git_commit": git_commit(PACKAGE),
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
