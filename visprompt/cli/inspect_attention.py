"""Figures of `visprompt inspect`: attention without and with a learned prompt, and a patch's gain in every block."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import typer

from visprompt.cli.arguments import backbone_of, checked_fit, waiting
from visprompt.errors import InvalidInputError, VispromptError
from visprompt.persistence.prompt_image import HasImage

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from visprompt.data.labelled.dataset import Labelled
    from visprompt.geometry.geometry import Geometry
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.plots.learned import BlockLooks, Look
    from visprompt.prompter import Prompter
    from visprompt.request import Region

    #: a name, an image, and the region that a strategy gets
    Shown: TypeAlias = tuple[str, Image, Region | None]

#: default numbers of images and blocks shown
IMAGES, BLOCKS = 2, 4
#: smallest length of a map's longer side
MAP_PX = 400
#: largest and smallest number of images for a patch's gain, and the seed of generated scenes
GAINS, FEWEST, SEED = 64, 8, 1


def attention_figures(
    made: Prompter,
    part: Learned,
    model: str | None,
    shown: list[Shown],
    data: Labelled | None,
    blocks: list[int] | None,
    device: str,
    dtype: str,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Makes figures of attention without and with the prompt, and for a patch its gain in every block.

    Args:
        made: the strategy.
        part: its learned part.
        model: the user's model, or None for the model it was learned on.
        shown: images to draw maps of, with their regions.
        data: images to measure a patch's gain on, or None for generated scenes.
        blocks: block numbers, negative from the end; None: four of them.
        device: where the model is loaded.
        dtype: number type of its weights.

    Returns:
        Figures by name, and the rows of gains; both empty if there are no images.
    """
    name = model or str((part.backbone or {}).get("name") or "")
    is_patch = isinstance(part, HasImage) and made is part
    if not shown and not is_patch and not name.startswith("bundled:"):
        typer.echo("no attention maps: give images with --image", err=True)
        return {}, []
    loaded = backbone_of(part, model, device, dtype)
    if is_patch:
        from visprompt.models.lvlm.vision_encoder import encoder_of

        loaded = encoder_of(loaded)  # the vision tower of a language model
    if loaded.generates:
        typer.echo(f"no attention maps: {loaded.name} answers in words; visprompt show draws where it looks", err=True)
        return {}, []
    if not shown and not is_patch:
        from visprompt.data.scenes.world import scenes
        from visprompt.request import Box

        found = list(enumerate(scenes(IMAGES, hard=True), 1))
        shown = [(f"scene-{number}", one.pil, Box(*one.objects[one.target].box_xyxy)) for number, one in found]
    figures, rows = _gains(part, loaded, name, data) if is_patch else ({}, [])
    if is_patch:
        shown = _with_places(part, loaded, shown)
    return {**figures, **_maps(made, loaded, name, shown, blocks)}, rows


def _gains(
    part: Learned, model: Model, name: str, data: Labelled | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measures the gain in every block next to a circle's and random colours', on given images or generated scenes."""
    from visprompt.cli.gain_table import Opened, compare, gain_rows
    from visprompt.plots.gain import gain_figure

    images = Opened(data or _scenes(model), GAINS)
    if len(images) < FEWEST:
        typer.echo(f"no gains: they need {FEWEST} images, better 50 (--image FOLDER)", err=True)
        return {}, []
    fit = checked_fit(str(_mapping(part.record.get("settings")).get("fit") or "model"))
    try:
        with waiting("measuring gains"):
            rows = gain_rows(compare(part, model, images, fit), name)
    except VispromptError as error:
        typer.echo(f"no gains: {error}", err=True)
        return {}, []
    return {"gain": gain_figure([{**row, "row": row["marker"]} for row in rows])}, rows


def _scenes(model: Model) -> Labelled:
    """Generates scenes of the model's input size, with a seed that no training uses by default."""
    from visprompt.data.scenes.unlabelled import generated

    height, width = model.geometry((256, 256)).tiles[0].input_hw
    made = generated((width, height), seed=SEED, sizes={"train": 1, "validation": 0, "test": GAINS}).test
    assert made is not None
    return made


def _with_places(part: Learned, model: Model, shown: list[Shown]) -> list[Shown]:
    """Adds a region for the patch to images without one; uses generated scenes if there are no images."""
    from visprompt.tasks.gain import GainMeter

    if not shown:
        scenes = _scenes(model)
        shown = [(f"scene-{number + 1}", scenes.image(number), None) for number in range(IMAGES)]
    options: Any = part.options
    meter = GainMeter(model, [image for _, image, _ in shown], size_tokens=options.size)
    try:
        return [
            (label, image, region or meter.place(number, image.size))
            for number, (label, image, region) in enumerate(shown)
        ]
    except VispromptError:  # the patch is larger than the input; `_gains` has reported it
        return shown


def _maps(made: Prompter, model: Model, name: str, shown: list[Shown], blocks: list[int] | None) -> dict[str, Any]:
    from visprompt.plots.learned import attention_figure

    figures = {}
    for label, image, region in shown:
        region = region if "region" in made.needs else None
        with waiting(f"looking at {label}"):
            try:
                looks, prompted = looks_of(model, made, image, blocks, region)
            except VispromptError as error:
                if blocks:
                    raise
                typer.echo(f"no attention maps of {label}: {error}", err=True)
                continue
        title = f"{label}: {made.name} on {name}"
        box = None if region is None else region.xyxy
        figures[f"attention-{label}"] = attention_figure(image, looks, made.name, title, box, prompted)
    return figures


def opened(paths: Sequence[Path], boxes: Sequence[Region]) -> tuple[list[Shown], Labelled | None]:
    """Opens images and pairs them with regions.

    Args:
        paths: images, and folders of images; the first images of a folder are drawn.
        boxes: regions, one per file, or none.

    Returns:
        The images to draw maps of, and all images as a data set (None without images).

    Raises:
        InvalidInputError: if there are not as many regions as files.
    """
    from visprompt.data.labelled.unlabelled import read_images, unlabelled
    from visprompt.imaging.load import load_image

    folders = [path for path in paths if path.is_dir()]
    if boxes and (folders or len(boxes) != len(paths)):
        raise InvalidInputError(
            f"--region goes with --image, one for each file; got {len(boxes)} for {len(paths)}"
            f"{', folders among them' if folders else ''}."
        )
    if not paths:
        return [], None
    all_of_them: list[str] = []
    shown: list[Shown] = []
    for number, path in enumerate(paths):
        if path in folders:
            inner = read_images(path, validation=0, on_bad="skip").train.files()
            all_of_them += inner
            shown += [(Path(one).stem, load_image(one), None) for one in inner[:IMAGES]]
        else:
            all_of_them.append(str(path))
            shown.append((path.stem, load_image(path), boxes[number] if boxes else None))
    return shown, unlabelled(all_of_them, on_bad="skip")


def looks_of(
    model: Model,
    made: Prompter,
    image: Image,
    blocks: Sequence[int] | None = None,
    region: Region | None = None,
) -> tuple[list[BlockLooks], Image]:
    """Reads the attention without and with a prompt in some blocks.

    Args:
        model: the model.
        made: the strategy.
        image: the image.
        blocks: block numbers, negative from the end; None: four spread over the depth including the last, or the
            pooling head if the model is read through one.
        region: region for a strategy that needs one.

    Returns:
        The maps per block, and the prompted image.
    """
    from visprompt.learned.strategy import learned_parts
    from visprompt.plots.learned import BlockLooks
    from visprompt.request import Request
    from visprompt.runner.runner import Runner
    from visprompt.runner.token_attention import token_looks

    request = Request(image, region=region)
    tower = model.tower
    if blocks is None and tower.readout != "probe":
        count = min(tower.num_blocks, BLOCKS)
        blocks = sorted({round((index + 1) * tower.num_blocks / count) - 1 for index in range(count)})
    # Images are resized as in training.
    settings = [_mapping(part.record.get("settings")) for part in learned_parts(made)]
    fit = checked_fit(next((str(one["fit"]) for one in settings if one.get("fit")), "model"))
    (before,) = Runner(model, None, fit=fit, progress=False).attention(Request(image), blocks)
    (after,) = Runner(model, made, fit=fit, progress=False).attention(request, blocks)
    (prompt,) = made.edit_all([unit.with_(fit=fit) for unit in request.units()], model)
    tokens = {look.block: look for look in token_looks(model, prompt, before.blocks)}
    looks = [
        BlockLooks(
            number,
            _look(before.values[index].mean(0).cpu().numpy(), before.geometry),
            _look(after.values[index].mean(0).cpu().numpy(), after.geometry),
            _look(tokens[number].patches.mean(0), after.geometry) if number in tokens else None,
            tokens[number].readout if number in tokens else None,
        )
        for index, number in enumerate(before.blocks)
    ]
    return looks, prompt.image


def _look(shares: np.ndarray, geometry: Geometry) -> Look:
    """Turns fractions of attention per patch, `[P]`, into a map over the image."""
    from visprompt.plots.learned import Look

    total = float(shares.sum())
    # Whole patches, so that the map shows no finer resolution than the model's.
    values = geometry.to_map(shares * (shares.size / total if total > 0 else 1.0), "nearest", outside=float("nan"))
    step = max(1, max(values.shape) // MAP_PX)
    return Look(values[::step, ::step], total)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
