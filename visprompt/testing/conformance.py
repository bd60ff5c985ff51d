"""Conformance checks that every strategy must pass on every model family, built-in or plug-in.

Each check takes the names of a strategy and of a tiny model and raises `AssertionError` with the reason. Enumerate
`list_strategies()` × `tiny_names()` to check every combination. The expected values come from plain library calls, not
from the code under test.

| check | holds when |
|---|---|
| `check_support` | it runs, or refuses with an error that names strategies that do run |
| `check_neutral` | at its neutral setting the result equals the plain model's, bit for bit |
| `check_leaves_no_trace` | the model is bit for bit as before: after a run, after bad input, after a crash |
| `check_batching` | batch size, shared prefixes and order do not change results beyond rounding |
| `check_threads` | two threads with different prompts on one model do not mix |
| `check_mass_rises`, `check_target_mass` | the readout attends to the region as asked |
| `check_gradients`, `check_dtype` | gradients reach the pixels; half precision works |
| `check_geometry` | a painted region lands on the patches that geometry says |
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import visprompt as vp
from visprompt.registry import get_class
from visprompt.testing.material import IMAGES as IMAGES
from visprompt.testing.material import FittedAs
from visprompt.testing.material import crowded_requests as crowded_requests
from visprompt.testing.material import encode as encode
from visprompt.testing.material import image as image
from visprompt.testing.material import input_pixels as input_pixels
from visprompt.testing.material import neutral_options as neutral_options
from visprompt.testing.material import prompter_of as prompter_of
from visprompt.testing.material import readout_attention as readout_attention
from visprompt.testing.material import ready as ready
from visprompt.testing.material import recipe as recipe
from visprompt.testing.material import requests as requests
from visprompt.testing.material import without as without
from visprompt.testing.tiny import Tiny, tiny, tiny_names
from visprompt.testing.watching import Crash as Crash
from visprompt.testing.watching import crashing as crashing
from visprompt.testing.watching import differences as differences
from visprompt.testing.watching import library_embedding as library_embedding
from visprompt.testing.watching import own_hooks as own_hooks
from visprompt.testing.watching import shuffled as shuffled
from visprompt.testing.watching import snapshot as snapshot
from visprompt.utils.renamed import renamed_names

#: largest deviation between batch shapes, relative to the largest value of the embedding
ROUNDING = 1e-5

# -- models --------------------------------------------------------------------------------------------------------


@functools.cache
def wrapped(model_name: str) -> tuple[Tiny, Any]:
    """A tiny model and its wrapped form, created once per process."""
    made = tiny(model_name)
    return made, vp.wrap(made.module, made.processor, made.tokenizer)


def expected_support(strategy: str, model_name: str) -> bool:
    """Whether a strategy should run on a tiny model.

    Pixels and text can be edited on every model, attention and tokens on models with attention; a map of the query
    needs attention and a text tower.
    """
    made, _ = wrapped(model_name)
    kind = get_class(strategy)
    if "map" in kind.needs:
        return made.has_attention and made.has_text
    return made.has_attention or not kind.acts_on & {"attention", "tokens"}


def _apart(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).abs().max() / one.abs().max())


# -- checks -------------------------------------------------------------------------------------------------------


def check_support(strategy: str, model_name: str) -> str:
    """The strategy runs, or is refused with an error that names strategies that work on the model.

    Returns:
        `"supported"` or `"refused"`.

    Raises:
        AssertionError: if it should run and does not, or if the error names no strategy or one that does not work.
    """
    _, model = wrapped(model_name)
    items = requests()
    try:
        result = encode(model, prompter_of(strategy), items)
    except vp.UnsupportedError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert not expected_support(strategy, model_name), f"it should run: {refusal}"
        others = [info.name for info in vp.list_strategies() if info.name != strategy]
        named = [name for name in others if re.search(rf"\b{re.escape(name)}\b", refusal)]
        wrong = [name for name in named if not _runs(name, model)]
        assert named, f"the error names no strategy that works instead: {refusal}"
        assert not wrong, f"the error recommends what does not work, {wrong}: {refusal}"
        return "refused"
    assert result.shape[0] == len(items)
    assert torch.isfinite(result).all()
    return "supported"


def _runs(strategy: str, model: Any) -> bool:
    try:
        encode(model, prompter_of(strategy), requests()[:1])
    except vp.UnsupportedError:
        return False
    return True


def check_effect(strategy: str, model_name: str) -> None:
    """The strategy changes the embedding of every image."""
    _, model = wrapped(model_name)
    plain = encode(model, without(strategy), requests())
    prompted = encode(model, prompter_of(strategy), requests())
    for index, moved in enumerate((prompted - plain).abs().amax(dim=1).tolist()):
        assert moved > 0, f"it changes nothing on image {index}"


def check_neutral(strategy: str, model_name: str) -> None:
    """With its neutral options the strategy gives the plain model's embeddings, bit for bit."""
    options = neutral_options(strategy)
    assert options is not None, f"{strategy} declares no `neutral` options"
    _, model = wrapped(model_name)
    plain = encode(model, without(strategy), requests())
    switched_off = encode(model, prompter_of(strategy, **options), requests())
    assert torch.equal(plain, switched_off), f"off is not off: {_apart(plain, switched_off):.2e} from the plain model"


def check_leaves_no_trace(strategy: str, model_name: str) -> None:
    """The model is bit-identical before and after a normal run, a run on bad input, and an error in the middle of a
    forward.

    Raises:
        AssertionError: naming the run and what it changed.
    """
    made, model = wrapped(model_name)
    before, state = encode(model, None, requests()), snapshot(made.module)
    runner = vp.Runner(model, ready(prompter_of(strategy), model), batch_size=1)

    def run_normally() -> None:
        with torch.no_grad():
            runner.encode(requests())

    def run_bad_input() -> None:
        bad = vp.Request(np.full((20, 20, 3), np.nan), region=vp.Box(2, 2, 8, 8), query="the red dog")
        try:
            with torch.no_grad():
                runner.encode([*requests(), bad])
        except vp.InvalidInputError:
            return
        raise AssertionError("an image full of NaN was accepted")

    def run_into_a_crash() -> None:
        with crashing(_middle_module(model_name)):
            try:
                with torch.no_grad():
                    runner.encode(requests())
            except Crash:
                return
        raise AssertionError("the model's own error was swallowed, or the model never ran")

    for what in (run_normally, run_bad_input, run_into_a_crash):
        what()
        changed = differences(state, snapshot(made.module))
        assert not changed, f"{what.__name__} leaves behind: {changed}"
        after = encode(model, None, requests())
        assert torch.equal(before, after), f"{what.__name__} changes later results by {_apart(before, after):.2e}"


def check_batching(strategy: str, model_name: str) -> None:
    """Batch size, shared prefixes and the order of requests change results only by rounding."""
    _, model = wrapped(model_name)
    prompter = prompter_of(strategy)
    items = crowded_requests()
    reference = encode(model, prompter, items)
    assert reference.shape[0] == 5, "one row per region"
    for options in (
        {"share_prefix": False},
        {"batch_size": 1},
        {"batch_size": 2},
        {"batch_size": 2, "share_prefix": False},
    ):
        result = encode(model, prompter, items, **options)
        assert _apart(reference, result) < ROUNDING, f"{options} changes results by {_apart(reference, result):.2e}"
    turned = encode(model, prompter, items[::-1])
    assert _apart(reference, torch.cat((turned[2:], turned[:2]))) < ROUNDING, "results are out of order"
    assert _apart(reference, encode(model, prompter, iter(items))) < ROUNDING, "an iterator gives something else"


def check_threads(strategy: str, model_name: str, rounds: int = 4) -> None:
    """Two threads with different regions on one model get the same results as alone, in `rounds` runs each."""
    _, model = wrapped(model_name)
    prompter = prompter_of(strategy)
    regions = [vp.Box(14, 20, 50, 62), vp.Box(44, 40, 84, 84)]
    items = [vp.Request(image((96, 96)), region=box, query="the red dog") for box in regions]
    alone = [encode(model, prompter, [item]) for item in items]
    plain = encode(model, None, items[:1])
    mixed: list[str] = []
    start = threading.Barrier(3)

    def work(index: int) -> None:
        start.wait(timeout=60)
        for _ in range(rounds):
            try:
                if index == 2:  # a third thread uses the model without any prompt meanwhile
                    result, wanted = encode(model, None, items[:1]), plain
                else:
                    result, wanted = encode(model, prompter, [items[index]]), alone[index]
            except Exception as error:
                mixed.append(f"thread {index}: {type(error).__name__}: {error}")
                return
            if not torch.equal(result, wanted):
                mixed.append(f"thread {index}: {_apart(wanted, result):.2e} away")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not mixed, f"threads mix: {mixed}"


def check_mass_rises(strategy: str, model_name: str) -> None:
    """The readout's attention on the region rises with `strength`, in every head, at every aspect ratio."""
    _, model = wrapped(model_name)
    strengths = (0.0, 0.5, 1.0, 2.0, 4.0)
    for item in requests():
        masses = []
        for strength in strengths:
            # The last block alone, since an edit of an earlier block changes the attention of later ones.
            prompter = prompter_of(strategy, strength=strength, first_block=-1)
            inside = model.geometry(item.pil_image.size).coverage(item.regions[0]) > 0
            masses.append(readout_attention(model, prompter, item)[:, inside].sum(axis=1))
        rises = np.diff(masses, axis=0)
        assert (rises > -1e-6).all(), f"on {item} a head attends less to the region at more strength: {masses}"
        assert (rises.mean(axis=1) > 1e-4).all(), f"on {item} the region's attention does not rise: {masses}"


def check_target_mass(strategy: str, model_name: str, share: float = 0.9) -> None:
    """With `target_mass=share` the region gets that fraction of the readout's attention, in every head."""
    _, model = wrapped(model_name)
    for item in requests():
        inside = model.geometry(item.pil_image.size).coverage(item.regions[0]) > 0
        prompter = prompter_of(strategy, target_mass=share)
        masses = readout_attention(model, prompter, item)[:, inside].sum(axis=1)
        assert np.abs(masses - share).max() < 1e-3, f"asked for {share} on {item}, got {masses}"


def check_geometry(model_name: str, fit: Any = "model") -> None:
    """A painted region changes the patches that the geometry says it covers, and no others.

    Resizing blurs a region's border by the reach of its kernel, so patches within that reach may change or not; the
    reach is smaller than half a patch. `fit` is how an image is brought to the input's size.
    """
    _, model = wrapped(model_name)
    for wh, box in IMAGES.items():
        geometry = model.geometry(wh, fit=fit)
        change = _patch_change(model_name, wh, box, fit, geometry.num_patches)
        reach = max(2.0 * max(1.0, 1.0 / scale) + 1.0 for scale in geometry.tiles[0].scale_xy)
        grown = vp.Box(box.x0 - reach, box.y0 - reach, box.x1 + reach, box.y1 + reach)
        covered, near = geometry.coverage(box) > 0.02, geometry.coverage(grown) > 0
        assert covered.any(), f"{wh}: geometry says that no patch shows {box}"
        assert not covered.all(), f"{wh}: geometry says that every patch shows {box}"
        missed, extra = covered & ~change, change & ~near
        assert not missed.any(), f"{wh}, fit={fit}: patches {np.flatnonzero(missed)} should show {box} and do not"
        assert not extra.any(), f"{wh}, fit={fit}: patches {np.flatnonzero(extra)} show {box} and should not"


def _patch_change(model_name: str, wh: tuple[int, int], box: vp.Box, fit: Any, num_patches: int) -> np.ndarray:
    """The patch embeddings that change when the region turns from black to white, bool `[P]`."""
    made, model = wrapped(model_name)
    seen: list[torch.Tensor] = []
    handle = made.module.get_submodule(made.patch_embedding).register_forward_hook(lambda *call: seen.append(call[2]))
    try:
        for colour in (0, 255):
            pixels = np.asarray(image(wh)).copy()
            pixels[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = colour
            encode(model, FittedAs(fit), [vp.Request(Image.fromarray(pixels))])
    finally:
        handle.remove()
    black, white = (item[0].flatten(1).T if item.ndim == 4 else item[0, :num_patches] for item in seen)
    assert len(black) == num_patches, f"the model has {len(black)} patches, geometry says {num_patches}"
    moved = (black - white).abs().amax(dim=1)
    return np.asarray(moved > 1e-3 * moved.max())


def check_gradients(strategy: str, model_name: str) -> None:
    """Gradients flow from the prompted embedding to the pixels, and differ from those without a prompt."""
    made, model = wrapped(model_name)
    item = requests()[0]
    pixels = input_pixels(made, item.pil_image)
    gradients = []
    prompter = prompter_of(strategy)
    ready(prompter, model)
    for prompts in (prompter.prompt(item, model), item.units()):
        leaf = pixels.clone().requires_grad_()
        embedding = model.embed_pixels(leaf, prompts).embeddings
        (gradient,) = torch.autograd.grad(embedding.square().sum(), leaf)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() > 0, "no gradient reaches the pixels"
        gradients.append(gradient)
    assert not torch.equal(*gradients), "the prompt does not show in the gradient"


def check_dtype(strategy: str, model_name: str, dtype: torch.dtype) -> None:
    """In half precision (`dtype`) the strategy runs and gives embeddings close to those in float32."""
    _, exact = wrapped(model_name)
    made = tiny(model_name)
    model = vp.wrap(made.module.to(dtype), made.processor, made.tokenizer)
    items, prompter = requests(), prompter_of(strategy)
    result = encode(model, prompter, items)
    assert torch.isfinite(result).all()
    reference = encode(exact, prompter, items)
    similarity = torch.cosine_similarity(result.float(), reference, dim=1)
    assert (similarity > 0.98).all(), f"{dtype} gives something else than float32: cosine {similarity.tolist()}"


#: the checks that `check_strategy` runs where the strategy is supported
CHECKS: dict[str, Callable[[str, str], None]] = {
    "effect": check_effect,
    "leaves no trace": check_leaves_no_trace,
    "batching": check_batching,
    "threads": check_threads,
}


def check_strategy(strategy: str, models: Sequence[str] | None = None) -> dict[str, str]:
    """Runs all checks of a strategy on tiny models of every family: the only call that a plug-in's test needs.

    >>> check_strategy("circle", models=["timm-vit"])
    {'timm-vit': 'supported'}

    Args:
        strategy: its name in the registry.
        models: names of tiny models; None: all of them.

    Returns:
        For every model `"supported"` or `"refused"`.

    Raises:
        AssertionError: with the names of the check, the strategy and the model.
    """
    outcomes = {}
    for model_name in tiny_names() if models is None else models:
        checks = {"support": check_support, **CHECKS}
        if neutral_options(strategy) is not None:
            checks["neutral"] = check_neutral
        for label, check in checks.items():
            try:
                outcome = check(strategy, model_name)
            except AssertionError as error:
                raise AssertionError(f"{strategy} on {model_name}, {label}: {error}") from error
            if label == "support":
                outcomes[model_name] = str(outcome)
                if outcome == "refused":
                    break
    return outcomes


@functools.cache
def _middle_module(model_name: str) -> nn.Module:
    """A sub-module that is called about halfway through the model."""
    made, model = wrapped(model_name)
    called: list[nn.Module] = []
    handles = [
        child.register_forward_pre_hook(lambda owner, _: called.append(owner))
        for child in made.module.modules()
        if next(child.parameters(recurse=False), None) is not None and not list(child.children())
    ]
    try:
        encode(model, None, requests()[:1])
    finally:
        for handle in handles:
            handle.remove()
    return called[len(called) // 2]


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"picture": "image", "PICTURES": "IMAGES"}, globals())
