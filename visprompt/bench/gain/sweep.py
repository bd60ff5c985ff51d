"""Patches learned anew at every point of a grid: size × shape × λ, as Fig. 3 of arXiv 2406.03303.

Every point is learned on generated scenes and measured on validation scenes: what is chosen by it has to be measured on
pictures of its own.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

from visprompt.bench.gain.model_run import PATCHES, Pictures, Row
from visprompt.bench.gain.spec import SweepSpec
from visprompt.errors import VispromptError
from visprompt.tasks.gain import GainMeter, compared
from visprompt.utils.hashing import digest
from visprompt.utils.provenance import provenance

if TYPE_CHECKING:
    from visprompt.bench.gain.run import Bench

#: part of what a point is known by: raise it when what is measured changes
_VERSION = 1


class Sweep:
    """The points of a sweep, or a share of them.

    Args:
        bench: the run.
        spec: the grid.
        file: what new rows go to.
    """

    def __init__(self, bench: Bench, spec: SweepSpec, file: str) -> None:
        self.bench, self.spec, self.file = bench, spec, file
        self._circles: dict[float, Any] = {}

    @functools.cached_property
    def model(self) -> Any:
        """The model, its vision tower if it writes."""
        from visprompt.models import load_model
        from visprompt.models.lvlm.vision_encoder import encoder_of

        spec: Any = self.spec.model
        return encoder_of(load_model(spec, device=self.bench.device) if isinstance(spec, str) else spec)

    @functools.cached_property
    def _wh(self) -> tuple[int, int]:
        height, width = self.model.geometry((256, 256)).tiles[0].input_hw
        return width, height

    @functools.cached_property
    def pictures(self) -> Pictures:
        """Validation scenes as large as the model's input."""
        from visprompt.data.scenes.unlabelled import generated

        n = self.bench.count(self.spec.n)
        seed = self.bench.suite.pictures["seed"]
        data = generated(self._wh, seed=seed, sizes={"train": 1, "validation": n, "test": 0}).validation
        assert data is not None
        return Pictures(data, {"source": "scenes", "split": "validation", "n": n, "seed": seed}, keep=True)

    def run(self, number: int = 0, of: int = 1) -> list[Row]:
        """Rows of every point with every seed that is there or is made now: of `of` shares, the one with `number`."""
        units = [(seed, point) for seed in self.spec.seeds for point in self.spec.points()]
        found = []
        identity = self.model.describe()
        for place, (seed, point) in enumerate(units):
            if place % of != number:
                continue
            what = [identity["weights"], point, self.spec.settings, seed, self.bench.count(self.spec.n)]
            key = digest([_VERSION, what, self.bench.suite.pictures["seed"], self.bench.suite.seed])
            row = self.bench.known(key)
            if row is None:
                shown = ", ".join(f"{name} {value}" for name, value in point.items())
                self.bench.listener.row(f"sweep · {shown} · seed {seed}")
                try:
                    row = {"id": key, "run": "sweep", **self._unit(point, seed, key), "model_identity": identity}
                except VispromptError as error:
                    self.bench.problems.append(f"sweep, {shown}: left out, because {error}")
                    continue
                self.bench.log(self.file).append([row])
            self.bench.done(1)
            found.append(row)
        return found

    def _unit(self, point: Row, seed: int, key: str) -> Row:
        from visprompt.data.scenes.unlabelled import generated
        from visprompt.prompter import Prompter

        started, folder = time.process_time(), self.bench.out / PATCHES / f"sweep-{key}"
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
            "n": len(self.pictures),
            "pictures": self.pictures.identity,
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
            "limit": self.bench.limit,
            "cpu_seconds": round(time.process_time() - started, 1),
            **provenance(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def _circle(self, size: float) -> Any:
        """The meter for a size, and the red circle on it."""
        from visprompt.prompter import Prompter

        if size not in self._circles:
            meter = GainMeter(self.model, self.pictures, size_tokens=size, seed=self.bench.suite.seed)
            self._circles[size] = meter, meter.measure(Prompter.from_name("circle"))
        return self._circles[size]
