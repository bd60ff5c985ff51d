"""Baselines for learned prompts: full fine-tuning, a linear probe, and untrained prompts."""

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
    """A fine-tuned model.

    Attributes:
        model: the trained copy, wrapped.
        prompter: holds the trained head; its prompt has no tokens. Use it with `prompter.evaluate(model, data)` or
            `Runner(model, prompter).predict(…)`.
        fitted: the metrics of the run; `fitted.parameters["model"]` is the number of trained parameters of the model.
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
    """Trains a copy of a whole model with a head on labelled images; the model itself is unchanged.

    No file is written: save `Tuned.model.module` with the library that made it.

    Args:
        model: an encoder; all weights of a deep copy of its module are trained.
        splits: the data.
        settings: the hyperparameters; the learning rate applies to the model's weights too.
        progress: True, False, or None: only on a terminal.
        title: shown before the progress bar.
        test: measure the test split at the end.

    Returns:
        The trained copy, its head, and the metrics.

    Raises:
        UnsupportedError: for models that generate text.
        InvalidInputError: for a zero-shot head, which needs the text tower that the copy does not have.
        DivergedError: if the loss becomes NaN or infinite.
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
    # The identity of the trained model, for which the head was trained.
    prompter.backbone = identity(tuned, prompter.tower)
    return Tuned(tuned, prompter, fitted)


def head_alone() -> Learned:
    """A strategy that does not change the model, so that training it trains only a head (a linear probe).

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
    """A control: a strategy whose prompts keep their random initial values, so that only the head is trained.

    If trained prompts are no better than these, the gain comes from the additional tokens and not from what they
    learned.

    >>> untrained("vpt", prompts=4).options.prompts
    4

    Args:
        strategy: name of a learned strategy.
        **options: options of the strategy.

    Returns:
        The strategy, without parameters yet.

    Raises:
        UnsupportedError: for a strategy without trainable parameters.
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
