"""From masses on marked tokens to rows of `results.jsonl`: gains, intervals, ratios, and a sweep's means over seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from visprompt.bench.gain.spec import GainSuite
from visprompt.tasks.gain import compared, summary
from visprompt.utils.hashing import digest

if TYPE_CHECKING:
    from visprompt.bench.gain.model_run import Measured

Row = dict[str, Any]
#: what a row is made with; other values in rows of one table are told
_MADE_WITH = ("code", "suite_hash", "limit", "pictures")


def gain_row(suite: GainSuite, one: Measured) -> Row:
    """A marker on a model.

    Returns:
        A row with `blocks` (per block `gain`, `low`, `high`, `mass`, `mass_without`), the last one's `value` and
        `ci95`, and, against the marker of `compare_with` on the same places, per block and for the last one `ratio`
        (None where that gains nothing), `ratio_ci95` (an end is None where there is no bound), `difference` and
        `difference_ci95`.
    """
    blocks: list[Row] = [dataclasses.asdict(item) for item in summary(one.masses, one.without, one.blocks)]
    if one.compared is not None:
        for place, block in enumerate(blocks):
            found = compared(one.masses[:, place], one.compared[:, place], one.without[:, place])
            block |= {
                "ratio": found.ratio,
                "ratio_ci95": [found.ratio_low, found.ratio_high],
                "difference": found.difference,
                "difference_ci95": [found.low, found.high],
            }
    last = blocks[-1]
    about = {name: value for name, value in one.about.items() if name not in ("blocks", "size_tokens")}
    return {
        "id": digest([one.part, one.model, one.marker.label]),
        "suite": suite.name,
        "part": one.part,
        "model": one.model,
        "marker": one.marker.label,
        "control": one.marker.control,
        "own": one.marker.own,
        "n": len(one.masses),
        "size_tokens": one.marker.size_tokens,
        "block": last["block"],
        "value": last["gain"],
        "ci95": [last["low"], last["high"]],
        "compared_with": suite.compare_with if one.compared is not None else None,
        **{name: last.get(name) for name in ("ratio", "ratio_ci95", "difference", "difference_ci95")},
        "blocks": blocks,
        **about,
        "suite_hash": suite.hash,
    }


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
            {
                "id": digest(["sweep", first["model"], first["point"]]),
                "suite": suite.name,
                "part": "sweep",
                "model": first["model"],
                "point": first["point"],
                "options": first["options"],
                "n": first["n"],
                "block": first["block"],
                "value": fmean(values),
                "values": values,
                "seeds": [run["seed"] for run in own],
                "intervals": [run["ci95"] for run in own],
                "mass_without": first["mass_without"],
                "circle": first["circle"],
                "circle_ci95": first["circle_ci95"],
                "ratio": fmean(ratios) if len(ratios) == len(own) else None,
                "ratios": [run["ratio"] for run in own],
                "settings": first["settings"],
                "pictures": first["pictures"],
                "limit": first["limit"],
                "cpu_seconds": round(fmean(run["cpu_seconds"] for run in own), 1),
                **{name: first[name] for name in ("versions", "git_commit", "machine", "model_identity", "date")},
                "code": ", ".join(dict.fromkeys(run["code"] for run in own)),
                "suite_hash": suite.hash,
            }
        )
    return found


def merged(suite: GainSuite, earlier: Sequence[Row], made: Sequence[Row], complete: bool) -> list[Row]:
    """Rows of earlier runs in the same folder that still belong to the suite, those made now in the place of old ones;
    parts, models and markers in the suite's order.

    Args:
        suite: the whole suite.
        earlier, made: rows.
        complete: all markers were asked for: of the models measured now, no old rows are kept.
    """
    markers = [one.label for one in suite.markers]
    labels = {"gain": markers, "transfer": list(suite.transfer)}
    points = [digest(point) for point in suite.sweep.points()] if suite.sweep is not None else []

    def belongs(row: Row) -> bool:
        if row.get("suite") != suite.name or "value" not in row:
            return False
        if row.get("part") == "sweep":
            return digest(row["point"]) in points and suite.sweep is not None
        return row.get("marker") in labels.get(str(row.get("part")), ())

    every = {_key(row): row for row in earlier if belongs(row)}
    if complete:
        again = {(row["part"], row["model"]) for row in made}
        every = {key: row for key, row in every.items() if (row["part"], row["model"]) not in again}
    every.update((_key(row), row) for row in made)
    models = list(dict.fromkeys([row["model"] for row in every.values()]))
    order = [*suite.models, *(model for model in models if model not in suite.models)]

    def place(row: Row) -> tuple[int, int, int]:
        part = ("gain", "transfer", "sweep").index(row["part"])
        model = order.index(row["model"]) if row["model"] in order else len(order)
        if row["part"] == "sweep":
            return part, model, points.index(digest(row["point"]))
        return part, model, labels[row["part"]].index(row["marker"])

    return sorted(every.values(), key=place)


def stale(rows: Sequence[Row], made: Sequence[Row]) -> list[str]:
    """A sentence for people if rows of an earlier run were made in another way than today's."""
    found = []
    gained = [row for row in made if row["part"] != "sweep"]
    now = [digest(gained[0].get(name)) for name in _MADE_WITH] if gained else None
    again = {_key(row) for row in made}
    old = [row for row in rows if row["part"] != "sweep" and _key(row) not in again]
    other = [row for row in old if now is not None and [digest(row.get(name)) for name in _MADE_WITH] != now]
    if other:
        names = ", ".join(dict.fromkeys(f"{row['marker']} on {row['model']}" for row in other))
        found.append(
            f"{len(other)} rows are from an earlier run with other code, pictures or another limit ({names}): run the "
            "suite without --strategy and --model to make them again, or --fresh to forget them."
        )
    codes = {code for row in rows if row["part"] == "sweep" for code in str(row["code"]).split(", ")}
    if len(codes) > 1:
        found.append(
            f"the sweep's patches were learned with {len(codes)} states of the code ({', '.join(sorted(codes))}): run "
            "the suite with --fresh to learn them all with today's."
        )
    return found


def _key(row: Row) -> tuple[str, str, str]:
    return str(row["part"]), str(row["model"]), str(row.get("marker") or digest(row["point"]))
