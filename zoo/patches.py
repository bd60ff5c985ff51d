"""Learns the bundled patches: one for every bundled model, through the public API, measured beside their controls.

The paper: Rezaei et al., Learning Visual Prompts for Guiding the Attention of Vision Transformers,
https://arxiv.org/abs/2406.03303. A run leaves a checkpoint every 100 steps and a line of ``metrics.jsonl`` at every
evaluation in its folder; the same command goes on there, or is done at once if it was finished.
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
    """What a bundled patch is learned with.

    Attributes:
        model: Name of the bundled model.
        options: Options of `patch`, beside the defaults.
        settings: Settings of `fit`, beside those of `patch`.
        data_seed: Of the scenes it is learned and chosen on.
        seed: Of the first patch, the order and the places.
        test_seed: Of the scenes and places it is reported on: nothing is chosen there.
        test_images: How many.
        parts: Images for learning and choosing, and for the loop's own figures; None: those of `patch` without data.
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
        """What the patch is called: ``patch-scenes-clip``."""
        return PREFIX + self.model


PATCH_RECIPES: dict[str, PatchRecipe] = {
    recipe.name: recipe
    for recipe in (
        # Trainings differ: this one had 3.8 times the red circle's gain on 200 validation scenes of seed 77, two with
        # other seeds 3.2 each. One of these had 2.9 on the test scenes of seed 20,260. Those have been looked at by
        # now, so this one is reported on others.
        PatchRecipe("scenes-clip", data_seed=1000, test_seed=20_270),
        PatchRecipe("scenes-clip-annotated"),
        # All its patches' rows are read, which look at patches like their own: places get much the same of it, and a
        # ring draws half of what a full patch does (validation: 0.09 and 0.19). More steps change nothing.
        PatchRecipe("scenes-mae", options={"shape": "full"}, settings={"lr": 0.01, "epochs": 6}),
        # A hole of 0.2, no hole, pixels learned directly: all end between 2.8 and 2.9 times the circle.
        PatchRecipe("scenes-llava"),
    )
}


def learn_patch(recipe: PatchRecipe, work: Path) -> Any:
    """Learn a patch, or go on with it where it was left.

    Args:
        recipe: What is learned.
        work: Folder for the run's own, ``<work>/<name>``.

    Returns:
        The strategy with the patch in it.
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
    """Measure a patch and its controls on scenes nobody tuned on, and put the figures into its record.

    The controls: the red circle as the library draws it, inscribed in the square that the patch covers, and a patch of
    the same shape with colours of uniform noise. Every block is in the log, the last one in the card.

    Args:
        recipe: Says how many scenes, and which.
        prompter: As from `learn_patch`.
        work: Where the log is.
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
    """Write a patch into a folder as `save_pretrained` does, whole or not at all.

    Args:
        prompter: With figures in its record.
        folder: Is replaced.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        prompter.save_pretrained(Path(made) / "patch")
        if folder.exists():
            shutil.rmtree(folder)
        (Path(made) / "patch").rename(folder)


def make_patch(recipe: PatchRecipe, work: Path, folder: Path) -> None:
    """Learn, measure and write one patch.

    Args:
        recipe: What is learned.
        work: For checkpoints and logs.
        folder: Where the patch goes.
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
