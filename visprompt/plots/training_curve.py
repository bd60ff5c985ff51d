"""Training curves: loss, validation metric and learning rate over the epochs, from `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visprompt.plots.base import PALETTE, TEXT, literal, new_figure, tidy
from visprompt.utils.number_text import is_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Row = Mapping[str, Any]


def curve_figure(curve: Curve, title: str = "") -> Figure | None:
    """Loss, validation metric and learning rate over the epochs, a panel each.

    Args:
        curve: from `curve_of`.
        title: above all panels.

    Returns:
        The figure; None if there is nothing to draw.
    """
    panels = [name for name in ("loss", "metric", "lr") if name in curve.panels()]
    if not panels:
        return None
    figure = new_figure((9.2, 0.7 + 2.2 * len(panels)))
    axes = dict(zip(panels, figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], strict=True))
    if "loss" in axes:
        _line(axes["loss"], curve.train_loss, PALETTE[0], "-", "training")
        _line(axes["loss"], curve.validation_loss, PALETTE[1], "--", "validation")
        if not curve.metric:
            _star(axes["loss"], curve.validation_loss, curve, "loss", "")
        axes["loss"].set_ylabel("loss", fontsize=9, color=TEXT)
        axes["loss"].legend(frameon=False, fontsize=9, loc="best")
    if "metric" in axes:
        _metric_panel(axes["metric"], curve)
    if "lr" in axes:
        _line(axes["lr"], curve.lr, PALETTE[3], "-", "learning rate")
        axes["lr"].set_ylabel("learning rate", fontsize=9, color=TEXT)
        axes["lr"].set_ylim(bottom=0)
    for one in axes.values():
        tidy(one)
    last = axes[panels[-1]]
    last.set_xlabel(curve.over, fontsize=9, color=TEXT)
    last.xaxis.get_major_locator().set_params(integer=True)
    if len(positions := curve.places()) == 1:
        last.set_xticks(positions)
    if title:
        figure.suptitle(literal(title), fontsize=12, color=TEXT)
    return figure


def _metric_panel(axes: Axes, curve: Curve) -> None:
    share = is_share(curve.metric_name)
    points = [(x, value * (100 if share else 1)) for x, value in curve.metric]
    if curve.band:
        x, low, high = zip(*curve.band, strict=True)
        axes.fill_between(x, low, high, color=PALETTE[2], alpha=0.15, linewidth=0, label="95 % over images")
    _line(axes, points, PALETTE[2], "-", f"validation {curve.metric_name}")
    _star(axes, points, curve, curve.metric_name, " %" if share else "")
    axes.set_ylabel(literal(curve.metric_name) + (", %" if share else ""), fontsize=9, color=TEXT)
    axes.legend(frameon=False, fontsize=9, loc="best")
    axes.margins(y=0.12)


def _star(axes: Axes, points: Sequence[tuple[float, float]], curve: Curve, name: str, unit: str) -> None:
    """Marks the best evaluation by the metric that chooses on validation, which may differ from the metric drawn."""
    value = dict(points).get(curve.best) if curve.best is not None else None
    if value is not None:
        by = "best" if curve.chosen in ("", name) else f"best by {curve.chosen}"
        label = literal(f"{by}: {value:.3g}{unit}, {curve.over} {curve.best:g}")
        axes.plot([curve.best], [value], "*", markersize=13, color=PALETTE[4], zorder=4, label=label)


def _line(axes: Axes, points: Sequence[tuple[float, float]], colour: str, style: str, label: str) -> None:
    if not points:
        return
    marker = "o" if len(points) <= 40 else ""
    x, values = zip(*points, strict=True)
    axes.plot(x, values, style, color=colour, linewidth=1.8, marker=marker, markersize=4, label=literal(label))


@dataclass(frozen=True)
class Curve:
    """The points of a training curve; the first number of a point is an epoch or a step.

    Args:
        over: "epoch" or "step".
        train_loss: points of the training loss.
        validation_loss: points of the validation loss.
        metric: points of the validation metric.
        metric_name: its name.
        best: epoch or step of the best weights on validation, or None.
        chosen: name of the metric that chooses on validation.
        lr: points of the learning rate.
        band: (epoch or step, low, high) of the metric, where its interval was measured.
    """

    over: str
    train_loss: list[tuple[float, float]]
    validation_loss: list[tuple[float, float]]
    metric: list[tuple[float, float]]
    metric_name: str
    best: float | None
    chosen: str
    lr: list[tuple[float, float]]
    band: tuple[tuple[float, float, float], ...] = ()

    def places(self) -> list[float]:
        """The epochs or steps with at least one point."""
        lines = (self.train_loss, self.validation_loss, self.metric, self.lr)
        return sorted({x for line in lines for x, _ in line})

    def panels(self) -> set[str]:
        """The panels with at least one point: "loss", "metric", "lr"."""
        found = {"loss"} if self.train_loss or self.validation_loss else set()
        return found | ({"metric"} if self.metric else set()) | ({"lr"} if self.lr else set())


def curve_of(rows: Sequence[_Row], metric: str | None = None) -> Curve:
    """Reads the points from the rows of `metrics.jsonl`.

    >>> rows = [{"epoch": 1, "train": {"loss": 2.0}, "validation": {"accuracy": 0.4, "loss": 1.9}, "lr": 0.1}]
    >>> curve_of(rows).metric, curve_of(rows).metric_name
    ([(1.0, 0.4)], 'accuracy')

    Args:
        rows: dicts with `epoch` or `step`; `train`, `validation`: metrics by name; `lr`. Missing keys are not drawn.
        metric: name of the metric that chooses on validation; None: the first one that is not a loss.

    Returns:
        The points.
    """
    over = "epoch" if all("epoch" in row for row in rows) else "step"

    def points(*path: str) -> list[tuple[float, float]]:
        found: dict[float, float] = {}
        for number, row in enumerate(rows, 1):
            value: Any = row
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            if isinstance(value, int | float) and not isinstance(value, bool):
                found[float(row.get(over, number))] = float(value)
        return sorted(found.items())

    measured = [str(name) for row in rows for name in row.get("validation") or {} if name not in ("loss", "n", "count")]
    name = metric if metric and metric != "loss" else next(iter(measured), "")
    low, high = (dict(points("validation", f"{name}_{end}")) for end in ("low", "high"))
    return Curve(
        over,
        points("train", "loss") or points("train_loss") or points("loss"),
        points("validation", "loss"),
        points("validation", name) if name else [],
        name,
        next((float(row.get(over, 0)) for row in reversed(rows) if row.get("best") is True), None),
        metric or "",
        points("lr") or points("train", "lr"),
        tuple((x, low[x], high[x]) for x in low if x in high),
    )
