"""What training changes in the model and in accelerate's global state, restored afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from visprompt.errors import InvalidInputError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from visprompt.models.base import Model
    from visprompt.training.settings import FitSettings


@contextmanager
def frozen(model: Model, modules: dict[str, nn.Module]) -> Iterator[None]:
    """Freezes the model and puts it into evaluation mode inside `with`; flags, modes and gradients are restored
    afterwards.

    Args:
        model: the model; its parameters get `requires_grad=False`, except those of `modules`.
        modules: the trained modules by name; their gradients are set to None at the end.
    """
    trained = {id(item) for module in modules.values() for item in module.parameters()}
    flags = [(item, item.requires_grad) for item in model.module.parameters() if id(item) not in trained]
    modes = [module for module in model.module.modules() if module.training]
    try:
        for item, _ in flags:
            item.requires_grad_(False)
        for module in modes:
            module.training = False
        yield
    finally:
        for item, wanted in flags:
            item.requires_grad_(wanted)
        for module in modes:
            module.training = True
        for module in modules.values():
            for item in module.parameters():
                item.grad = None


@contextmanager
def accelerator_of(settings: FitSettings, model: Model) -> Iterator[Accelerator]:
    """Opens an `Accelerator` on the model's device, independent of one that the caller may have.

    accelerate keeps precision and gradient accumulation in state that all accelerators of a process share. This state
    is emptied before and restored afterwards.

    Args:
        settings: gives the precision.
        model: gives the device.

    Yields:
        The accelerator.

    Raises:
        InvalidInputError: if the precision is not available on the device, or if accelerate works on another device
            than the model's.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from accelerate.utils import GradientAccumulationPlugin

    if settings.precision == "fp16" and model.device.type == "cpu":
        raise InvalidInputError('precision="fp16" needs a GPU: on a CPU take "bf16", or "no".')
    held = [(shared, dict(shared)) for shared in (AcceleratorState._shared_state, GradientState._shared_state)]
    had_processes = bool(PartialState._shared_state)
    for shared, _ in held:
        shared.clear()
    try:
        try:
            # The loop accumulates gradients itself; launchers may set a number of steps in the environment.
            plugin = GradientAccumulationPlugin(num_steps=1)
            cpu = model.device.type == "cpu"
            made = Accelerator(mixed_precision=settings.precision, cpu=cpu, gradient_accumulation_plugin=plugin)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise InvalidInputError(f"precision {settings.precision!r} cannot be had here: {error}") from None
        if made.device.type != model.device.type and (made.num_processes > 1 or settings.precision != "no"):
            raise InvalidInputError(
                f"the model is on {model.device}, and accelerate works on {made.device}: load the model there, or "
                "start without --cpu (ACCELERATE_USE_CPU)."
            )
        if made.num_processes > 1 and made.device.type != "cpu" and model.device != made.device:
            raise InvalidInputError(
                f"the model is on {model.device}, and this process of {made.num_processes} has {made.device}: "
                "load it there, vp.load_model(name, device=visprompt.training.distributed.device())."
            )
        try:
            yield made
        finally:
            made.free_memory()
    finally:
        if not had_processes and PartialState._shared_state.get("num_processes") == 1:
            PartialState._reset_state()
        for shared, before in held:
            shared.clear()
            shared.update(before)
