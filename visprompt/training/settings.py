"""The hyperparameters of `fit`: one frozen dataclass, checked when it is created."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from visprompt.errors import InvalidInputError
from visprompt.utils.renamed import renamed_parameters
from visprompt.visual_prompt import FITS, Fit, is_number

#: lr = base_lr · images per step / 256 (Goyal et al. 2017, as in VPT and gated prompt tuning)
REFERENCE_BATCH = 256
#: seeds are below this, the limit of torch's generators
MOST_SEED = 2**63

#: groups of flags in the help text of `visprompt fit`
TRAINING, CHOOSING = "training", "choosing"


@dataclasses.dataclass(frozen=True)
class Flag:
    """How a setting is shown as a flag of `visprompt fit`; the flag has the setting's name with dashes.

    Args:
        help: one line for `--help`.
        panel: group in the help text: `TRAINING` or `CHOOSING`.
        default: whether `--help` shows the default.
        short: other names, e.g. `("-e",)`.
    """

    help: str
    panel: str = TRAINING
    default: bool = False
    short: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Choice:
    """One of a list of values; `allowed` contains None if the setting is optional."""

    allowed: tuple[Any, ...]

    def check(self, name: str, value: Any, optional: bool) -> None:
        if value not in self.allowed:
            raise InvalidInputError(f"{name} is one of {', '.join(map(str, self.allowed))}; got {value!r}.")


@dataclasses.dataclass(frozen=True)
class _Whole:
    """A whole number, at least `least`; None is allowed if it is the default."""

    least: int

    def check(self, name: str, value: Any, optional: bool) -> None:
        if value is None and optional:
            return
        if not isinstance(value, int) or isinstance(value, bool) or value < self.least:
            raise InvalidInputError(f"{name} is a whole number, at least {self.least}; got {value!r}.")


@dataclasses.dataclass(frozen=True)
class _Number:
    """A finite number, at least 0; None is allowed if it is the default."""

    def check(self, name: str, value: Any, optional: bool) -> None:
        if value is None and optional:
            return
        if not is_number(value) or value < 0:
            raise InvalidInputError(f"{name} is a number, at least 0; got {value!r}.")


def _setting(default: Any, rule: _Choice | _Whole | _Number | None = None, flag: Flag | str | None = None) -> Any:
    """A field of `FitSettings` with a rule for its values and a flag for `visprompt fit`."""
    shown = Flag(flag) if isinstance(flag, str) else flag
    return dataclasses.field(default=default, metadata={"rule": rule, "flag": shown})


def _whole(default: int | None, least: int = 1, flag: Flag | str | None = None) -> Any:
    return _setting(default, _Whole(least), flag)


def _number(default: float | None, flag: Flag | str | None = None) -> Any:
    return _setting(default, _Number(), flag)


def _choice(default: str | None, allowed: tuple[Any, ...], flag: Flag | str | None = None) -> Any:
    return _setting(default, _Choice(allowed), flag)


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """The hyperparameters of `fit`; defaults are those of gated prompt tuning (arXiv 2306.05067) where it gives them.

    The metadata of a field hold the rule for its values (`rule`) and its flag in `visprompt fit` (`flag`).

    Args:
        epochs: passes over the training images.
        max_steps: stop after this many optimiser steps, also within an epoch; the schedule ends there.
        batch_size: images per process and forward; an optimiser step sees `batch_size · accumulate · processes` images.
        accumulate: forwards per optimiser step.
        optimizer: "sgd" or "adamw".
        base_lr: learning rate for 256 images per step, scaled by the images per step / 256.
        lr: the learning rate itself, instead of `base_lr`.
        momentum: of SGD; β₁ of AdamW.
        weight_decay: decoupled in AdamW, an L2 penalty in SGD; applied to trained tensors with two or more dimensions.
        warmup_epochs: epochs over which the rate rises from 0; it then falls to 0 along a cosine. None: a tenth of the
            run, as the authors' 10 of 100.
        max_grad_norm: gradients are clipped to this norm; None: no clipping.
        precision: "no" (the type of the model's weights), "bf16" or "fp16": autocast. Trained parameters stay float32.
        checkpointing: recompute the tower's blocks in the backward pass: less memory, more time.
        patience: stop after this many evaluations without a better one; None: never.
        evaluate_every: epochs between evaluations on the validation split.
        checkpoint_every: optimiser steps between checkpoints, in addition to those after every epoch; None: only these.
        keep: weights to keep: "best" on the validation split, or "last"; without a validation split always the last.
        head: "linear", "mlp" (one hidden layer), "zero-shot" (text embeddings of the class names), or None: the default
            for the data.
        templates: texts for the zero-shot head, with `{}` for the class name.
        augment: "none", "flip", "crop" (random resized crop and flip), "shift" (a window of 7/8 at a random position,
            and flip).
        fit: how an image is brought to the input's size, as in `VisualPrompt`.
        workers: processes that prepare images; 0: the training process itself.
        seed: of initialisation, order, augmentation and dropout.
        tensorboard: write TensorBoard events too (extra `tensorboard`).

    Raises:
        InvalidInputError: for a value that a setting does not take.
    """

    epochs: int = _whole(100, flag="Passes over the training images.")
    max_steps: int | None = _whole(None, flag="End after so many optimiser steps.")
    batch_size: int = _whole(64, flag="Images per forward and process.")
    accumulate: int = _whole(1, flag="Forwards per optimiser step.")
    optimizer: Literal["sgd", "adamw"] = _choice("sgd", ("sgd", "adamw"), flag="sgd or adamw.")
    base_lr: float = _number(0.1, flag="Learning rate for 256 images a step.")
    lr: float | None = _number(None, flag="The learning rate itself.")
    momentum: float = _number(0.9)
    weight_decay: float = _number(0.0, flag="Weight decay.")
    warmup_epochs: float | None = _number(None, flag="Epochs over which the rate rises.")
    max_grad_norm: float | None = _number(None)
    precision: Literal["no", "bf16", "fp16"] = _choice("no", ("no", "bf16", "fp16"), flag="no, bf16 or fp16.")
    checkpointing: bool = _setting(False, flag="Less memory, more time: recompute blocks.")
    patience: int | None = _whole(None, flag=Flag("Stop after N evaluations without a better one.", CHOOSING, True))
    evaluate_every: int = _whole(1)
    checkpoint_every: int | None = _whole(None)
    keep: Literal["best", "last"] = _choice(
        "best", ("best", "last"), flag=Flag("Weights that are kept: best or last.", CHOOSING, True)
    )
    head: Literal["linear", "mlp", "zero-shot"] | None = _choice(
        None, (None, "linear", "mlp", "zero-shot"), flag="linear, mlp or zero-shot."
    )
    templates: tuple[str, ...] = ("a photo of a {}",)
    augment: Literal["none", "flip", "crop", "shift"] = _choice(
        "none", ("none", "flip", "crop", "shift"), flag="none, flip or crop."
    )
    fit: Fit = _choice("model", FITS)  # noqa: RUF009 - it is dataclasses.field
    workers: int = _whole(0, least=0, flag="Processes that prepare images.")
    seed: int = _whole(0, least=0, flag="Of splits, initialisation, order, dropout.")
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if (rule := field.metadata.get("rule")) is not None:
                rule.check(field.name, getattr(self, field.name), optional=field.default is None)
        if self.momentum >= 1:
            raise InvalidInputError(f"momentum is a number, at least 0 and below 1; got {self.momentum!r}.")
        if self.max_grad_norm == 0:
            raise InvalidInputError("max_grad_norm=0 would clip every gradient to nothing: give a norm, or None.")
        if self.seed >= MOST_SEED:
            raise InvalidInputError(f"seed is below 2⁶³; got {self.seed}.")
        if isinstance(self.templates, str):
            object.__setattr__(self, "templates", (self.templates,))
        listed = tuple(self.templates) if isinstance(self.templates, Sequence) else ()
        if not listed or not all(isinstance(item, str) and "{}" in item for item in listed):
            raise InvalidInputError(f"templates are texts with {{}} for the class name; got {self.templates!r}.")
        object.__setattr__(self, "templates", listed)

    @renamed_parameters(pictures_per_step="images_per_step")
    def learning_rate(self, images_per_step: int) -> float:
        """The peak learning rate: `lr`, or `base_lr · images_per_step / 256`.

        Args:
            images_per_step: images of a full optimiser step, over all processes.
        """
        return self.lr if self.lr is not None else self.base_lr * images_per_step / REFERENCE_BATCH

    def warmup_steps(self, steps: int, per_epoch: int) -> float:
        """The number of warm-up steps; need not be whole.

        Args:
            steps: optimiser steps of the whole run.
            per_epoch: optimiser steps per epoch.
        """
        return steps / 10 if self.warmup_epochs is None else self.warmup_epochs * per_epoch

    def describe(self) -> dict[str, Any]:
        """The settings by name, ready for JSON."""
        return {**dataclasses.asdict(self), "templates": list(self.templates)}


def settings_from(defaults: dict[str, Any], given: dict[str, Any]) -> FitSettings:
    """A strategy's default settings, overridden by those that the user gives.

    Args:
        defaults: settings from the strategy's YAML, by name.
        given: settings from the user, by name; `base_lr` replaces a default `lr`.

    Returns:
        The checked settings.

    Raises:
        UnknownNameError: for a setting that does not exist; the message lists all settings.
        InvalidInputError: for a value that a setting does not take, or for both `lr` and `base_lr`.
    """
    from visprompt.registry import checked_options

    merged = {**defaults, **given}
    if "lr" in given and "base_lr" in given:
        raise InvalidInputError("lr and base_lr are two ways to set the learning rate: give one of them.")
    if "base_lr" in given:
        merged.pop("lr", None)
    return checked_options(FitSettings, "fit", merged)  # type: ignore[type-var, return-value, arg-type]
