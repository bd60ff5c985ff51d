"""The data sets that come with the package (`scenes:leftmost` and others); their images are drawn on access."""

from __future__ import annotations

from pathlib import Path

from visprompt.data.labelled.dataset import Labelled, OnBad
from visprompt.data.labelled.parts import Splits
from visprompt.errors import unknown_name


def read_bundled(where: str | Path, *, validation: float = 0.2, seed: int = 0, on_bad: OnBad = "refuse") -> Splits:
    """Returns the parts of a bundled data set, which are fixed.

    Args:
        where: `scenes:NAME`, or the name alone.
        validation: ignored: the data sets have a validation part.
        seed: ignored: the data sets are fixed.
        on_bad: ignored: all items can be used.

    Returns:
        The three parts.

    Raises:
        UnknownNameError: for a name that does not exist; the message lists the names.
    """
    from visprompt.data.scenes.answers import SETS, answer_splits
    from visprompt.data.scenes.downstream import DOWNSTREAM

    name = str(where).removeprefix("scenes:")
    if name in SETS:
        return answer_splits(name)
    if name not in DOWNSTREAM:
        raise unknown_name("bundled data set", name, (*DOWNSTREAM, *SETS), "Write scenes:NAME.")
    train, held, test = (_part(name, part) for part in ("train", "validation", "test"))
    return Splits(train, held, test, f"scenes:{name} as bundled: train, validation and test are drawn apart.")


def _part(name: str, part: str) -> Labelled:
    from visprompt.data.scenes.downstream import downstream

    made: Labelled = downstream(name, part)
    return made
