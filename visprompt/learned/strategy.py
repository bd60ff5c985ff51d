"""The base class of strategies with trainable parameters; the training loop is in `visprompt.training`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.persistence.prompt_files import SavedPart
from visprompt.prompter import Prompter

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from visprompt.data.labelled.dataset import Labelled, Splits
    from visprompt.models.base import Model
    from visprompt.training.objectives.base import Objective
    from visprompt.training.result import Fitted
    from visprompt.visual_prompt import VisualPrompt


class Learned(Prompter):
    """A strategy whose prompt is trained on a frozen model, and then belongs to that model.

    Sub-classes write `make` (the parameters) and `edit` (how they enter a prompt); `training_edit` and `constrain` if
    training differs from use. Training defaults are in `<module>.yaml` under `training:`.

    Attributes:
        parameters: the trained module, float32; None before `build`, `fit` or `from_pretrained`.
        head: a head on the tuned features (a classifier, …), or None.
        backbone: the identity of the model it was made for (`visprompt.models.identity`).
        record: data, settings, metrics and class names of the training, and the head's description.
    """

    acts_on: ClassVar[frozenset[str]] = frozenset({"tokens"})
    needs: ClassVar[frozenset[str]] = frozenset({"training"})
    #: the tower whose tokens or attention the prompt changes
    tower: ClassVar[str] = "vision"
    #: whether the prompt works on other models than the one it was learned on
    transferable: ClassVar[bool] = False
    #: options that do not affect training and may be changed afterwards
    free: ClassVar[frozenset[str]] = frozenset()
    #: hint in the error about an option that cannot be changed after training
    option_hint: ClassVar[str] = ""
    #: preset with which the prompt is empty and training trains only a head; None: there is none
    head_preset: ClassVar[str | None] = None

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.parameters: nn.Module | None = None
        self.head: nn.Module | None = None
        self.backbone: dict[str, Any] | None = None
        self.record: dict[str, Any] = {}

    # -- for sub-classes ----------------------------------------------------------------------------------------------

    def make(self, model: Model, generator: torch.Generator) -> nn.Module:
        """Initialises the parameters for a model.

        Args:
            model: the model.
            generator: for the initial values.

        Returns:
            A module in float32 on the CPU.

        Raises:
            TypeError: if a sub-class does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not define make().")

    def training_edit(
        self, prompts: Sequence[VisualPrompt], model: Model, draws: Sequence[int] | None
    ) -> list[VisualPrompt]:
        """Edits the prompts of a training batch, with gradients.

        Args:
            prompts: one per image.
            model: the model.
            draws: one seed per prompt for random choices in training; None: no random choices.
        """
        return self.edit_all(prompts, model)

    def constrain(self) -> None:
        """Puts the parameters back into their allowed range; called before every forward in training."""

    def objective(self, model: Model, data: Labelled) -> type[Objective]:
        """The objective class for labelled images of this kind."""
        from visprompt.training.objectives.select import objective_for

        return objective_for(model, data)

    def sketch(self, folder: Path, number: int = 0) -> None:
        """Writes an image of the prompt as a PNG file: at every checkpoint of a run, and where the prompt is saved.

        Strategies without an `image()` write nothing.

        Args:
            folder: it exists.
            number: index among the parts of a composition, for the file name.
        """
        from visprompt.persistence.prompt_image import HasImage
        from visprompt.training.progress_images import png_of
        from visprompt.utils.files import write_bytes

        if isinstance(self, HasImage):
            write_bytes(folder / self.sketch_name(number), png_of(self.image()))

    def sketch_name(self, number: int = 0) -> str:
        """Name of the file that `sketch` writes; empty for a strategy that writes none.

        Args:
            number: as in `sketch`.
        """
        from visprompt.persistence.prompt_image import HasImage
        from visprompt.training.progress_images import IMAGE

        if not isinstance(self, HasImage):
            return ""
        return f"{number}-{IMAGE}" if number else IMAGE

    def about(self) -> str:
        """One or two sentences about the learned prompt for its model card; may be empty."""
        return ""

    # -- making and using ---------------------------------------------------------------------------------------------

    def build(self, model: Model, seed: int = 0) -> None:
        """Initialises the parameters for a model.

        Args:
            model: the model.
            seed: of the initial values.

        Raises:
            UnsupportedError: if the model does not support the prompt.
        """
        import torch

        from visprompt.models.identity import identity

        model.require(self.acts_on, self.name)
        model.tower_named(self.tower)
        self.parameters = self.make(model, torch.Generator().manual_seed(seed)).to(model.device)
        self.backbone = identity(model, self.tower)
        self.head, self.record = None, {}

    def fit(
        self,
        model: Model,
        data: Splits | Labelled | str | os.PathLike[str],
        *,
        out: str | os.PathLike[str] | None = None,
        sweep: Mapping[str, Sequence[Any]] | None = None,
        final: bool = False,
        restart: bool = False,
        progress: bool | None = None,
        **settings: Any,
    ) -> Fitted:
        """Trains the prompt (and a head, where the data need one) on a frozen model.

        Args:
            model: the model; its weights, flags and modes are restored.
            data: labelled images, their splits, or a path to them (`visprompt.data.labelled.dataset.load_splits`).
            out: folder for checkpoints, metrics and the result; an unfinished run is resumed. None: no file is written.
            sweep: values per setting (or option of the strategy); every combination is trained, the best on validation
                is kept.
            final: after the sweep, train once more on training and validation images together and keep the last weights
                (VTAB-1k's protocol).
            restart: overwrite an earlier run in `out`.
            progress: True, False, or None: only on a terminal.
            **settings: `FitSettings`, overriding the strategy's defaults.

        Returns:
            The metrics; the prompter holds the trained parameters, or after an error its previous ones.

        Raises:
            InvalidInputError: for data or settings that do not go together, or another run in `out`.
            UnsupportedError: if the model does not support the prompt.
        """
        from visprompt.training.fit import fit

        before = (self.options, self.parameters, self.head, self.backbone, self.record)
        try:
            return fit(
                self,
                model,
                data,
                out=out,
                sweep=sweep,
                final=final,
                restart=restart,
                progress=progress,
                settings=settings,
            )
        except BaseException:
            # Otherwise half-trained parameters would be used as if they were learned.
            self.options, self.parameters, self.head, self.backbone, self.record = before
            raise

    def evaluate(self, model: Model, data: Labelled, **settings: Any) -> dict[str, float]:
        """Metrics of the prompt and its head on other data with the same classes.

        Args:
            model: the model that the prompt was learned on.
            data: labelled images.
            **settings: `FitSettings` that matter for evaluation (`batch_size`, `fit`, `precision`); by default those of
                the training.

        Raises:
            InvalidInputError: if the strategy is untrained, or the classes differ.
        """
        from visprompt.training.fit import evaluate_on

        return evaluate_on(self, model, data, settings)

    def on(self, model: Model) -> Learned:
        """The strategy that is used on a model: itself, or, if it is untrained, the bundled prompt for that model.

        The strategy itself is unchanged, so that one object serves several models and several threads.

        Raises:
            InvalidInputError: if an option has a value that the bundled prompt was not learned with.
        """
        if self.parameters is not None or self.switched_off:
            return self
        from visprompt.learned.bundled_prompts import prompt_for, used_as

        found = prompt_for(type(self), model)
        return self if found is None else used_as(self, found)

    @property
    def switched_off(self) -> bool:
        """True if its options are the neutral ones (`neutral`), with which it changes nothing."""
        return bool(self.neutral) and all(
            getattr(self.options, name) == value for name, value in (self.neutral or {}).items()
        )

    def edit_all(self, prompts: Sequence[VisualPrompt], model: Model) -> list[VisualPrompt]:
        """As `Prompter.edit_all`, with the strategy or bundled prompt that `on(model)` gives."""
        used = self.on(model)
        return super().edit_all(prompts, model) if used is self else used.edit_all(prompts, model)

    def check(self, prompts: Sequence[VisualPrompt], model: Model) -> None:
        """As `Prompter.check`, and checks that there are parameters for the model.

        Raises:
            InvalidInputError: if the strategy is untrained and there is no bundled prompt for the model.
            UnsupportedError: if the prompt was learned on another model and is not `transferable`.
        """
        used = self.on(model)
        if used is not self:
            used.check(prompts, model)
            return
        super().check(prompts, model)
        if self.parameters is None or self.backbone is None:
            raise InvalidInputError(self.nothing_learned(model))
        self.check_backbone(model)

    def nothing_learned(self, model: Model) -> str:
        """The error message for an untrained strategy on a model."""
        from visprompt.learned.bundled_prompts import names_of, none_ships

        if self.transferable and names_of(type(self)):
            return none_ships(self, model)
        return (
            f"{self.name!r} has learned nothing yet: prompter.fit(model, data), 'visprompt fit {self.name} …', or "
            "vp.Prompter.from_pretrained(folder)."
        )

    def check_backbone(self, model: Model) -> None:
        """Checks that a model is the one that the prompt was learned on, unless it is `transferable`.

        Raises:
            UnsupportedError: with the difference.
        """
        from visprompt.models.identity import describe, difference

        if self.transferable:
            return
        assert self.backbone is not None
        reason = difference(self.backbone, model)
        if reason:
            raise UnsupportedError(
                f"this {self.name!r} prompt was learned on {describe(self.backbone)}, and {model.name} is another "
                f"model: {reason}. Load that model, or fit a prompt of its own for this one."
            )
        device = model.device
        for module in (self.parameters, self.head):
            if module is not None and any(i.device != device for i in (*module.parameters(), *module.buffers())):
                module.to(device)

    # -- what is saved ------------------------------------------------------------------------------------------------

    def trainable(self) -> dict[str, nn.Module]:
        """The trained modules by name: `prompt` and, if there is one, `head`."""
        found = {"prompt": self.parameters, "head": self.head}
        return {name: module for name, module in found.items() if module is not None}

    def state(self) -> dict[str, Tensor]:
        """All trained parameters and buffers, as tensors on the CPU, by name."""
        return {
            f"{name}.{key}": value.detach().cpu().clone()
            for name, module in self.trainable().items()
            for key, value in module.state_dict().items()
        }

    def saved(self) -> SavedPart:
        """The record that `save_pretrained` writes: options, backbone, training record and tensors.

        Raises:
            InvalidInputError: if the strategy is untrained.
        """
        if self.parameters is None:
            raise InvalidInputError(
                f"{self.name!r} has learned nothing yet, so there is nothing to save: fit it first."
            )
        entry = {"backbone": self.backbone, "record": self.record}
        return SavedPart(self.name, dataclasses.asdict(self.options), entry, self.state())

    def learned_parts(self) -> list[Any]:
        """The strategy itself, in a list."""
        return [self]

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Loads tensors of `state()`; the parameters must exist.

        Args:
            state: tensors by name.

        Raises:
            InvalidInputError: if names or shapes are not those of this strategy.
        """
        for name, module in self.trainable().items():
            own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
            try:
                module.load_state_dict(own)
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise InvalidInputError(f"these weights do not fit {self.name!r}: {reason}") from None

    def restore(self, state: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
        """Builds parameters and head from what `save_pretrained` wrote.

        Args:
            state: tensors by name.
            content: `backbone` and `record`.
        """
        import torch

        from visprompt.training.heads import head_from

        self.backbone = dict(content["backbone"])
        self.record = dict(content.get("record", {}))
        shapes = {k.removeprefix("prompt."): tuple(v.shape) for k, v in state.items() if k.startswith("prompt.")}
        self.parameters = self.remake(shapes)
        head = self.record.get("head")
        self.head = head_from(head) if head else None
        with torch.no_grad():
            self.load_state(state)

    def remake(self, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
        """Zero parameters of the given shapes, to be filled by `load_state`; for modules that hold plain parameters."""
        import torch
        from torch import nn

        return nn.ParameterDict({name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()})

    def describe(self) -> dict[str, Any]:
        """Name, options and hashes of the weights, on which results depend.

        Returns:
            As `Prompter.describe`, with `learned`, a hash of the weights; for an untrained strategy `bundled`, hashes
                of the bundled prompts that may be used instead, if there are any.
        """
        import hashlib

        from visprompt.learned.bundled_prompts import digests_of

        found = super().describe()
        if self.parameters is not None:
            digest = hashlib.sha256()
            for name, item in sorted(self.state().items()):
                digest.update(name.encode() + item.contiguous().numpy().tobytes())
            found["learned"] = digest.hexdigest()[:16]
        elif bundled := digests_of(type(self)):
            found["bundled"] = bundled
        return found


def learned_parts(prompter: Prompter) -> list[Learned]:
    """The learned strategies of a strategy, composition or ensemble, in order."""
    return prompter.learned_parts()
