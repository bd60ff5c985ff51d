"""What a user of visprompt 0.4.0 did with it in a script, with its names, module paths and keywords."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import visprompt as vp


def pixels_sum(image: Any) -> int:
    """The sum of all numbers of an image."""
    return int(np.asarray(image, dtype=np.int64).sum())


def photo() -> Image.Image:
    """A small image with a gradient, 64×48."""
    ramp = np.linspace(0, 255, 64)[None, :, None] * np.ones((48, 1, 3))
    return Image.fromarray(ramp.round().astype(np.uint8))


def small_model() -> Any:
    """A tiny CLIP with random weights."""
    from visprompt.testing.tiny import tiny

    small = tiny("transformers-clip")
    return vp.wrap(small.module, small.processor, small.tokenizer)


def prompts() -> dict[str, Any]:
    """Requests and prompts."""
    request = vp.Request(photo(), region=vp.Box(16, 12, 48, 36))
    prompter = vp.Prompter.from_name("lantern", preset="night")
    model = small_model()
    (prompt,) = prompter.prompt(request, model)
    (shown,) = vp.Runner(model, prompter).render([request])
    made = vp.VisualPrompt(picture=photo(), regions=(vp.Box(1, 2, 30, 40),))
    both = vp.Runner(model, vp.Prompter.from_name("lantern+circle")).encode([request])
    attention = vp.Runner(model, prompter).attention([request])[0]
    return {
        "request.picture": pixels_sum(request.picture),
        "request.pictures": [pixels_sum(one) for one in request.pictures],
        "prompt.picture": pixels_sum(prompt.picture),
        "with_": pixels_sum(prompt.with_(picture=photo()).picture),
        "VisualPrompt": pixels_sum(made.picture),
        "render": pixels_sum(shown),
        "encode": float(both.double().abs().sum()),
        "attention": [pixels_sum(attention.picture), float(np.asarray(attention.values, dtype=np.float64).sum())],
        "dim": prompter.options.dim,
    }


def pictures() -> dict[str, Any]:
    """Reading, fitting and showing pictures."""
    from visprompt.geometry_fit import fit_picture
    from visprompt.images import load_image
    from visprompt.overlay import tint

    from visprompt.plots import new_figure, picture_pair, show_picture, to_png

    loaded = load_image(np.asarray(photo()))
    fitted, scale_xy, offset_xy = fit_picture(picture=loaded, fit="pad", input_hw=(32, 32))
    figure = new_figure((2.0, 2.0))
    show_picture(figure.subplots(), picture=loaded, title="a photo")
    return {
        "load_image": pixels_sum(loaded),
        "fit_picture": [pixels_sum(fitted), *scale_xy, *offset_xy],
        "tint": pixels_sum(tint(picture=loaded, values=np.eye(64)[:48], rgb=(255, 0, 0))),
        "show_picture": to_png(figure)[:4].hex(),
        "picture_pair": to_png(picture_pair(picture=loaded, prompted=loaded))[:4].hex(),
    }


def data(folder: Path) -> dict[str, Any]:
    """Labelled and unlabelled data."""
    from visprompt.data.scenes_answers import ScenePicture
    from visprompt.data.unlabelled import generated, unlabelled
    from visprompt.testing.blotches import blotches

    from visprompt.data.labelled import Labelled, load_splits
    from visprompt.data.questions import Question

    files = []
    for number in range(3):
        files.append(folder / f"{number}.png")
        photo().rotate(90 * number, expand=True).save(files[-1])
    splits = load_splits(folder, format="pictures", labels=False)
    toy = blotches(3)
    plain = unlabelled(pictures=files, name="photos")
    question = Question(id="1", images=(photo(),), text="What is it?")
    labelled = Labelled([(file, None) for file in files], kind="pictures", name="photos")
    return {
        "Labelled.picture": [pixels_sum(toy.picture(index)) for index in range(3)],
        "unlabelled": [plain.kind in ("pictures", "images"), pixels_sum(plain.picture(1))],
        "Labelled": pixels_sum(labelled.picture(2)),
        "splits": len(splits.train),
        "generated": pixels_sum(generated((24, 24), sizes={"train": 2}).train.picture(1)),
        "Question.pictures": [pixels_sum(one) for one in question.pictures],
        "ScenePicture": ScenePicture is not None,
    }


def evaluations() -> dict[str, Any]:
    """Tasks and the gain of a marker."""
    from visprompt.data.reclip import picture_name
    from visprompt.tasks.pointing import Pointer
    from visprompt.tasks.sources import scene_pictures

    from visprompt.tasks import GainMeter, Pointing, Referring, evaluate

    model = small_model()
    shown = list(scene_pictures(4))
    outcome = evaluate(task=Referring(), model=model, pointing=Pointing("lantern"), pictures=shown)
    pointer = Pointer(model, pointing=Pointing("lantern"))
    meter = GainMeter(model, pictures=[photo(), photo().rotate(180)], size_tokens=2)
    return {
        "evaluate": [len(outcome.rows), outcome.accuracy],
        "Pointer.pointing": pointer.pointing.label,
        "GainMeter": len(meter.pictures),
        "picture_name": picture_name("COCO_train2014_000000000001_2.jpg"),
    }


def learning(folder: Path) -> dict[str, Any]:
    """A learned strategy that overrides `sketch`, and whose objective overrides `pictures`."""
    from visprompt.saving import load_prompter, save_prompter
    from visprompt.testing.blotches import blotches

    from visprompt_lantern.glow import Counted

    model = small_model()
    prompter: Any = vp.Prompter.from_name("glow")
    prompter.fit(model, blotches(12), out=folder / "run", seed=0, progress=False)
    save_prompter(prompter, folder / "saved")
    loaded: Any = load_prompter(folder / "saved")
    return {
        "sketch": [(folder / name / "0-glow.txt").read_text() for name in ("run", "saved")],
        "asked": Counted.asked > 0,
        "learned": {key: round(float(value.double().abs().sum()), 4) for key, value in sorted(loaded.state().items())},
    }


def everything(folder: Path) -> dict[str, Any]:
    """All of it, with room for files in `folder`."""
    for name in ("data", "learning"):
        (folder / name).mkdir()
    return {
        "prompts": prompts(),
        "pictures": pictures(),
        "data": data(folder / "data"),
        "evaluations": evaluations(),
        "learning": learning(folder / "learning"),
    }
