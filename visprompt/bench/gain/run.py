"""Runs a suite of markers: their attention gain on every model, patches on other models, patches learned anew.

What was measured stands in `runs-*.jsonl`, a line each, and is not measured again as long as model, marker, pictures,
places and code are the same; `results.jsonl` holds what follows from it.

>>> from visprompt.bench.gain.run import run_gain
>>> result = run_gain("gain", out="runs/bench/gain")  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visprompt.bench.accuracy.run import Listener
from visprompt.bench.gain.model_run import PATCHES, GainModel, Pictures, Row, load_pictures
from visprompt.bench.gain.spec import GainSuite, require_unseen
from visprompt.bench.gain.summary import gain_row, merged, stale, sweep_rows
from visprompt.bench.suite import load_suite
from visprompt.bench.workers import run_workers
from visprompt.errors import InvalidInputError, VispromptError, unknown_name
from visprompt.utils.files import require_folder
from visprompt.utils.jsonl import RowLog, read_jsonl, write_jsonl

RESULTS, RUNS = "results.jsonl", "runs-*.jsonl"
_GAIN, _SWEEP = "gain", "sweep"


@dataclass(frozen=True, eq=False)
class GainBenchResult:
    """What came out.

    Attributes:
        rows: as in `results.jsonl`: `part` "gain" (a marker on a model), "transfer" (one of the suite's patches on a
            model) or "sweep" (a point of the grid).
        problems: sentences for people.
        out: the folder.
        pictures: per model, pictures with every marker and where the model looks: data URI and alternative text.
        patches: the learned patches to look at, in the same form, by label.
    """

    suite: GainSuite
    rows: list[Row]
    problems: list[str]
    out: Path
    pictures: dict[str, tuple[str, str]] = field(default_factory=dict)
    patches: dict[str, tuple[str, str]] = field(default_factory=dict)


def run_gain(
    suite: GainSuite | str | Path,
    *,
    models: Sequence[Any] | None = None,
    images: str | Path | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    markers: Sequence[str] | None = None,
    fresh: bool = False,
    device: str = "auto",
    pictures: bool = False,
    jobs: int = 1,
    part: bool = False,
    share: str | None = None,
    listener: Listener | None = None,
) -> GainBenchResult:
    """Runs a suite and writes `runs-*.jsonl` and `results.jsonl` into `out`; what is learned goes to `out/patches`.

    Args:
        suite: a suite, its name, or the path of its file.
        models: instead of the suite's: specifications for `load_model`, or models.
        images: a folder of pictures to measure on, instead of the suite's pictures.
        out: by default `runs/<suite>`.
        limit: at most so many pictures.
        markers: only those with these labels, and what they are compared with; no transfer and no sweep then.
        fresh: forget what is there.
        device: for models that are loaded here.
        pictures: draw pictures with the markers and the attention, for the report.
        jobs: models (and shares of the sweep) at a time, a process each; for suites given by name or path.
        part: this is such a process: leave the summary alone.
        share: what it is to do: "gain", or "sweep k/n": the k-th of n shares.
        listener: is told how it goes.

    Raises:
        UnknownNameError: for names that do not exist.
        InvalidInputError: for a suite of another kind, pictures that cannot be read, or no model.
    """
    source = None if isinstance(suite, GainSuite) else str(suite)
    loaded = suite if isinstance(suite, GainSuite) else load_suite(suite)
    if not isinstance(loaded, GainSuite):
        raise InvalidInputError(f"suite {loaded.name} measures no gain: run it with 'visprompt bench {loaded.name}'.")
    if limit is not None and limit < 1:
        raise InvalidInputError(f"limit must be at least 1; got {limit}.")
    whole = _on(loaded, images)
    asked = _chosen(whole, markers)
    specs = list(models) if models else list(asked.models)
    if not specs and asked.sweep is None:
        raise InvalidInputError(
            f"suite {asked.name} names no model: give one, e.g. --model transformers:facebook/dinov2-small."
        )
    place = require_folder(Path(out) if out is not None else Path("runs") / asked.name)
    bench = Bench(asked, whole, place, device, limit, listener or Listener(), pictures and not part)
    if fresh and not part:
        bench.forget()
    bench.plan(len(specs), share)
    if jobs > 1 and source and all(isinstance(spec, str) for spec in specs) and not part:
        told: Row = {"kind": "gain", "suite": source, "images": images, "out": place, "limit": limit}
        told = {key: str(value) if isinstance(value, Path) else value for key, value in told.items()}
        told |= {"markers": list(markers) if markers else None, "device": device}
        units: list[Row] = [{"models": [spec], "share": _GAIN} for spec in specs]
        if asked.sweep is not None:
            units += [{"share": f"{_SWEEP} {number}/{jobs}"} for number in range(jobs)]
        run_workers(units, told, jobs, bench.listener)
        bench.warmed = True
    bench.run(specs, share)
    if part:
        return GainBenchResult(asked, bench.rows, bench.problems, place)
    earlier = [] if fresh or not (place / RESULTS).exists() else read_jsonl(place / RESULTS)
    rows = merged(whole, earlier, bench.rows, complete=not markers)
    write_jsonl(place / RESULTS, rows)
    return GainBenchResult(whole, rows, [*bench.problems, *stale(rows, bench.rows)], place, bench.shown, bench.patches)


def _on(suite: GainSuite, images: str | Path | None) -> GainSuite:
    """The suite on a folder of pictures instead of its own."""
    if images is None:
        return suite
    own = {key: suite.pictures[key] for key in ("n", "seed")}
    changed = dataclasses.replace(suite, pictures={"source": "folder", "folder": str(images), **own})
    require_unseen(changed)
    return changed


def _chosen(suite: GainSuite, labels: Sequence[str] | None) -> GainSuite:
    if not labels:
        return suite
    known = [one.label for one in suite.markers]
    for label in labels:
        if label not in known:
            raise unknown_name(f"marker of suite {suite.name}", label, known)
    markers = tuple(one for one in suite.markers if one.label in labels)
    return dataclasses.replace(suite, markers=markers, transfer={}, sweep=None)


class Bench:
    """One run of a suite; `run_gain` is the way in."""

    def __init__(
        self,
        suite: GainSuite,
        whole: GainSuite,
        out: Path,
        device: str,
        limit: int | None,
        listener: Listener,
        pictures: bool,
    ) -> None:
        self.suite, self.whole, self.out = suite, whole, out
        self.device, self.limit, self.listener = device, limit, listener
        self.draw = pictures and suite.examples > 0
        #: workers have measured, and told, everything already
        self.warmed = False
        self.rows: list[Row] = []
        self.problems: list[str] = []
        self.shown: dict[str, tuple[str, str]] = {}
        self.patches: dict[str, tuple[str, str]] = {}
        self._names: set[str] = set()
        self._logs: dict[str, RowLog] = {}

    def forget(self) -> None:
        """Removes what earlier runs left."""
        for file in self.out.glob(RUNS):
            file.unlink()
        shutil.rmtree(self.out / PATCHES, ignore_errors=True)

    @functools.cached_property
    def pictures(self) -> Pictures:
        """The pictures of the suite."""
        return load_pictures(self.suite.pictures, self.count(self.suite.pictures["n"]))

    def done(self, pictures: int) -> None:
        """Tells of pictures whose figures were there already."""
        if not self.warmed:
            self.listener.done(pictures)

    def count(self, n: int) -> int:
        """So many pictures, or fewer if there is a limit."""
        return min(n, self.limit or n)

    def plan(self, models: int, share: str | None) -> None:
        """Says how many pictures there are to look at."""
        suite = self.suite
        n = len(self.pictures) if models else 0  # what is wrong with them is said before a model is loaded
        each = n * (len(suite.markers) + len(suite.transfer)) if share in (None, _GAIN) else 0
        points = len(list(suite.sweep.points())) * len(suite.sweep.seeds) if suite.sweep and share is None else 0
        self.listener.planned(each * models + points)

    def log(self, name: str) -> RowLog:
        """The file of what a process measures."""
        path = self.out / RUNS.replace("*", re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-"))
        return self._logs.setdefault(path.name, RowLog(path))

    def known(self, key: str) -> Row | None:
        """A measurement that is there, whoever made it."""
        for file in sorted(self.out.glob(RUNS)):
            log = self._logs.setdefault(file.name, RowLog(file))
            for row in log.rows():
                if row.get("id") == key:
                    return row
        return None

    def run(self, specs: Sequence[Any], share: str | None) -> None:
        """Everything, or one share of it."""
        if share in (None, _GAIN):
            self._models(specs)
        if self.suite.sweep is not None and (share is None or share.startswith(_SWEEP)):
            self._sweep(share)

    def _models(self, specs: Sequence[Any]) -> None:
        errors: list[VispromptError] = []
        for spec in specs:
            try:
                model = GainModel(self, spec, self._names)
            except VispromptError as error:
                errors.append(error)
                self.problems.append(f"model {spec} was left out: {error}")
                continue
            self._names.add(model.name)
            measured = model.measure()
            self.rows += [gain_row(self.suite, one) for one in measured]
            if not self.warmed:
                for row in self.rows[-len(measured) :] if measured else ():
                    self.listener.result(row)
            if self.draw:
                self._draw(model)
        if specs and len(errors) == len(specs):
            raise errors[0]

    def _draw(self, model: GainModel) -> None:
        from visprompt.bench.gain.examples import marked_pictures, patch_pictures

        self.listener.row(f"{model.name} · pictures for the report")
        try:
            found = marked_pictures(model, self.suite.examples)
            if found is not None:
                self.shown[model.name] = found
            self.patches.update(patch_pictures(model))
        except (VispromptError, OSError) as error:
            self.problems.append(f"pictures of {model.name} are not shown: {error}")

    def _sweep(self, share: str | None) -> None:
        from visprompt.bench.gain.sweep import Sweep

        assert self.suite.sweep is not None
        number, of = (int(one) for one in share.split()[1].split("/")) if share else (0, 1)
        sweep = Sweep(self, self.suite.sweep, f"sweep-{number}" if share else "sweep-0")
        self.rows += sweep_rows(self.suite, sweep.run(number, of))
