"""The data sets that come with the package, drawn when they are asked for: `scenes:leftmost` and others."""

from __future__ import annotations

from pathlib import Path

from visprompt.data.labelled.dataset import Labelled, OnBad
from visprompt.data.labelled.parts import Splits
from visprompt.errors import unknown_name


def read_bundled(where: str | Path, *, validation: float = 0.2, seed: int = 0, on_bad: OnBad = "refuse") -> Splits:
    """The parts of a bundled set; they are what they are, whatever share and seed.

    Args:
        where: `scenes:NAME`, or the name.
        validation: not used: the sets have a validation part.
        seed: not used.
        on_bad: not used: nothing in them is bad.

    Raises:
        UnknownNameError: listing the names.
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
