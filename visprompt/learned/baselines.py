"""What learned prompts are measured against: the whole model trained, and prompts that nobody trained."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.learned.strategy import Learned
from visprompt.models.identity import identity
from visprompt.models.loading import wrap
from visprompt.prompter import make_prompter
from visprompt.registry import first_strategy, get_class
from visprompt.training.run import train

if TYPE_CHECKING:
    import torch
    from torch import nn

    from visprompt.data.labelled.splits import Splits
    from visprompt.models.base import Model
    from visprompt.training.result import Fitted
    from visprompt.training.settings import FitSettings


@dataclass(frozen=True, eq=False)
class Tuned:
    """A model that was trained itself.

    Attributes:
        model: the trained copy, ready for prompts.
        prompter: holds the head; its prompt has no tokens. `prompter.evaluate(model, data)` and
            `Runner(model, prompter).predict(…)` take both together.
        fitted: what was measured; `fitted.parameters["model"]` is how many numbers of the model were trained.
    """

    model: Model
    prompter: Learned
    fitted: Fitted


def fine_tuned(
    model: Model,
    splits: Splits,
    settings: FitSettings,
    *,
    progress: bool | None = None,
    title: str = "",
    test: bool = True,
) -> Tuned:
    """Trains a copy of a whole model with a head on labelled images; the model itself stays as it is.

    Nothing is written: `Tuned.model.module` can be saved with the library that made it.

    Args:
        model: an encoder. What is trained is a deep copy of its module, every weight of it.
        splits: the data.
        settings: how; the learning rate is that of the model's weights too.
        progress: True, False or None: if someone is watching.
        title: in front of the progress bar.
        test: measure the test split at the end.

    Raises:
        UnsupportedError: for models that answer in words.
        InvalidInputError: for a zero-shot head, whose texts the copy could not read.
        DivergedError: if the loss stops being a number.
    """
    if model.generates:
        raise UnsupportedError(
            f"{model.name} answers in words: full fine-tuning as a baseline is for encoders with a head on top."
        )
    if settings.head == "zero-shot":
        raise InvalidInputError('full fine-tuning trains a head of its own: take head="linear" or "mlp".')
    module = copy.deepcopy(model.module).requires_grad_(True)
    tuned = wrap(module, model.parts.reader.processor, name=f"{model.name}, fine-tuned")
    prompter = head_alone()
    fitted = train(prompter, tuned, splits, settings, progress=progress, title=title, test=test, also=module)
    # Only now is it the model that the head belongs to.
    prompter.backbone = identity(tuned, prompter.tower)
    return Tuned(tuned, prompter, fitted)


def head_alone() -> Learned:
    """A strategy that leaves the model as it is, so that training it trains a head alone (a linear probe).

    Returns:
        The first registered strategy whose class itself sets `Learned.head_preset`, with that preset.

    Raises:
        UnsupportedError: if no such strategy is installed.
    """
    name = first_strategy(lambda kind: issubclass(kind, Learned) and bool(vars(kind).get("head_preset")))
    kind = get_class(name)
    assert issubclass(kind, Learned)
    made = make_prompter(name, preset=kind.head_preset)
    assert isinstance(made, Learned)
    return made


def untrained(strategy: str, **options: Any) -> Learned:
    """A strategy whose prompts stay as they are drawn, so that only the head learns: a control.

    If trained prompts are no better than these, it was room that helped, or nothing, and not what they learned.

    >>> untrained("vpt", prompts=4).options.prompts
    4

    Args:
        strategy: the name of one that learns.
        **options: its options.

    Raises:
        UnsupportedError: for a strategy that learns nothing anyway.
    """
    kind = get_class(strategy)
    if not issubclass(kind, Learned):
        raise UnsupportedError(f"{strategy!r} learns nothing, so there is nothing to leave untrained.")

    class Untrained(kind):  # type: ignore[misc, valid-type]
        """Draws its parameters and keeps them."""

        name = strategy

        def make(self, model: Model, generator: torch.Generator) -> nn.Module:
            """The parameters of the strategy, not to be changed."""
            made: nn.Module = super().make(model, generator)
            return made.requires_grad_(False)

    made: Learned = Untrained(make_prompter(strategy, **options).options)
    return made
