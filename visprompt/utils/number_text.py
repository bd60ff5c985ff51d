"""Numbers as text for tables and messages."""

from __future__ import annotations


def is_share(metric: str) -> bool:
    """True for metrics that are written in per cent.

    >>> is_share("accuracy"), is_share("miou"), is_share("loss"), is_share("gain")
    (True, True, False, False)
    """
    return any(word in metric for word in ("accuracy", "iou", "mass", "share", "top1", "top5", "match"))


def shown(metric: str, value: float) -> str:
    """Formats a metric's value: per cent with one decimal, gains with two, others with four.

    >>> shown("accuracy", 0.5), shown("loss", 0.5), shown("gain", 2.034)
    ('50.0 %', '0.5000', '2.03')

    Args:
        metric: name of the metric.
        value: its value; metrics in per cent are fractions in [0, 1].
    """
    if is_share(metric):
        return f"{value * 100:.1f} %"
    # Adding 0.0 turns −0.00 into 0.00.
    return f"{round(value, 2) + 0.0:.2f}" if "gain" in metric else f"{value:.4f}"


def duration(seconds: float) -> str:
    """Formats a duration in seconds, minutes or hours.

    >>> duration(42), duration(754), duration(7540)
    ('42 s', '12 min', '2 h 05 min')
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
