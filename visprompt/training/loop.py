"""The training loop of every learned strategy: on accelerate, resumable, with a frozen model that is left unchanged."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from visprompt.errors import InvalidInputError, VispromptError
from visprompt.training import distributed as processes
from visprompt.training import evaluation
from visprompt.training import progress_images as progress_images
from visprompt.training import run_checkpoints as checkpoints
from visprompt.training.accelerator import accelerator_of, frozen
from visprompt.training.batch_plan import Keys, Plan, schedule
from visprompt.training.evaluation import evaluate, measured
from visprompt.training.metrics_log import Metrics
from visprompt.training.objectives.base import Batch, Objective, Split
from visprompt.training.progress import FitProgress
from visprompt.training.result import Fitted
from visprompt.training.run_checkpoints import Checkpoint, Progress
from visprompt.utils.renamed import renamed_names

if TYPE_CHECKING:
    from accelerate import Accelerator

    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.training.settings import FitSettings


__all__ = ["DivergedError", "Loop", "evaluate", "measured"]


class DivergedError(VispromptError):
    """The training loss became NaN or infinite."""


class Loop:
    """One training run.

    Args:
        prompter: the learned strategy, with its parameters built; `objective.head` becomes its head.
        model: the frozen model.
        objective: loss and metrics.
        settings: the hyperparameters.
        folder: for checkpoints and metrics; None: no file is written.
        progress: True, False, or None: only on a terminal.
        title: shown before the progress bar.
        also: a part of the model that is trained too (full fine-tuning as a baseline); None: the model is frozen.
    """

    def __init__(
        self,
        prompter: Learned,
        model: Model,
        objective: Objective,
        settings: FitSettings,
        *,
        folder: Path | None = None,
        progress: bool | None = None,
        title: str = "",
        also: nn.Module | None = None,
    ) -> None:
        self.prompter, self.model, self.objective, self.settings = prompter, model, objective, settings
        self.folder, self.wanted, self.title = folder, progress, title
        prompter.head = objective.head
        modules = {**prompter.trainable(), **({} if also is None else {"model": also})}
        self.modules = {name: module.to(model.device) for name, module in modules.items()}

    def run(self) -> Fitted:
        """Trains, and loads the kept weights into the prompter and its head.

        Returns:
            The metrics of the run.

        Raises:
            DivergedError: if the loss becomes NaN or infinite.
            InvalidInputError: if there is no parameter to train, or precision and device do not go together.
        """
        from visprompt.training.gradient_checkpointing import checkpointed

        with ExitStack() as stack:
            accelerator = stack.enter_context(accelerator_of(self.settings, self.model))
            stack.enter_context(frozen(self.model, self.modules))
            if self.settings.checkpointing:
                stack.enter_context(checkpointed(self.model))
            return _Run(self, accelerator).go()


class _Run:
    """The state of a run in one process."""

    def __init__(self, loop: Loop, accelerator: Accelerator) -> None:
        self.loop, self.accelerator = loop, accelerator
        self.objective, self.settings, self.model = loop.objective, loop.settings, loop.model
        self.is_main = accelerator.is_main_process
        self.weights = {
            f"{name}.{key}": item
            for name, module in loop.modules.items()
            for key, item in module.named_parameters()
            if item.requires_grad and item.numel()
        }
        if not self.weights:
            raise InvalidInputError(
                "there is nothing to train: the strategy has no parameters (no prompts, no shaping), nor has the head."
            )
        self.plan = Plan(
            len(self.objective.splits["train"]),
            self.settings.batch_size,
            self.settings.accumulate,
            accelerator.num_processes,
            self.settings.epochs,
            self.settings.max_steps,
            self.settings.seed,
        )
        self.peak = self.settings.learning_rate(self.plan.per_step)
        self.bare = _optimizer(self.settings, self.weights, self.peak)
        self.optimizer = accelerator.prepare(self.bare)
        self.state = Progress()
        self.best: dict[str, Tensor] = {}
        folder = loop.folder if self.is_main else None
        self.metrics = Metrics(folder, tensorboard=self.settings.tensorboard and folder is not None)
        every = self.settings.checkpoint_every or self.plan.steps_per_epoch
        self.progress_images = None if folder is None else progress_images.ProgressImages(folder, every)

    # -- the run ------------------------------------------------------------------------------------------------------

    def go(self) -> Fitted:
        self._resume()
        with (
            self.metrics,
            FitProgress(
                self.loop.wanted if self.is_main else False, self.objective.metric, self.loop.title
            ) as progress,
        ):
            if not self.state.stopped_early:
                self._train(progress)
        if self.best and self.settings.keep == "best":
            self._put(self.best)
        self.loop.prompter.constrain()  # the last optimiser step came after the last forward, which applies constraints
        if self.progress_images is not None and (image := progress_images.sketch_of(self.loop.prompter)) is not None:
            self.progress_images.finish(image, f"kept (epoch {self._kept_epoch()})")
        return Fitted(
            metric=self.objective.metric,
            validation=self._measured("validation") if "validation" in self.objective.splits else {},
            test=self._measured("test") if "test" in self.objective.splits else {},
            best_epoch=self._kept_epoch(),
            epochs=math.ceil(self.state.step / self.plan.steps_per_epoch),
            stopped_early=self.state.stopped_early,
            parameters={
                name: sum(item.numel() for item in module.parameters() if item.requires_grad)
                for name, module in self.loop.modules.items()
            },
            history=list(self.metrics.rows),
        )

    def _kept_epoch(self) -> int:
        if self.best and self.settings.keep == "best":
            return self.state.best_epoch
        return math.ceil(self.state.step / self.plan.steps_per_epoch)

    def _train(self, progress: FitProgress) -> None:
        keys = Keys(self.plan, self.accelerator.process_index, self.state.step)
        batches = iter(evaluation.loader(self.objective, "train", keys, self.settings.workers))
        per_epoch, total = self.plan.steps_per_epoch, self.plan.steps
        epochs = math.ceil(total / per_epoch)
        started, since = time.monotonic(), self.state.step
        self._sketch()
        while self.state.step < total and not self.state.stopped_early:
            epoch = self.state.step // per_epoch
            if self.state.step % per_epoch == 0 or self.state.step == since:
                progress.epoch(epoch + 1, epochs)
            rate = self.peak * schedule(self.state.step, total, self.settings.warmup_steps(total, per_epoch))
            loss = self._step(batches, epoch, rate)
            self.state.step += 1
            progress.step(self.state.step, total, loss, rate, self.objective.watched)
            ends = self.state.step % per_epoch == 0 or self.state.step == total
            if ends:
                seconds = (time.monotonic() - started) / (self.state.step - since)
                self._end_epoch(epoch + 1, epochs, rate, seconds, progress)
            every = self.settings.checkpoint_every
            if ends or (every and self.state.step % every == 0):
                self._save()

    def _end_epoch(self, epoch: int, epochs: int, rate: float, seconds: float, progress: FitProgress) -> None:
        row: dict[str, Any] = {
            "epoch": epoch,
            "step": self.state.step,
            "lr": rate,
            "seconds_per_step": round(seconds, 4),
            "train": {"loss": self.state.loss / max(self.state.images, 1)},
        }
        self.state.loss, self.state.images = 0.0, 0
        due = epoch % self.settings.evaluate_every == 0 or epoch == epochs
        if due and "validation" in self.objective.splits:
            figures = self._measured("validation")
            better = self._is_better(figures)
            if better:
                self.state.best, self.state.best_epoch, self.state.waiting = figures, epoch, 0
                self.best = checkpoints.clone(self.weights)
            else:
                self.state.waiting += 1
            if self.settings.patience is not None and self.state.waiting >= self.settings.patience:
                self.state.stopped_early = True
            row |= {"validation": figures, "best": better}
            progress.evaluated(figures, better)
        self.metrics.write(row)
        self.state.lines = self.metrics.lines

    def _is_better(self, figures: dict[str, float]) -> bool:
        now = figures[self.objective.metric]
        if self.state.best is None:
            return math.isfinite(now)
        before = self.state.best[self.objective.metric]
        return now > before if self.objective.higher_is_better else now < before

    def _step(self, batches: Iterator[Batch | None], epoch: int, rate: float) -> float:
        """One optimiser step; returns the mean loss over its images."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        number = self.state.step
        planned = len(self.plan.step(number))
        sums = torch.zeros(2, dtype=torch.float64)
        for _ in self.plan.batches(number, self.accelerator.process_index):
            batch = next(batches)
            if batch is None:  # no image of the batch could be read, and the data has on_bad="skip"
                continue
            draws = [self.plan.draw(epoch, int(index)) for index in batch["index"]]
            with ExitStack() as stack:
                with self.accelerator.autocast():
                    loss = stack.enter_context(self.objective.loss(evaluation.moved(batch, self.model), draws))
                # Inside the prompts' scope, since gradient checkpointing runs blocks again; outside of autocast.
                self.accelerator.backward(loss / planned)
            sums += torch.tensor([float(loss.detach()), len(draws)], dtype=torch.float64)
        sums = self._share_gradients(sums, planned)
        total, count = float(sums[0]), int(sums[1])
        if count == 0:
            return math.nan
        if not math.isfinite(total):
            raise DivergedError(
                f"the loss is {total} at step {number + 1} (epoch {epoch + 1}), with a learning rate of {rate:.3g}: "
                "try a lower one, or a longer warm-up."
            )
        if self.settings.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(list(self.weights.values()), self.settings.max_grad_norm)
        self.optimizer.step()
        self.state.loss += total
        self.state.images += count
        return total / count

    def _share_gradients(self, sums: Tensor, planned: int) -> Tensor:
        """Sums gradients over processes and scales them to the number of images that could be read.

        All gradients together are a few thousand numbers, so they are sent in one reduction and no module is wrapped; a
        process without images contributes zeros.

        Args:
            sums: `[2]`, sum of the loss and number of images of this process.
            planned: images that the plan has for this step, over all processes.

        Returns:
            `[2]`, the sums over all processes.
        """
        shared = sums
        if self.accelerator.num_processes > 1:
            for item in self.weights.values():
                if item.grad is None:
                    item.grad = torch.zeros_like(item)
            flat = torch.cat([item.grad.reshape(-1).float() for item in self.weights.values()])  # type: ignore[union-attr]
            flat = self.accelerator.reduce(flat, reduction="sum")
            shared = self.accelerator.reduce(sums.to(flat.device, torch.float32), reduction="sum").double().cpu()
            start = 0
            for item in self.weights.values():
                item.grad.copy_(flat[start : start + item.numel()].view_as(item))  # type: ignore[union-attr]
                start += item.numel()
        count = int(shared[1])
        if 0 < count != planned:
            for item in self.weights.values():
                if item.grad is not None:
                    item.grad.mul_(planned / count)
        return shared

    # -- measuring ----------------------------------------------------------------------------------------------------

    def _measured(self, split: Split) -> dict[str, float]:
        return evaluation.measured(self.objective, split, self.settings.batch_size, self.accelerator)

    # -- stopping and going on ----------------------------------------------------------------------------------------

    def _resume(self) -> None:
        if self.loop.folder is None:
            return
        found = checkpoints.load(self.loop.folder)
        processes.require_same(None if found is None else found.progress.step, self.loop.folder)
        if found is None:
            self.metrics.truncate(0)
            return
        self._put(found.weights)
        self.state, self.best = found.progress, found.best
        self.bare.load_state_dict({**self.bare.state_dict(), "state": found.optimizer["state"]})
        if found.progress.scaler is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(found.progress.scaler)
        self.metrics.truncate(self.state.lines)

    def _save(self) -> None:
        if self.loop.folder is None:
            return
        if self.accelerator.scaler is not None:
            self.state.scaler = self.accelerator.scaler.state_dict()
        if self.is_main:
            checkpoints.save(
                self.loop.folder, Checkpoint(self.state, dict(self.weights), self.best, self.bare.state_dict())
            )
            self._sketch()
        self.accelerator.wait_for_everyone()

    def _sketch(self) -> None:
        """Writes an image of the current prompt; strategies without an image write none."""
        if self.progress_images is None:
            return
        self.loop.prompter.sketch(self.progress_images.folder)
        image = progress_images.sketch_of(self.loop.prompter)
        if image is not None:
            self.progress_images.keep(image, self.state.step)

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        missing = sorted(set(self.weights) ^ set(weights))
        if missing:
            raise InvalidInputError(f"the checkpoint is of another run: {', '.join(missing[:5])} do not match.")
        for name, item in self.weights.items():
            item.copy_(weights[name])


def _optimizer(settings: FitSettings, weights: dict[str, Tensor], rate: float) -> torch.optim.Optimizer:
    wide = [item for item in weights.values() if item.ndim >= 2]
    narrow = [item for item in weights.values() if item.ndim < 2]
    groups = [
        {"params": wide, "weight_decay": settings.weight_decay},
        {"params": narrow, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum)
    return torch.optim.AdamW(groups, lr=rate, betas=(settings.momentum, 0.999))


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"FEW": "training.evaluation.FEW"}, globals())
