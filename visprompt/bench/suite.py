"""Finds suites by name or path, reads them, and hands each to the kind that it names."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from visprompt.bench import accuracy, gain, tuning
from visprompt.bench.accuracy.spec import MapSpec, RowSpec, Suite, TaskSpec, TuneSpec, load_published
from visprompt.bench.gain.spec import GainSuite
from visprompt.bench.kind import Kind
from visprompt.bench.schema import all_of, mapping, within
from visprompt.bench.tuning.spec import TuningSuite
from visprompt.errors import InvalidInputError, unknown_name

__all__ = ["KINDS", "AnySuite", "GainSuite", "MapSpec", "RowSpec", "Suite", "TaskSpec", "TuneSpec", "TuningSuite"]
__all__ += ["kind_of", "list_suites", "load_published", "load_suite", "parse_suite"]

AnySuite: TypeAlias = Suite | TuningSuite | GainSuite
#: every kind of suite, by the name that a suite's file gives in `kind`; a file without `kind` is of the first
KINDS: dict[str, Kind] = {one.name: one for one in (accuracy.KIND, tuning.KIND, gain.KIND)}
#: a suite of suites, each on its first images: `benchmarks/tour.yaml`
TOUR = "tour"
_PACKAGE = "visprompt.benchmarks"
_NOT_SUITES = ("published", TOUR)


def list_suites() -> list[str]:
    """Names of the suites that ship with the package."""
    names = (Path(item.name) for item in resources.files(_PACKAGE).iterdir())
    return sorted(name.stem for name in names if name.suffix == ".yaml" and name.stem not in _NOT_SUITES)


def load_suite(name: str | Path) -> AnySuite:
    """Reads a suite.

    Args:
        name: the name of one that ships with the package, or the path of a YAML file.

    Returns:
        What the suite's kind makes of it: a `Suite` of accuracies, a `TuningSuite` or a `GainSuite`.

    Raises:
        UnknownNameError: if there is no such suite, or it has a key, task or source that does not exist.
        InvalidInputError: if the file is not a suite.
    """
    path = Path(name)
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"{name} is not a suite: it is not UTF-8 text ({error.reason}).") from None
        except OSError as error:
            raise InvalidInputError(f"cannot read {name}: {error.strerror or error}.") from error
    else:
        # `benchmarks/scenes.yaml` is how the documentation names it; outside of a checkout the packaged one is meant.
        bare = path.stem if str(path.parent) in (".", "benchmarks") else None
        if bare not in list_suites():
            raise unknown_name("suite", str(name), list_suites(), "Or give the path of a YAML file.")
        text = _packaged(bare)
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInputError(f"{name} is not readable YAML: {error}") from error
    return parse_suite(content, path.stem)


def parse_suite(content: Any, name: str) -> AnySuite:
    """Checks what a YAML file holds.

    Args:
        content: keys and values; `kind` says which of `KINDS` it is of.
        name: of the suite: the file's name without `.yaml`.

    Raises:
        UnknownNameError: for a kind, key or name that does not exist.
        InvalidInputError: for values that cannot be used. Both name the suite and the place in it.
    """
    with within(f"suite {name}"):
        kind = mapping(content, "").get("kind", accuracy.KIND.name)
        all_of([kind], KINDS, "kind")
        parsed: AnySuite = KINDS[kind].parse(content or {}, name)
        return parsed


def kind_of(suite: Any) -> Kind:
    """The kind of a parsed suite; a TypeError for anything else."""
    for kind in KINDS.values():
        if isinstance(suite, kind.suite_type):
            return kind
    raise TypeError(f"{type(suite).__name__} is no parsed suite.")


def _packaged(name: str) -> str:
    return resources.files(_PACKAGE).joinpath(f"{name}.yaml").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Stop:
    """One suite of a tour.

    Attributes:
        suite: its name.
        limit: only the first so many images of every task.
        out: its folder below the tour's; empty: the tour's folder itself.
    """

    suite: str
    limit: int
    out: str = ""

    def folder(self, out: Path | None) -> Path:
        """Where its results go."""
        return (out if out is not None else Path("runs") / TOUR) / self.out


def stops() -> list[Stop]:
    """The suites of the tour that ships with the package, in order."""
    return [Stop(**one) for one in yaml.safe_load(_packaged(TOUR))["suites"]]
