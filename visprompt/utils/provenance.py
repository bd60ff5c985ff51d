"""What a figure depends on besides model, data and options: the package's code, versions, the machine."""

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

#: the package's folder; `visprompt` itself is not imported here, because it imports higher layers
PACKAGE = Path(__file__).parents[1]
_LIBRARIES = ("torch", "transformers", "open_clip_torch", "timm", "numpy", "pillow")
#: Sources below `visprompt` that only display or store figures, as path patterns. All others determine figures: a
#: change there makes old rows stale. `tests/utils/test_provenance.py` fails if code that determines figures imports one
#: of these.
DISPLAY = (
    "__main__.py",
    "benchmarks/*",
    "cli/*",
    "plots/*",
    "testing/*",
    "bench/__init__.py",
    "bench/old_names.py",
    "bench/pipeline.py",
    "bench/progress.py",
    "bench/store.py",
    "bench/suite.py",
    "bench/tour.py",
    "bench/workers.py",
    "bench/report/*",
    "bench/*/__init__.py",
    "bench/*/cards.py",
    "bench/*/document*.py",
    "bench/*/examples*.py",
    "bench/*/findings.py",
    "bench/*/published.py",
)


def hashed_sources() -> list[Path]:
    """Returns the sources and defaults that determine figures: the package and `strategies/` except `DISPLAY`."""
    strategies = importlib.util.find_spec("visprompt.strategies")
    folders = [] if strategies is None else strategies.submodule_search_locations or []
    return sorted({*_sources(PACKAGE), *_strategies(folders)})


@functools.cache
def source_digest() -> str:
    """Returns a hash of the code and defaults that determine figures; rows with another hash are not reused.

    It is computed once per process, because the imported code stays the same even if files change later.
    """
    return file_digest(*hashed_sources())


def is_display(path: Path) -> bool:
    """True if a source only displays or stores figures.

    Args:
        path: path relative to the package.
    """
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
    """Returns what a figure depends on besides model, data and options: versions, code hash, machine."""
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
    """Returns the commit of the checkout that contains a folder, or None outside of a checkout.

    "-dirty" is appended if tracked files differ from the commit.
    """
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
