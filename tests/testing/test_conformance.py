"""Every strategy on every model family, enumerated from the registries: nothing new can be forgotten."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

import visprompt as vp
from visprompt.registry import get_class
from visprompt.testing import conformance, tiny_model, tiny_names

STRATEGIES = {info.name: info for info in vp.list_strategies()}
MODELS = {name: tiny_model(name) for name in tiny_names()}
SUPPORTED = [
    (strategy, model)
    for strategy, model in itertools.product(STRATEGIES, MODELS)
    if conformance.expected_support(strategy, model)
]
WITH_ATTENTION = [name for name, made in MODELS.items() if made.has_attention]


def taking(*options: str) -> list[str]:
    """Strategies that edit attention and have these options."""
    return [name for name, info in STRATEGIES.items() if "attention" in info.acts_on and {*options} <= {*info.options}]


def pairs(strategies: list[str], models: list[str]) -> Any:
    return pytest.mark.parametrize(("strategy", "model"), list(itertools.product(strategies, models)))


def test_something_is_enumerated() -> None:
    assert len(STRATEGIES) >= 8
    assert taking("strength", "first_block")
    assert taking("target_mass")
    assert len(MODELS) >= 25


# -- strategies × models ------------------------------------------------------------------------------------------


@pairs(list(STRATEGIES), list(MODELS))
def test_runs_or_names_what_does(strategy: str, model: str) -> None:
    outcome = conformance.check_support(strategy, model)
    assert outcome == ("supported" if (strategy, model) in SUPPORTED else "refused")


@pytest.mark.parametrize(("strategy", "model"), SUPPORTED)
def test_has_an_effect(strategy: str, model: str) -> None:
    conformance.check_effect(strategy, model)


@pytest.mark.parametrize(
    ("strategy", "model"), [pair for pair in SUPPORTED if conformance.neutral_options(pair[0]) is not None]
)
def test_neutral_is_the_plain_model_bit_for_bit(strategy: str, model: str) -> None:
    conformance.check_neutral(strategy, model)


def test_every_builtin_but_crop_can_be_switched_off() -> None:
    own = [name for name, info in STRATEGIES.items() if info.origin.startswith("visprompt-toolkit")]
    assert [name for name in own if conformance.neutral_options(name) is None] == ["crop"]


@pytest.mark.parametrize(("strategy", "model"), SUPPORTED)
def test_leaves_no_trace(strategy: str, model: str) -> None:
    conformance.check_leaves_no_trace(strategy, model)


@pytest.mark.parametrize(("strategy", "model"), SUPPORTED)
def test_batching_sharing_and_order_change_nothing(strategy: str, model: str) -> None:
    conformance.check_batching(strategy, model)


@pytest.mark.parametrize(("strategy", "model"), SUPPORTED)
def test_threads_do_not_mix(strategy: str, model: str) -> None:
    conformance.check_threads(strategy, model)


@pytest.mark.parametrize(
    ("composition", "model"),
    [
        (f"{first}+{second}", model)
        for model in ("transformers-clip", "open-clip-siglip", "timm-beit")
        for first, second in itertools.permutations(STRATEGIES, 2)
        if "attention" in STRATEGIES[second].acts_on and "prompt" not in STRATEGIES[first].needs
        if (first, model) in SUPPORTED
        if not all("tokens" in STRATEGIES[name].acts_on for name in (first, second))
    ],
)
def test_compositions_run_and_leave_no_trace(composition: str, model: str) -> None:
    made, wrapped = conformance.wrapped(model)
    before, state = conformance.encode(wrapped, None, conformance.requests()), conformance.snapshot(made.module)
    result = conformance.encode(wrapped, vp.Prompter.from_name(composition), conformance.requests())
    assert torch.isfinite(result).all()
    assert not torch.equal(result, before)
    assert not conformance.differences(state, conformance.snapshot(made.module))
    assert torch.equal(before, conformance.encode(wrapped, None, conformance.requests()))


# -- attention ----------------------------------------------------------------------------------------------------


@pairs(taking("strength", "first_block"), WITH_ATTENTION)
def test_attention_on_the_region_rises_with_strength(strategy: str, model: str) -> None:
    conformance.check_mass_rises(strategy, model)


@pairs(taking("target_mass"), WITH_ATTENTION)
def test_target_mass_is_met(strategy: str, model: str) -> None:
    conformance.check_target_mass(strategy, model)


@pairs(taking("strength"), [name for name in WITH_ATTENTION if MODELS[name].processing != "naflex"])
def test_gradients_reach_the_pixels(strategy: str, model: str) -> None:
    conformance.check_gradients(strategy, model)


@pairs(taking("strength"), WITH_ATTENTION)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(strategy: str, model: str, dtype: torch.dtype) -> None:
    conformance.check_dtype(strategy, model, dtype)


@pytest.mark.parametrize("model", WITH_ATTENTION)
def test_attention_maps_lie_on_the_patch_grid_and_show_the_edit(model: str) -> None:
    made, wrapped = conformance.wrapped(model)
    items = conformance.requests()
    plain = vp.Runner(wrapped, None).attention(items)
    prompted = vp.Runner(wrapped, vp.Prompter.from_name("falip", strength=3.0)).attention(items)
    for item, before, after in zip(items, plain, prompted, strict=True):
        assert after.maps.shape[2:] == after.geometry.grid_hw
        assert made.grid_hw in (None, after.geometry.grid_hw)
        assert after.maps.dtype == torch.float32
        assert (after.maps.sum((2, 3)) < 1 + 1e-5).all()
        region = item.regions[0]
        assert (after.mass(region)[-1] > before.mass(region)[-1]).all()
        assert after.image_map().shape == item.pil_image.size[::-1]


@pairs(list(STRATEGIES), [name for name, made in MODELS.items() if made.has_text])
def test_scores_have_one_column_per_text(strategy: str, model: str) -> None:
    wrapped, prompter = conformance.wrapped(model)[1], conformance.prompter_of(strategy)
    if (strategy, model) not in SUPPORTED:
        with pytest.raises(vp.UnsupportedError, match="work on it"):
            vp.Runner(wrapped, conformance.ready(prompter, wrapped)).score(conformance.requests(), ["a dog"])
        return
    runner = vp.Runner(wrapped, conformance.ready(prompter, wrapped))
    scores = runner.score(conformance.requests(), ["a dog", "a red star", "a cat"])
    assert scores.shape == (3, 3)
    assert torch.isfinite(scores).all()


# -- models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["model", "pad", "squash"])
@pytest.mark.parametrize("model", WITH_ATTENTION)
def test_a_painted_region_lands_where_geometry_says(model: str, fit: str) -> None:
    conformance.check_geometry(model, fit)


@pytest.mark.parametrize("model", MODELS)
def test_unwrap_gives_the_module_back(model: str) -> None:
    made = tiny_model(model)
    before, state = (
        conformance.library_embedding(made, conformance.image((96, 96))),
        conformance.snapshot(made.module),
    )
    wrapped = vp.wrap(made.module, made.processor, made.tokenizer)
    for strategy in STRATEGIES:
        if (strategy, model) in SUPPORTED:
            conformance.encode(wrapped, conformance.prompter_of(strategy), conformance.requests())
    assert wrapped.unwrap() is made.module
    assert not conformance.differences(state, conformance.snapshot(made.module))
    assert torch.equal(before, conformance.library_embedding(made, conformance.image((96, 96))))
    with pytest.raises(vp.UnsupportedError, match="unwrapped"):
        conformance.encode(wrapped, None, conformance.requests())


@pytest.mark.parametrize("model", [name for name, made in MODELS.items() if made.has_text])
def test_plain_results_are_the_librarys_own(model: str) -> None:
    made, wrapped = conformance.wrapped(model)
    image = conformance.image((96, 96))
    own = conformance.library_embedding(made, image)
    assert torch.allclose(conformance.encode(wrapped, None, [vp.Request(image)]), own, rtol=0, atol=1e-6)
    texts = ["a red dog", "the cat on the left"]
    with torch.no_grad():
        scores = vp.Runner(wrapped, None).score([vp.Request(image)], texts)
        if made.backend == "transformers":
            padding: Any = "max_length" if "siglip" in model else True
            tokens = made.tokenizer(texts, padding=padding, return_tensors="pt")
            images = made.processor(images=image, return_tensors="pt")
            wanted = made.module(**images, **tokens).logits_per_image
        else:
            wanted = own_logits(made.module, made.processor(image)[None], made.tokenizer(texts))
    assert torch.allclose(scores, wanted, rtol=1e-5, atol=1e-4)


def own_logits(module: Any, pixels: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    images, texts = module.encode_image(pixels, normalize=True), module.encode_text(tokens, normalize=True)
    logits = module.logit_scale.exp() * images @ texts.T
    bias = getattr(module, "logit_bias", None)
    return logits if bias is None else logits + bias


@pytest.mark.parametrize(
    "model", ["timm-vit", "timm-vit-token", "timm-vit-mean", "timm-dinov2-registers", "timm-eva02"]
)
def test_timm_features_come_before_the_classifier(model: str) -> None:
    made, wrapped = conformance.wrapped(model)
    module: Any = made.module
    image = conformance.image((96, 96))
    with torch.no_grad():
        features = module.forward_features(made.processor(image)[None])
        own = module.forward_head(features, pre_logits=True)
    assert torch.allclose(conformance.encode(wrapped, None, [vp.Request(image)]), own, rtol=0, atol=1e-6)


def test_order_of_results_is_order_of_requests() -> None:
    _, wrapped = conformance.wrapped("transformers-clip")
    regions = [vp.Box(x, 20, x + 30, 60) for x in range(0, 60, 10)]
    items = [vp.Request(conformance.image((96, 96), seed % 3), region=box) for seed, box in enumerate(regions)]
    prompter = vp.Prompter.from_name("falip")
    straight = conformance.encode(wrapped, prompter, items)
    mixed, order = conformance.shuffled(items)
    assert torch.allclose(straight[order], conformance.encode(wrapped, prompter, mixed), rtol=0, atol=1e-5)


def test_compiled_model_takes_attention_edits() -> None:
    _, plain_model = conformance.wrapped("transformers-clip")
    made = tiny_model("transformers-clip")
    made.module.vision_model.compile(backend="eager")
    model = vp.wrap(made.module, made.processor, made.tokenizer)
    items = conformance.requests()
    for prompter in (None, vp.Prompter.from_name("falip"), None, vp.Prompter.from_name("falip", strength=3.0)):
        wanted = conformance.encode(plain_model, prompter, items)
        assert torch.allclose(conformance.encode(model, prompter, items), wanted, rtol=0, atol=1e-5)


def test_a_compiled_model_that_needs_hooks_refuses() -> None:
    made = tiny_model("open-clip-vit")
    model = vp.wrap(made.module, made.processor, made.tokenizer)
    made.module.visual.compile(backend="eager")
    with pytest.raises(vp.UnsupportedError, match="compile"):
        conformance.encode(model, vp.Prompter.from_name("falip"), conformance.requests())


def checkpointing(module: Any) -> None:
    """Turns gradient checkpointing on, in each library's own way."""
    if hasattr(module, "gradient_checkpointing_enable"):
        module.gradient_checkpointing_enable({"use_reentrant": False})
    else:
        module.set_grad_checkpointing(True)
    module.train()


@pytest.mark.parametrize("model", ["transformers-clip-vision", "transformers-beit", "open-clip-vit", "timm-vit-token"])
def test_gradient_checkpointing_recomputes_with_the_edit(model: str) -> None:
    made = tiny_model(model)
    wrapped = vp.wrap(made.module, made.processor, made.tokenizer)
    item = conformance.requests()[0]
    prompts = vp.Prompter.from_name("falip", strength=3.0).prompt(item, wrapped)
    pixels = conformance.input_pixels(made, item.pil_image)

    def gradient(prompts: Any) -> torch.Tensor:
        leaf = pixels.clone().requires_grad_()
        with wrapped.prompting(prompts) as encode:
            return torch.autograd.grad(encode(leaf).embeddings.square().sum(), leaf)[0]

    wanted, plain = gradient(prompts), gradient(item.units())
    checkpointing(made.module)
    # NaN-safe and scale-free: the two runs differ by rounding, the prompted and the plain gradient by far more.
    scale = wanted.abs().max()
    assert (gradient(prompts) - wanted).abs().max() < 1e-4 * scale
    assert (plain - wanted).abs().max() > 1e-2 * scale
    assert not sum(conformance.own_hooks(module) for module in made.module.modules())


def test_packed_images_refuse_pixels() -> None:
    made, wrapped = conformance.wrapped("transformers-siglip2-naflex")
    item = conformance.requests()[0]
    with pytest.raises(vp.UnsupportedError, match="packed"):
        wrapped.embed_pixels(conformance.input_pixels(made, item.pil_image), item.units())


@pytest.mark.parametrize("model", WITH_ATTENTION)
def test_the_wrapper_knows_the_readout(model: str) -> None:
    made, wrapped = conformance.wrapped(model)
    assert wrapped.tower.readout == {"pooler": "probe"}.get(made.readout, made.readout)
    assert wrapped.num_blocks == made.num_blocks + (made.readout in ("probe", "pooler"))


def test_strategies_of_this_package_come_with_it() -> None:
    for name, info in STRATEGIES.items():
        assert info.summary, f"{name} has no summary"
        assert get_class(name).__doc__


def test_the_support_matrix_is_up_to_date() -> None:
    from visprompt.testing.matrix import support_matrix

    committed = (Path(__file__).parents[2] / "docs" / "support-matrix.md").read_text(encoding="utf-8")
    assert committed == support_matrix(), "run `make support-matrix` and commit docs/support-matrix.md"
