"""Functions that several test modules share; fixtures are in `conftest.py`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

import visprompt as vp
from visprompt.data.labelled import Labelled, Splits, load_splits
from visprompt.testing.tiny import tiny


def noise(wh: tuple[int, int] = (64, 64), seed: int = 0, low: int = 0, high: int = 256) -> Image.Image:
    """An RGB image whose numbers are uniform from `low` to `high` − 1."""
    return Image.fromarray(np.random.default_rng(seed).integers(low, high, (wh[1], wh[0], 3), dtype=np.uint8))


def tinted_noise(seed: int, wh: tuple[int, int] = (72, 60)) -> Image.Image:
    """A dark, noisy image that is rather red, green or blue, by `seed` modulo 3."""
    pixels = np.random.default_rng(seed).integers(0, 90, (wh[1], wh[0], 3)).astype(np.uint8)
    pixels[..., seed % 3] += 140
    return Image.fromarray(pixels)


def wrapped_tiny(name: str) -> vp.Model:
    """A tiny model of a family, made anew: what is done to it, no other test sees."""
    made = tiny(name)
    return vp.wrap(made.module, made.processor, made.tokenizer)


def invoke(*words: object) -> Result:
    """What a command gives; it may fail."""
    from visprompt.cli import app as cli

    return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)


def run(*words: object) -> Result:
    """What a command gives that must work."""
    found = invoke(*words)
    assert found.exit_code == 0, found.output
    return found


def saved_image(path: Path, wh: tuple[int, int] = (20, 18)) -> Path:
    """Writes a black PNG file, whatever its ending, and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", wh).save(path, "PNG")
    return path


def saved_images(root: Path, *names: str) -> Path:
    """`saved_image` for several paths below a folder, which is given back."""
    for name in names:
        saved_image(root / name)
    return root


def file_names(data: Labelled | None) -> list[str]:
    """The names of a data set's files, without folders."""
    assert data is not None
    return [Path(path).name for path in data.files()]


def quietly(*arguments: Any, **more: Any) -> Splits:
    """`load_splits` that must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_splits(*arguments, **more)


def vpt(**options: Any) -> Any:
    """`vpt` with two prompts."""
    return vp.Prompter.from_name("vpt", **{"prompts": 2, **options})


def interrupt(*_: Any) -> None:
    """To put in the place of a function: whoever calls it is stopped as with Ctrl-C."""
    raise KeyboardInterrupt


def quarter_mask(wh: tuple[int, int]) -> np.ndarray:
    """A mask `[H, W]` of four unequal quarters, classes 0 to 3."""
    x = np.arange(wh[0]) >= wh[0] * 0.4
    y = np.arange(wh[1]) >= wh[1] * 0.3
    return (x[None, :] + 2 * y[:, None]).astype(np.uint8)


def remote_model(server: Any, **options: Any) -> Any:
    """A model of the test server."""
    from visprompt.models.remote import RemoteModel

    model = vp.load_model("remote:some/model", base_url=server.base_url, **{"max_retries": 2, **options})
    assert isinstance(model, RemoteModel)
    return model


def numbered(count: int, classes: int = 3) -> Labelled:
    return Labelled([(f"{n}.jpg", n % classes) for n in range(count)], [f"c{n}" for n in range(classes)], name="n")
