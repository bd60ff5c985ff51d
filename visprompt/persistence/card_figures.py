"""Metrics with their intervals, as model cards and tables show them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from visprompt.utils.number_text import is_share, shown
from visprompt.utils.statistics import wilson

if TYPE_CHECKING:
    from visprompt.learned.strategy import Learned
    from visprompt.tasks.gain import BlockGain

#: fractions of images with a right answer: the only metrics whose interval follows from value and n
SHARES = ("accuracy", "answer_accuracy", "top1", "top5", "exact_match")
#: keys among the metrics that are counts
_COUNTS = ("n", "count")
#: suffixes of the bounds of a measured interval: `gain`, `gain_low`, `gain_high`
_LOW, _HIGH = "_low", "_high"
#: not shown: dominated by images with almost no attention without the prompt
_ASIDE = ("image_gain",)


@dataclass(frozen=True)
class Metric:
    """One measured metric.

    Args:
        split: "validation" or "test".
        metric: its name.
        value: as measured; fractions lie in [0, 1].
        n: number of images, or None if unknown.
        interval: 95 % bounds: measured ones, or Wilson's for fractions of right answers; else None.
        chosen: whether this metric chooses on the validation split.
    """

    split: str
    metric: str
    value: float
    n: int | None = None
    interval: tuple[float, float] | None = None
    chosen: bool = False

    def text(self) -> str:
        """The value, formatted for readers."""
        return shown(self.metric, self.value)

    def interval_text(self) -> str:
        """The interval, formatted for readers, or a dash."""
        if self.interval is None:
            return "–"
        low, high = self.interval
        if is_share(self.metric):
            return f"{low * 100:.1f}–{high * 100:.1f} %"
        ends = [shown(self.metric, end) for end in (low, high)]
        return (" to " if any(end.startswith("-") for end in ends) else "–").join(
            ends
        )  # a dash before a minus sign would be unreadable


def figures_of(record: Mapping[str, Any]) -> list[Metric]:
    """The metrics of a training record on validation and test, the choosing metric first.

    >>> record = {"metric": "accuracy", "test": {"loss": 0.5, "accuracy": 0.8}, "data": {"test": {"n": 10}}}
    >>> [(one.metric, one.text(), one.interval_text()) for one in figures_of(record)]
    [('accuracy', '80.0 %', '49.0–94.3 %'), ('loss', '0.5000', '–')]

    Args:
        record: `Learned.record`.

    Returns:
        Metrics with their intervals.
    """
    chosen = str(record.get("metric") or "")
    return [figure for split in ("validation", "test") for figure in of_split(record.get(split), split, chosen, record)]


def of_split(figures: Any, split: str, chosen: str, record: Mapping[str, Any]) -> Iterator[Metric]:
    """The metrics of one split, or of a control on that split.

    Args:
        figures: metrics by name; anything else gives nothing.
        split: "validation" or "test".
        chosen: name of the metric that chooses on validation.
        record: the training record, for the number of images.

    Yields:
        Metrics, the choosing one first and the loss last.
    """
    if not isinstance(figures, Mapping):
        return
    described = mapping_of(mapping_of(record.get("data")).get(split))
    n = next((figures[name] for name in _COUNTS if is_number(figures.get(name))), described.get("n"))
    count = int(n) if isinstance(n, int | float) else None
    for name in sorted(figures, key=lambda name: (name != chosen, name == "loss")):
        value = figures[name]
        if name in _COUNTS or not is_number(value) or not is_shown(str(name), figures):
            continue
        ends = [end for side in (_LOW, _HIGH) if is_number(end := figures.get(f"{name}{side}")) and end is not None]
        interval = (float(ends[0]), float(ends[1])) if len(ends) == 2 else None
        if name in SHARES and count and 0 <= value <= 1:
            interval = wilson(value * count, count)
        yield Metric(split, str(name), float(value), count, interval, name == chosen)


def is_shown(name: str, among: Collection[str]) -> bool:
    """False for bounds of another metric, and for metrics too imprecise to be shown alone.

    >>> [is_shown(name, ("gain", "gain_low", "gain_high")) for name in ("gain", "gain_low", "gain_high")]
    [True, False, False]

    Args:
        name: of a metric.
        among: names of all metrics of the split.
    """
    end = next((end for end in (_LOW, _HIGH) if name.endswith(end)), "")
    return name not in _ASIDE and not (end and name.removesuffix(end) in among)


def add_gains(prompter: Learned, gains: Mapping[str, BlockGain], n: int, how: str) -> None:
    """Adds attention gains of a patch and its controls to the training record and so to the model card.

    >>> from visprompt.learned.strategy import Learned
    >>> from visprompt.tasks.gain import BlockGain
    >>> one = Learned()
    >>> add_gains(one, {"patch": BlockGain(5, 2.0, 1.77, 2.27, 0.58, 0.19)}, 500, "Scenes, last block.")
    >>> gains_table(one.record)[-1]
    '| patch | 2.00 | 1.77–2.27 | 19.0 % → 58.0 % | 500 |'

    Args:
        prompter: a learned strategy; `save_pretrained` writes them.
        gains: by the name of the marker: the patch and its controls.
        n: number of images.
        how: one or two sentences: model, block, images and positions. Replaces an earlier table with the same text.
    """
    rows = [{"marker": str(name), **asdict(gain)} for name, gain in gains.items()]
    others = [one for one in prompter.record.get("gains") or [] if one.get("how") != how]
    prompter.record["gains"] = [*others, {"how": how, "n": n, "rows": rows}]


def gains_table(record: Mapping[str, Any]) -> list[str]:
    """The gains of a training record as lines of Markdown.

    Args:
        record: `Learned.record`.

    Returns:
        Lines; empty without gains.
    """
    lines: list[str] = []
    for table in map(mapping_of, record.get("gains") or []):
        lines += ["", escaped(str(table.get("how") or "")), ""] if lines else [escaped(str(table.get("how") or "")), ""]
        lines += ["| marker | gain | 95 % interval | mass without → with | n |", "|---|---|---|---|---|"]
        for row in map(mapping_of, table.get("rows") or []):
            gain = Metric("", "gain", row["gain"], interval=(row["low"], row["high"]))
            mass = f"{shown('mass', row['mass_without'])} → {shown('mass', row['mass'])}"
            lines.append(
                f"| {escaped(str(row['marker']))} | {gain.text()} | {gain.interval_text()} | {mass} | {table['n']} |"
            )
    return lines


def mapping_of(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else {}."""
    return value if isinstance(value, Mapping) else {}


def is_number(value: Any) -> bool:
    """True for a finite int or float, not for a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def escaped(text: str) -> str:
    r"""Escapes a text for Markdown, since names of classes and files may contain any character.

    >>> print(escaped("a|b <i>*c*</i>"), escaped("snake_case, 3 - 4"))
    a\|b &lt;i>\*c\*&lt;/i> snake_case, 3 - 4

    Args:
        text: any text; white space is collapsed.
    """
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    # An underscore inside a word needs no escape.
    return re.sub(r"([\\`*\[\]|#~]|(?<!\w)_|_(?!\w))", r"\\\1", text)
