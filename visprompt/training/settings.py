"""How a prompt is trained: one frozen dataclass, checked where it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from visprompt.errors import InvalidInputError
from visprompt.visual_prompt import FITS, Fit, is_number

#: lr = base_lr · pictures per step / 256 (Goyal et al. 2017, as in VPT and gated prompt tuning)
REFERENCE_BATCH = 256
#: torch's generators take no larger ones
MOST_SEED = 2**63


@dataclasses.dataclass(frozen=True)
class FitSettings:
    """Settings of `fit`; defaults are those of gated prompt tuning (arXiv 2306.05067) where it has them.

    Args:
        epochs: passes over the training pictures.
        max_steps: stop after so many optimiser steps, also within an epoch; the schedule ends there.
        batch_size: pictures per process and forward; an optimiser step sees `batch_size · accumulate · processes`.
        accumulate: forwards per optimiser step.
        optimizer: "sgd" or "adamw".
        base_lr: learning rate for 256 pictures a step, scaled to the pictures that a step has.
        lr: the learning rate itself, instead of `base_lr`.
        momentum: of SGD; of AdamW its β₁.
        weight_decay: decoupled for AdamW, as torch's SGD has it otherwise; on every trained tensor with two or more
            dimensions.
        warmup_epochs: epochs over which the rate rises from 0; then it falls along a cosine to 0. None: a tenth of the
            run, as the authors' 10 of 100.
        max_grad_norm: gradients are clipped to this norm; None: they are not.
        precision: "no" (the type of the model's weights), "bf16" or "fp16": autocast. What is learned stays float32.
        checkpointing: recompute the tower's blocks in the backward pass: less memory, more time.
        patience: stop after so many evaluations without a better one; None: never.
        evaluate_every: epochs between evaluations on validation.
        checkpoint_every: optimiser steps between checkpoints, beside those at every epoch's end; None: only these.
        keep: "best" on validation, or the "last" weights; without validation always the last.
        head: "linear", "mlp" (one hidden layer), "zero-shot" (the class names' text embeddings), or None: what fits
            the data.
        templates: texts for the zero-shot head, `{}` standing for the class name.
        augment: "none", "flip", "crop" (random resized crop and flip), "shift" (a window of 7/8 somewhere, and flip).
        fit: how pictures are brought into the model's input, as in `VisualPrompt`.
        workers: processes that prepare pictures; 0: the training process itself.
        seed: of the initialisation, the order, augmentation and dropout.
        tensorboard: write TensorBoard events too (extra `tensorboard`).

    Raises:
        InvalidInputError: for a value it cannot have.
    """

    epochs: int = 100
    max_steps: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    base_lr: float = 0.1
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup_epochs: float | None = None
    max_grad_norm: float | None = None
    precision: Literal["no", "bf16", "fp16"] = "no"
    checkpointing: bool = False
    patience: int | None = None
    evaluate_every: int = 1
    checkpoint_every: int | None = None
    keep: Literal["best", "last"] = "best"
    head: Literal["linear", "mlp", "zero-shot"] | None = None
    templates: tuple[str, ...] = ("a photo of a {}",)
    augment: Literal["none", "flip", "crop", "shift"] = "none"
    fit: Fit = "model"
    workers: int = 0
    seed: int = 0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        choices = {
            "optimizer": ("sgd", "adamw"),
            "precision": ("no", "bf16", "fp16"),
            "keep": ("best", "last"),
            "head": (None, "linear", "mlp", "zero-shot"),
            "augment": ("none", "flip", "crop", "shift"),
            "fit": FITS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InvalidInputError(
                    f"{name} is one of {', '.join(map(str, allowed))}; got {getattr(self, name)!r}."
                )
        whole = {"epochs": 1, "max_steps": 1, "batch_size": 1, "accumulate": 1, "patience": 1, "evaluate_every": 1,
                 "checkpoint_every": 1, "workers": 0, "seed": 0}  # fmt: skip
        for name, least in whole.items():
            value = getattr(self, name)
            optional = name in ("max_steps", "patience", "checkpoint_every") and value is None
            if not optional and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise InvalidInputError(f"{name} is a whole number, at least {least}; got {value!r}.")
        for name in ("base_lr", "lr", "momentum", "weight_decay", "warmup_epochs", "max_grad_norm"):
            value = getattr(self, name)
            if value is None and name in ("lr", "max_grad_norm", "warmup_epochs"):
                continue
            if not is_number(value) or value < 0:
                raise InvalidInputError(f"{name} is a number, at least 0; got {value!r}.")
        if self.momentum >= 1:
            raise InvalidInputError(f"momentum is a share, at least 0 and below 1; got {self.momentum!r}.")
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

    def learning_rate(self, pictures_per_step: int) -> float:
        """The peak learning rate: `lr`, or `base_lr` scaled to the pictures that a step has."""
        return self.lr if self.lr is not None else self.base_lr * pictures_per_step / REFERENCE_BATCH

    def warmup_steps(self, steps: int, per_epoch: int) -> float:
        """Steps over which the rate rises, of a run of `steps` with `per_epoch` in an epoch."""
        return steps / 10 if self.warmup_epochs is None else self.warmup_epochs * per_epoch

    def describe(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**dataclasses.asdict(self), "templates": list(self.templates)}


def settings_from(defaults: dict[str, Any], given: dict[str, Any]) -> FitSettings:
    """A strategy's own defaults, and over them what the user says.

    Raises:
        UnknownNameError: for a setting that does not exist; the message lists those that do.
        InvalidInputError: for a value it cannot have.
    """
    from visprompt.registry import checked_options

    merged = {**defaults, **given}
    if "lr" in given and "base_lr" in given:
        raise InvalidInputError("lr and base_lr are two ways of saying how fast: give one of them.")
    if "base_lr" in given:
        merged.pop("lr", None)
    return checked_options(FitSettings, "fit", merged)  # type: ignore[type-var, return-value, arg-type]
