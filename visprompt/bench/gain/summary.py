"""From masses on marked tokens to rows of `results.jsonl`: gains, intervals, ratios, and a sweep's means over seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from visprompt.bench.gain.spec import GainSuite
from visprompt.bench.kind import RunContext
from visprompt.bench.rows import PROVENANCE, Row, ends, point_label, result_row
from visprompt.tasks.gain import Masses, compared, summary
from visprompt.utils.hashing import digest

if TYPE_CHECKING:
    from visprompt.bench.gain.unit import Asked

#: of a measurement: what is in its row under another key, or belongs to the measurement alone
_NOT_TOLD = ("id", "run", "masses", "marker", "model", "blocks", "size_tokens")


def rows(context: RunContext) -> list[Row]:
    """The rows that follow from what was measured; a row without one of its measurements is left out."""
    found = []
    for one in context.cache.get("asked", ()):
        keys = [key for key in (one.own, one.plain, one.compared) if key is not None]
        if all(key in context.results for key in keys):
            found.append(gain_row(context, one))
    suite = context.settings.whole
    return found + sweep_rows(suite, [row for _, row in context.results_of("sweep")])


def gain_row(context: RunContext, one: Asked) -> Row:
    """A marker on a model.

    Returns:
        A row with `blocks` (per block `gain`, `low`, `high`, `mass`, `mass_without`), the last one's `value`, `low` and
        `high`, and, against the marker of `compare_with` on the same regions, per block and for the last one `ratio`
        (None where that gains nothing), `ratio_ci95` (an end is None where there is no bound), `difference` and
        `difference_ci95`. From one image no interval follows: its ends are None.
    """

    def masses(key: str) -> Masses:
        return np.asarray(context.results[key]["masses"], dtype=np.float64)

    own, without, suite = masses(one.own), masses(one.plain), context.settings.whole
    n = len(own)
    blocks: list[Row] = []
    for item in summary(own, without, one.blocks):
        low, high = ends(item.low, item.high, n) or (None, None)
        blocks.append({**dataclasses.asdict(item), "low": low, "high": high})
    if one.compared is not None:
        beside = masses(one.compared)
        for place, block in enumerate(blocks):
            found = compared(own[:, place], beside[:, place], without[:, place])
            block |= {
                "ratio": found.ratio,
                "ratio_ci95": [found.ratio_low, found.ratio_high] if n > 1 else [None, None],
                "difference": found.difference,
                "difference_ci95": [found.low, found.high] if n > 1 else [None, None],
            }
    last, about = blocks[-1], context.results[one.own]
    return result_row(
        "gain",
        suite,
        [last["low"], last["high"]],
        id=digest([one.task, one.model, one.marker.label]),
        task=one.task,
        row=one.marker.label,
        model=one.model,
        metric="attention_gain",
        value=last["gain"],
        control=one.marker.control,
        own=one.marker.own,
        n=n,
        size_tokens=one.marker.size_tokens,
        block=last["block"],
        compared_with=suite.compare_with if one.compared is not None else None,
        **{name: last.get(name) for name in ("ratio", "ratio_ci95", "difference", "difference_ci95")},
        blocks=blocks,
        **{name: value for name, value in about.items() if name not in (*_NOT_TOLD, *PROVENANCE)},
        provenance={name: about.get(name) for name in PROVENANCE},
    )


def sweep_rows(suite: GainSuite, runs: Sequence[Row]) -> list[Row]:
    """One row per point of a sweep: means over its seeds of what they gained, and the circle of the same size."""
    by_point: dict[str, list[Row]] = {}
    for run in runs:
        by_point.setdefault(digest(run["point"]), []).append(run)
    found = []
    for own in by_point.values():
        own = sorted(own, key=lambda run: run["seed"])
        first, values = own[0], [run["gain"] for run in own]
        ratios = [run["ratio"] for run in own if run["ratio"] is not None]
        found.append(
            result_row(
                "gain",
                suite,
                None,
                id=digest(["sweep", first["model"], first["point"]]),
                task="sweep",
                row=point_label(first["point"]),
                model=first["model"],
                metric="attention_gain",
                value=fmean(values),
                control=False,
                **{name: first[name] for name in ("point", "options", "n", "block")},
                values=values,
                seeds=[run["seed"] for run in own],
                intervals=[run["ci95"] for run in own],
                **{name: first[name] for name in ("mass_without", "circle", "circle_ci95")},
                ratio=fmean(ratios) if len(ratios) == len(own) else None,
                ratios=[run["ratio"] for run in own],
                **{name: first[name] for name in ("settings", "images", "limit", "model_identity")},
                cpu_seconds=round(fmean(run["cpu_seconds"] for run in own), 1),
                provenance={
                    **{name: first.get(name) for name in PROVENANCE},
                    "code": ", ".join(dict.fromkeys(run["code"] for run in own)),
                },
            )
        )
    return found
