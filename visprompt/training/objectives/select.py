"""Chooses the objective for a model and a kind of data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from visprompt.errors import UnsupportedError

if TYPE_CHECKING:
    from visprompt.data.labelled.dataset import Labelled
    from visprompt.models.base import Model
    from visprompt.training.objectives.base import Objective


def objective_for(model: Model, data: Labelled) -> type[Objective]:
    """The objective class for a model and labelled images.

    Args:
        model: the frozen model.
        data: the training split.

    Returns:
        A class derived from `Objective`; create it with (model, prompter, splits, settings).

    Raises:
        UnsupportedError: if the model cannot be trained on this kind of data.
    """
    if data.kind == "images":
        raise UnsupportedError(
            f"{data.name or 'the data set'} has images without labels, and there is nothing to teach {model.name} "
            "with them: give classes, masks, or questions with their answers. (A patch is learned without labels.)"
        )
    if data.kind == "answers":
        if not model.generates:
            raise UnsupportedError(
                f"{model.name} is an encoder and writes no text, so it cannot learn answers: give it classes or masks, "
                "or take a vision-language model."
            )
        from visprompt.training.objectives.language import LanguageModelling

        return LanguageModelling
    if model.generates:
        raise UnsupportedError(
            f"{model.name} answers in words, and these data are for {data.kind}: give questions with their answers, or "
            "take an encoder."
        )
    if data.kind == "segmentation":
        from visprompt.training.objectives.segmentation import Segmentation

        return Segmentation
    from visprompt.training.objectives.classification import Classification

    return Classification
