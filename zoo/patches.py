"""Learns the bundled patches, one per bundled model, through the public API, and measures them with their controls.

The paper: Rezaei et al., Learning Visual Prompts for Guiding the Attention of Vision Transformers,
https://arxiv.org/abs/2406.03303. A run writes a checkpoint every 100 steps and a line of ``metrics.jsonl`` at every
evaluation; the same command resumes it, or loads the result if it has finished.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PREFIX = "patch-"


@dataclass(frozen=True)
class PatchRecipe:
    """The settings of a bundled patch.

    Attributes:
        model: name of the bundled model.
        options: options of `patch`, overriding the defaults.
        settings: settings of `fit`, overriding those of `patch`.
        data_seed: seed of the scenes for training and validation.
        seed: of the initial patch, the order of images and the positions.
        test_seed: seed of the scenes and positions for the reported figures; nothing is chosen on them.
        test_images: number of these scenes.
        parts: numbers of images per split; None: those of `patch` without data.
    """

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    data_seed: int = 0
    seed: int = 0
    test_seed: int = 20_260
    test_images: int = 500
    parts: dict[str, int] | None = None

    @property
    def name(self) -> str:
        """Name of the patch, e.g. ``patch-scenes-clip``."""
        return PREFIX + self.model


PATCH_RECIPES: dict[str, PatchRecipe] = {
    recipe.name: recipe
    for recipe in (
        # Seeds differ: this one has 3.8 times the red circle's gain on 200 validation scenes of seed 77, two others 3.2
        # each. One of these has 2.9 on the test scenes of seed 20,260. Since these have been used, this patch is
        # reported on other scenes.
        PatchRecipe("scenes-clip", data_seed=1000, test_seed=20_270),
        PatchRecipe("scenes-clip-annotated"),
        # The readout averages the rows of all patches, which attend to patches similar to themselves, so that attention
        # is spread evenly; a ring attracts half as much as a full patch (validation: 0.09 and 0.19), also with more
        # steps.
        PatchRecipe("scenes-mae", options={"shape": "full"}, settings={"lr": 0.01, "epochs": 6}),
        # A hole of 0.2, no hole, and pixels learned directly all reach 2.8 to 2.9 times the circle's gain.
        PatchRecipe("scenes-llava"),
    )
}


def learn_patch(recipe: PatchRecipe, work: Path) -> Any:
    """Learns a patch, or resumes its training.

    Args:
        recipe: the settings.
        work: parent of the run's folder ``<work>/<name>``.

    Returns:
        The strategy with the learned patch.
    """
    import visprompt as vp
    from visprompt.data.scenes.unlabelled import generated

    model = vp.load_model(f"bundled:{recipe.model}", device="cpu")
    prompter: Any = vp.Prompter.from_name("patch", **recipe.options)
    scenes = generated(_input_wh(model), seed=recipe.data_seed, sizes=recipe.parts)
    began = time.process_time()
    settings = {"seed": recipe.seed, **recipe.settings}
    prompter.fit(model, scenes, out=work / recipe.name, **settings)
    _log(work, recipe, event="learned", cpu_s=round(time.process_time() - began, 1))
    return prompter


def measure_patch(recipe: PatchRecipe, prompter: Any, work: Path) -> None:
    """Measures a patch and its controls on unused scenes, and adds the gains to its record.

    The controls: the red circle as the library draws it, inscribed in the square that the patch covers, and a patch of
    the same shape with colours of uniform noise. The log has every block, the card the last one.

    Args:
        recipe: gives the number and the seed of the scenes.
        prompter: from `learn_patch`.
        work: folder of the log.
    """
    import visprompt as vp
    from visprompt.data.scenes.unlabelled import generated
    from visprompt.persistence.model_card import add_gains
    from visprompt.tasks.gain import GainMeter, compared, random_patch

    model = vp.load_model(f"bundled:{recipe.model}", device="cpu")
    wh, size = _input_wh(model), prompter.options.size
    scenes = generated(wh, seed=recipe.test_seed, sizes={"train": 1, "validation": 0, "test": recipe.test_images}).test
    assert scenes is not None
    images = [scenes.image(number) for number in range(recipe.test_images)]
    meter = GainMeter(model, images, size_tokens=size, seed=recipe.test_seed)
    markers = {
        "patch": prompter,
        "red circle": vp.Prompter.from_name("circle"),
        "random patch": random_patch(prompter, 0),
    }
    found = {name: meter.measure(marker) for name, marker in markers.items()}
    for name, result in found.items():
        for one in result.blocks:
            _log(work, recipe, marker=name, block=one.block, gain=_short(one.gain), low=_short(one.low),
                 high=_short(one.high), mass=_short(one.mass), mass_without=_short(one.mass_without))  # fmt: skip
    against = compared(*(found[name].masses[:, -1] for name in ("patch", "red circle")), meter.without[:, -1])
    last = found["patch"].blocks[-1].block
    how = (
        f"bundled:{recipe.model}, block {last} of 0–{last}: generated scenes of {wh[0]}×{wh[1]} pixels that nothing "
        f"was chosen on (seed {recipe.test_seed}), one square of {size:g} tokens in each, wholly inside; the circle is "
        "inscribed in it, the random patch is of the same shape. "
    )
    if against.ratio is None:
        how += f"Patch minus circle: {against.difference:.2f} [{against.low:.2f}, {against.high:.2f}]."
    else:
        how += f"Patch over circle: {against.ratio:.2f} [{_end(against.ratio_low)}, {_end(against.ratio_high)}]."
    _log(work, recipe, event="measured", n=recipe.test_images, how=how)
    add_gains(prompter, {name: result.blocks[-1] for name, result in found.items()}, recipe.test_images, how)


def export_patch(prompter: Any, folder: Path) -> None:
    """Writes a patch into a folder as `save_pretrained` does, atomically.

    Args:
        prompter: with gains in its record.
        folder: is replaced.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        prompter.save_pretrained(Path(made) / "patch")
        if folder.exists():
            shutil.rmtree(folder)
        (Path(made) / "patch").rename(folder)


def make_patch(recipe: PatchRecipe, work: Path, folder: Path) -> None:
    """Learns, measures and writes one patch.

    Args:
        recipe: the settings.
        work: folder for checkpoints and logs.
        folder: folder of the patch.
    """
    prompter = learn_patch(recipe, work)
    measure_patch(recipe, prompter, work)
    export_patch(prompter, folder)


def _input_wh(model: Any) -> tuple[int, int]:
    from visprompt.models.lvlm.vision_encoder import encoder_of

    height, width = encoder_of(model).geometry((256, 256)).tiles[0].input_hw
    return int(width), int(height)


def _short(value: float) -> float:
    return round(float(value), 4)


def _end(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.2f}"


def _log(work: Path, recipe: PatchRecipe, **line: Any) -> None:
    work.mkdir(parents=True, exist_ok=True)
    with (work / f"{recipe.name}.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps({"patch": recipe.name, **line}, ensure_ascii=False) + "\n")
