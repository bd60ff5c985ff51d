"""Gain of a learned patch next to its controls, for `visprompt fit` and `visprompt inspect`."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from visprompt.errors import VispromptError
from visprompt.utils.renamed import renamed_names

if TYPE_CHECKING:
    from visprompt.data.labelled.dataset import Labelled
    from visprompt.data.labelled.splits import Splits
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.tasks.gain import BlockGain, GainResult

#: largest number of images measured, and number of random-colour patches used in turn
MOST, DRAWS = 100, 8
PATCH, CIRCLE, RANDOM = "learned patch", "red circle", "random colours"


class Opened(Sequence[Any]):
    """The first usable images of a data set, opened on access.

    Args:
        data: a data set of any kind.
        most: largest number of images.
    """

    def __init__(self, data: Labelled, most: int = MOST) -> None:
        from visprompt.geometry.fit import check_processable

        self._data, self._numbers = data, []  # type: tuple[Labelled, list[int]]
        for number in range(len(data)):
            if len(self._numbers) == most:
                break
            try:
                check_processable(data.image(number).size)
            except VispromptError:  # training has reported this image
                continue
            self._numbers.append(number)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: Any) -> Any:
        return self._data.image(self._numbers[number])


def held_out(splits: Splits) -> tuple[str, Opened | None]:
    """Returns held-out images and the name of their part: the test part, or the validation part.

    If there are none, the name is "" and the images are None.
    """
    for name in ("test", "validation"):
        part: Labelled | None = getattr(splits, name)
        if part is not None and len(found := Opened(part)):
            return name, found
    return "", None


def compare(made: Learned, model: Model, images: Sequence[Any], fit: str = "model") -> dict[str, GainResult]:
    """Measures the gain of a patch, a red circle and patches of random colours on the same squares.

    Args:
        made: the patch. It is placed at the square's centre, whatever its options say.
        model: the model it was learned on, or another.
        images: any images.
        fit: as in `Runner`.

    Returns:
        The gain by name of the marker.

    Raises:
        UnsupportedError: for a model without attention.
        InvalidInputError: for a patch larger than the model's input.
    """
    from visprompt.prompter import Prompter
    from visprompt.tasks.gain import GainMeter, random_patch

    centred = copy.copy(made)
    # The patch is measured as it was trained, with default values for the options of use.
    usual = {item.name: item.default for item in dataclasses.fields(made.options) if item.name in made.free}
    centred.options = dataclasses.replace(made.options, **{**usual, "opacity": made.options.opacity})
    meter = GainMeter(model, images, size_tokens=made.options.size, fit=fit)
    return {
        PATCH: meter.measure(centred),
        CIRCLE: meter.measure(Prompter.from_name("circle")),
        RANDOM: meter.measure([random_patch(centred, seed) for seed in range(DRAWS)]),
    }


def block_of(made: Learned, results: dict[str, GainResult]) -> int:
    """Returns the index, in every result, of the block that the patch was trained in: the last of them."""
    there = [one.block for one in results[PATCH].blocks]
    taught = [block for block in made.record.get("blocks") or [] if block in there]
    return there.index(taught[-1]) if taught else len(there) - 1


def beats_chance(made: Learned, results: dict[str, GainResult]) -> bool:
    """True if the patch's gain is above that of random colours: the interval of their difference is above 0."""
    from visprompt.tasks.gain import compared

    index = block_of(made, results)
    patch, chance = (results[name].masses[:, index] for name in (PATCH, RANDOM))
    return compared(patch, chance, results[PATCH].without[:, index]).low > 0


def gains_for_card(
    made: Learned, results: dict[str, GainResult], model: str, images: str
) -> tuple[dict[str, BlockGain], str]:
    """Returns the gains in the block that the patch was trained in, and a description of the measurement.

    They are stored in the card of the patch.

    Args:
        made: the patch.
        results: gains from `compare`.
        model: name of the model, for the description.
        images: description of the images.
    """
    index = block_of(made, results)
    gains = {name: result.blocks[index] for name, result in results.items()}
    block, last = gains[PATCH].block, results[PATCH].blocks[-1].block
    how = (
        f"{model}, block {block}{'' if block < last else ', the last'}; {images}, one place each: a square of "
        f"{made.options.size:g} tokens, wholly inside. As used: 8 bits, the model's own processor; the circle as it is "
        f"drawn by default; {DRAWS} draws of random colours in the patch's own shape. Intervals over the images."
    )
    return gains, how


def gain_rows(results: dict[str, GainResult], model: str) -> list[dict[str, Any]]:
    """Returns the gain in every block in the form that `plots_gain.gain_figure` takes."""
    return [
        {
            "model": model,
            "marker": name,
            "own": True if name == PATCH else None,
            "control": name == RANDOM,
            "n": len(result.masses),
            "blocks": [dataclasses.asdict(one) for one in result.blocks],
        }
        for name, result in results.items()
    ]


def gains_table(found: dict[str, Any]) -> Any:
    """Makes a terminal table of what `cards.add_gains` stored."""
    from rich.markup import escape
    from rich.table import Table

    from visprompt.persistence.model_card import Metric
    from visprompt.utils.number_text import shown

    title, how = f"attention gain as it is used, n = {found['n']}", escape(found["how"])
    table = Table(title=title, title_justify="left", caption=how, caption_justify="left")
    for name, side in (("marker", "left"), ("gain", "right"), ("95 %", "right"), ("mass without → with", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for index, row in enumerate(found["rows"]):
        gain = Metric("", "gain", row["gain"], interval=(row["low"], row["high"]))
        mass = f"{shown('mass', row['mass_without'])} → {shown('mass', row['mass'])}"
        table.add_row(escape(row["marker"]), gain.text(), gain.interval_text(), mass, style="" if index else "bold")
    return table


#: names of visprompt 0.4.0, which work with a DeprecationWarning
__getattr__ = renamed_names(__name__, {"told": "gains_for_card"}, globals())
