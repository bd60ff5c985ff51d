"""One run of a suite of ways of tuning, in this process or in one of its own.

A worker process (`python -m visprompt.bench.tuning.unit`) reads which runs to make from its standard input, a line
each, and writes a line with what came out; when the process that started it is gone, so is its input, and it ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from visprompt.bench.tuning.spec import MethodSpec, SetSpec, TuningSuite
from visprompt.errors import InvalidInputError
from visprompt.utils.jsonl import json_line
from visprompt.utils.provenance import provenance

if TYPE_CHECKING:
    from visprompt.data.labelled.dataset import Labelled
    from visprompt.data.labelled.splits import Splits
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.training.result import Fitted
    from visprompt.training.settings import FitSettings

Row = dict[str, Any]
PROMPTS = "prompts"
#: settings that a grid may have beside options of the strategy
_NOT_OPTIONS = ("lr", "base_lr", "epochs", "batch_size", "optimizer", "momentum", "weight_decay", "warmup_epochs")


@dataclass(frozen=True)
class Unit:
    """One run: a method on a set with a seed, at one point of its grid."""

    stage: str
    method: MethodSpec
    set: SetSpec
    seed: int
    point: dict[str, Any]
    settings: dict[str, Any]
    key: str

    @property
    def title(self) -> str:
        """For people."""
        point = ", ".join(f"{name} {value}" for name, value in self.point.items())
        return f"{self.set.key} · {self.method.label} · " + (point if self.stage == "choose" else f"seed {self.seed}")


class Workshop:
    """Model and data of a suite, each made when it is first needed.

    Args:
        suite: the suite.
        model: a name for `load_model`, or a model.
        device: for a model that is loaded here.
        limit: at most so many pictures of every part.
        out: where prompts are kept.
    """

    def __init__(self, suite: TuningSuite, model: Any, device: str, limit: int | None, out: Path) -> None:
        self.suite, self.name, self.device, self.limit, self.out = suite, model, device, limit, out
        self._model: Model | None = None if isinstance(model, str) else model
        self._identity: Row = {}
        self._splits: dict[str, Splits] = {}

    @property
    def model(self) -> Model:
        """The model, loaded once."""
        if self._model is None:
            from visprompt.models import load_model

            self._model = load_model(self.name, device=self.device)
        return self._model

    @property
    def identity(self) -> Row:
        """What the model is, its weights' hash included."""
        if not self._identity:
            self._identity = self.model.describe()
        return self._identity

    def splits(self, one: SetSpec) -> Splits:
        """The data of a set, its pictures in memory: they are read again and again."""
        if one.key not in self._splits:
            from visprompt.data.labelled.splits import load_splits

            made = load_splits(one.data)
            parts: Any = {part: getattr(made, part) for part in ("train", "validation", "test")}
            for part, data in parts.items():
                if data is None:
                    raise InvalidInputError(f"set {one.key}: {one.data} has no {part} part, and all three are needed.")
                sizes = [size for size in (one.sizes.get(part), self.limit) if size is not None]
                parts[part] = _in_memory(data.limited(min(sizes), 0) if sizes else data)
            self._splits[one.key] = dataclasses.replace(made, **parts)
        return self._splits[one.key]

    def run(self, unit: Unit) -> Row:
        """Trains and measures; a learning rate with which the loss is no number any more is a result too."""
        from visprompt.training.loop import DivergedError

        started, used = time.monotonic(), time.process_time()
        row: Row = {
            "suite": self.suite.name,
            "stage": unit.stage,
            "key": unit.key,
            "method": unit.method.label,
            "set": unit.set.key,
            "seed": unit.seed,
            "point": unit.point,
            "settings": unit.settings,
            "options": _options(unit),
        }
        try:
            row |= self._trained(unit)
        except DivergedError as error:
            row["diverged"] = str(error)
        row |= {
            "seconds": round(time.monotonic() - started, 1),
            "cpu_seconds": round(time.process_time() - used, 1),
            "model": self.identity,
            "provenance": provenance(),
            "limit": self.limit,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        return row

    def _trained(self, unit: Unit) -> Row:
        from visprompt.learned.baselines import fine_tuned
        from visprompt.training.run import train
        from visprompt.training.settings import FitSettings

        splits, settings = self.splits(unit.set), FitSettings(**unit.settings, seed=unit.seed)
        if unit.method.how == "full":
            tuned = fine_tuned(self.model, splits, settings, progress=False, test=False)
            model, prompter, fitted = tuned.model, tuned.prompter, tuned.fitted
        else:
            model, prompter = self.model, _prompter(unit)
            fitted = train(prompter, model, splits, settings, progress=False, test=False)
        row = _figures(fitted, splits)
        blocks = getattr(prompter, "blocks_table", None)
        if blocks is not None and unit.method.how == "prompt":
            row["blocks"] = blocks()
        if unit.stage == "report":
            assert splits.test is not None
            row["test"], right = tested(prompter, model, splits.test, settings)
            if right:
                row["right"] = "".join("1" if one else "0" for one in right)
            if unit.method.how == "prompt":
                prompter.save_pretrained(prompt_folder(self.out, {"set": unit.set.key, "key": unit.key}))
        return row


def _in_memory(data: Labelled) -> Labelled:
    from visprompt.data.labelled.dataset import Labelled

    items = [(data.picture(i), data.label(i)) for i in range(len(data))]
    return Labelled(items, data.classes, kind=data.kind, name=data.name, ignore_index=data.ignore_index)


def _prompter(unit: Unit) -> Learned:
    from visprompt.learned.baselines import untrained
    from visprompt.learned.strategy import Learned
    from visprompt.prompter import Prompter

    options = _options(unit)
    if unit.method.how == "untrained":
        return untrained(unit.method.strategy, **options)
    made = Prompter.from_name(unit.method.strategy, **options)
    if not isinstance(made, Learned):
        raise InvalidInputError(f"{unit.method.strategy!r} learns nothing: a suite of tuning compares what is trained.")
    return made


def _options(unit: Unit) -> Row:
    return {**unit.method.options, **{name: value for name, value in unit.point.items() if name not in _NOT_OPTIONS}}


def _figures(fitted: Fitted, splits: Splits) -> Row:
    return {
        "metric": fitted.metric,
        "validation": fitted.validation,
        "best_epoch": fitted.best_epoch,
        "epochs": fitted.epochs,
        "parameters": fitted.parameters,
        "history": [
            {name: row[name] for name in ("epoch", "train", "validation") if name in row} for row in fitted.history
        ],
        "sizes": {part: len(getattr(splits, part)) for part in ("train", "validation", "test")},
        "classes": list(splits.train.classes),
    }


def tested(
    prompter: Learned, model: Model, data: Labelled, settings: FitSettings
) -> tuple[dict[str, float], list[bool]]:
    """Figures on other data, and for classes whether each picture was right, in the order of the data."""
    import torch

    from visprompt.training.loop import evaluate
    from visprompt.training.objectives.base import batches_of
    from visprompt.training.objectives.classification import Classification

    kind, head = prompter.objective(model, data), prompter.head
    objective = kind(model, prompter, {"train": data, "test": data}, settings)
    objective.head = prompter.head = head
    if not isinstance(objective, Classification):
        return evaluate(objective, "test"), []
    right: list[bool] = []
    loss, samples, labels = 0.0, objective.samples("test"), data.labels
    for part in batches_of(range(len(data)), settings.batch_size):
        batch = objective.collate([samples[index, 0] for index in part])
        if batch is None or len(batch["index"]) != len(part):
            raise InvalidInputError(f"{data.name}: a picture cannot be read.")
        moved: Any = {name: item.to(model.device) if hasattr(item, "to") else item for name, item in batch.items()}
        half = torch.autocast(model.device.type, torch.bfloat16, settings.precision == "bf16")
        with torch.no_grad(), half, objective.encoded(moved, None) as encoding:
            logits = objective.head(encoding.embeddings)
        loss += float(torch.nn.functional.cross_entropy(logits, moved["label"], reduction="sum"))
        right += [bool(one) for one in logits.argmax(dim=-1) == moved["label"]]
    return {"loss": loss / len(labels), "accuracy": sum(right) / len(right)}, right


def prompt_folder(out: Path, row: Mapping[str, Any]) -> Path:
    """Where the prompt of a reported run is kept."""
    return out / PROMPTS / f"{row['set']}-{row['key']}"


class Worker:
    """A process that makes runs, one after the other.

    Args:
        source: name or path of the suite.
        told: further arguments of `Workshop`.
        threads: that the process may use.
    """

    def __init__(self, source: str, told: Row, threads: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "visprompt.bench.tuning.unit"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        self._say({"suite": source, **told})

    def run(self, unit: Unit) -> Row | None:
        """What came out; None if the process died."""
        told = {name: getattr(unit, name) for name in ("stage", "seed", "point", "settings", "key")}
        self._say({**told, "method": unit.method.label, "set": unit.set.key})
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                event, value = json.loads(line)
            except ValueError:  # a library that prints
                continue
            if event == "row":
                return dict(value)
        return None

    def end(self) -> None:
        """Lets it go."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()

    def _say(self, content: Row) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json_line(content))
            self.process.stdin.flush()


def _main(source: IO[str], target: IO[str]) -> None:
    from visprompt.bench.suite import load_suite

    told = json.loads(source.readline())
    suite = load_suite(told["suite"])
    assert isinstance(suite, TuningSuite)
    workshop = Workshop(suite, told["model"], told["device"], told["limit"], Path(told["out"]))
    for line in source:
        content = json.loads(line)
        method = suite.method(content.pop("method"))
        (one,) = [one for one in suite.sets if one.key == content["set"]]
        row = workshop.run(Unit(**{**content, "method": method, "set": one}))
        print(json.dumps(["row", json.loads(json_line(row))]), file=target, flush=True)


if __name__ == "__main__":
    _main(sys.stdin, sys.stdout)
