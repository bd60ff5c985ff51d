"""Patches learned anew at every point of a grid: size × shape × λ, as Fig. 3 of arXiv 2406.03303.

Every point is learned on generated scenes and measured on validation scenes: what is chosen by it has to be measured on
images of its own.
"""

from __future__ import annotations

import functools
import itertools
import time
from typing import Any

from visprompt.bench.gain.markers import PATCHES, ImageDataset
from visprompt.bench.gain.spec import SweepSpec
from visprompt.bench.kind import RunContext, Unit, loaded
from visprompt.bench.rows import Row, dated, point_label
from visprompt.errors import VispromptError
from visprompt.tasks.gain import GainMeter, compared
from visprompt.utils.hashing import digest

#: part of what a point is known by: raise it when what is measured changes
_VERSION = 1


class Sweep:
    """The points of the sweep of a run's suite."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.spec: SweepSpec = context.suite.sweep
        self._circles: dict[float, Any] = {}

    @functools.cached_property
    def model(self) -> Any:
        """The model, its vision tower if it writes."""
        from visprompt.models.lvlm.vision_encoder import encoder_of

        return encoder_of(loaded(self.spec.model, self.context.settings.device))

    @functools.cached_property
    def identity(self) -> Row:
        """What the model is, its weights' hash included."""
        found: Row = self.model.describe()
        return found

    @functools.cached_property
    def _wh(self) -> tuple[int, int]:
        height, width = self.model.geometry((256, 256)).tiles[0].input_hw
        return width, height

    @functools.cached_property
    def images(self) -> ImageDataset:
        """Validation scenes as large as the model's input."""
        from visprompt.data.scenes.unlabelled import generated

        n, seed = self.context.settings.limited(self.spec.n), self.context.suite.images["seed"]
        data = generated(self._wh, seed=seed, sizes={"train": 1, "validation": n, "test": 0}).validation
        assert data is not None
        return ImageDataset(data, {"source": "scenes", "split": "validation", "n": n, "seed": seed}, keep=True)

    def units(self) -> list[Unit]:
        """Every point with every seed."""
        suite, found = self.context.suite, []
        weights, n = self.identity["weights"], self.context.settings.limited(self.spec.n)
        for seed, point in itertools.product(self.spec.seeds, self.spec.points()):
            what = [weights, point, self.spec.settings, seed, n]
            key = digest([_VERSION, what, suite.images["seed"], suite.seed])
            title = f"sweep · {point_label(point)} · seed {seed}"
            found.append(Unit("sweep", key, title, (point, seed), size=1, file="runs-sweep-0"))
        return found

    def run(self, unit: Unit) -> Row | None:
        """Learns and measures one point: a line of `runs-sweep-0.jsonl`; None if the point cannot be used."""
        point, seed = unit.what
        try:
            return {"id": unit.key, "run": "sweep", **self._unit(point, seed, unit.key)}
        except VispromptError as error:
            self.context.problem(f"sweep, {point_label(point)}: left out, because {error}")
            return None
        finally:
            self.context.progress.advanced(1)

    def _unit(self, point: Row, seed: int, key: str) -> Row:
        from visprompt.data.scenes.unlabelled import generated
        from visprompt.prompter import Prompter

        started, folder = time.process_time(), self.context.store.out / PATCHES / f"sweep-{key}"
        if (folder / "config.json").exists():
            patch: Any = Prompter.from_pretrained(folder)
        else:
            patch = Prompter.from_name("patch", **point)
            # Without a validation part: a short schedule ends where it ends, and nothing is measured on the way.
            scenes = generated(self._wh, seed=seed, sizes={"validation": 0, "test": 0})
            patch.fit(self.model, scenes, progress=False, seed=seed, **self.spec.settings)
            patch.save_pretrained(folder)
        size = float(patch.options.size)
        meter, circle = self._circle(size)
        found = meter.measure(patch)
        last = found.blocks[-1]
        ratio = compared(found.masses[:, -1], circle.masses[:, -1], found.without[:, -1])
        return {
            "model": self.model.name,
            "point": point,
            "options": {name: getattr(patch.options, name) for name in ("size", "shape", "ratio")},
            "seed": seed,
            "settings": self.spec.settings,
            "n": len(self.images),
            "images": self.images.identity,
            "block": last.block,
            "gain": last.gain,
            "ci95": [last.low, last.high],
            "mass": last.mass,
            "mass_without": last.mass_without,
            "circle": circle.blocks[-1].gain,
            "circle_ci95": [circle.blocks[-1].low, circle.blocks[-1].high],
            "ratio": ratio.ratio,
            "ratio_ci95": [ratio.ratio_low, ratio.ratio_high],
            "patch": folder.name,
            "model_identity": self.identity,
            "limit": self.context.settings.limit,
            "cpu_seconds": round(time.process_time() - started, 1),
            **dated(),
        }

    def _circle(self, size: float) -> Any:
        """The meter for a size, and the red circle on it."""
        from visprompt.prompter import Prompter

        if size not in self._circles:
            meter = GainMeter(self.model, self.images, size_tokens=size, seed=self.context.suite.seed)
            self._circles[size] = meter, meter.measure(Prompter.from_name("circle"))
        return self._circles[size]
