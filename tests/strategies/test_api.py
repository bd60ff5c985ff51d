"""API: its maps derived anew, alignment, options. The authors' vectors are in tests/attention/test_reference.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from visprompt.strategies._heatmap import RawMap, mask_of, over_image

import visprompt as vp
from visprompt.geometry.geometry import Geometry, Tile
from visprompt.models.attribution import Question, attribute
from visprompt.testing import conformance
from visprompt.testing.tiny import tiny
from visprompt.testing.tiny_lvlm import tiny_lvlm

SIZES = [(96, 96), (144, 48), (48, 144), (70, 64)]
WITH_TEXT = [
    "transformers-clip",
    "transformers-siglip",
    "transformers-siglip2",
    "transformers-siglip2-naflex",
    "open-clip-vit",
    "open-clip-coca",
    "open-clip-siglip",
    "open-clip-eva02",
]


def model_of(name: str) -> vp.Model:
    return conformance.wrapped(name)[1]


@pytest.fixture(scope="module")
def clip() -> vp.Model:
    return model_of("transformers-clip")  # 64 px, patches of 8, centre crop


def request(wh: tuple[int, int] = (96, 96), query: str = "the red dog") -> vp.Request:
    return vp.Request(conformance.image(wh), query=query)


def heatmap(model: Any, item: vp.Request, **options: Any) -> Any:
    return vp.Prompter.from_name("api", **options).heatmaps(item.units(), model)[0]  # type: ignore[attr-defined]


def rendered(model: Any, item: vp.Request, **options: Any) -> np.ndarray:
    (prompt,) = vp.Prompter.from_name("api", **options).prompt(item, model)
    return np.asarray(prompt.image).astype(int)


# -- the maps ---------------------------------------------------------------------------------------------------------


def test_psi_of_clip_is_the_formula() -> None:
    """Ψ_cls and S of a tiny CLIP in plain tensor code, with the library's own forward."""
    made = tiny("transformers-clip")
    module: Any = made.module
    image, text, last = conformance.image((96, 96)), "a red dog", 2
    with torch.no_grad():
        tokens = made.tokenizer([text], return_tensors="pt")
        direction = module.get_text_features(**tokens).pooler_output[0]
        direction = direction / direction.norm()
        pixels = made.processor(images=image, return_tensors="pt")["pixel_values"]
        states = module.vision_model(pixels, output_hidden_states=True).hidden_states
        block, head = module.vision_model.encoder.layers[last], module.vision_model.post_layernorm
        normed, attn = block.layer_norm1(states[last])[0], block.self_attn
        q, k, v = (
            proj(normed).unflatten(-1, (2, 16)).transpose(0, 1) for proj in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        weights = (q[:, :1] @ k.transpose(-1, -2) / 4).softmax(-1)[:, 0]  # [H, N]
        n, parts = len(normed), 2 * 4 - 1
        joined = (weights[..., None] * v).transpose(0, 1).flatten(1)
        c = joined @ attn.out_proj.weight.T + attn.out_proj.bias / n
        cls = states[-1][0, 0]
        mean, deviation = cls.mean(), (cls.var(unbiased=False) + head.eps).sqrt()
        e = module.visual_projection(head(cls))
        psi = head.weight * (c - mean / (parts * n)) / deviation + head.bias / (parts * n)
        alone = head.weight * (states[last + 1][0] - mean / parts) / deviation + head.bias / parts
        psi, alone = (module.visual_projection(x) @ direction / e.norm() for x in (psi, alone))
    (found,) = attribute(model_of("transformers-clip"), [Question(image, text)])
    np.testing.assert_allclose(found.contribution, psi[1:].numpy(), atol=1e-5)
    np.testing.assert_allclose(found.similarity, alone[1:].numpy(), atol=1e-5)
    assert found.cosine == pytest.approx(float(e @ direction / e.norm()), abs=1e-5)


@pytest.mark.parametrize("name", ["transformers-siglip", "transformers-siglip2", "open-clip-siglip"])
def test_what_a_pooling_probe_reads_sums_to_the_cosine(name: str) -> None:
    """With gates and statistics held the head is linear: nothing is left over."""
    for found in attribute(model_of(name), [Question(conformance.image(wh), "a cat") for wh in SIZES]):
        assert found.contribution.sum() == pytest.approx(found.cosine, abs=1e-5)


@pytest.mark.parametrize("name", WITH_TEXT)
def test_the_cosine_is_the_models_own(name: str) -> None:
    model, image = model_of(name), conformance.image((96, 96))
    (found,) = attribute(model, [Question(image, "a red dog")])
    with torch.no_grad():
        image_embedding = model.encode(vp.Request(image).units()).embeddings
        own = torch.cosine_similarity(image_embedding, model.embed_text(["a red dog"]))
    assert found.cosine == pytest.approx(float(own), abs=1e-5)


@pytest.mark.parametrize("name", WITH_TEXT)
def test_batches_and_shared_images_change_nothing(name: str) -> None:
    model = model_of(name)
    questions = [Question(conformance.image(wh), text) for wh in SIZES[:3] for text in ("a cat", "the red dog")]
    together = attribute(model, [questions[i] for i in (3, 0, 5, 1, 4, 2)])
    for found, place in zip(together, (3, 0, 5, 1, 4, 2), strict=True):
        (alone,) = attribute(model, [questions[place]])
        np.testing.assert_allclose(found.contribution, alone.contribution, atol=1e-6)
        np.testing.assert_allclose(found.similarity, alone.similarity, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["transformers-clip", "open-clip-coca", "transformers-siglip"])
def test_half_precision_gives_about_the_same(name: str, dtype: torch.dtype) -> None:
    made = tiny(name)
    model = vp.wrap(made.module.to(dtype), made.processor, made.tokenizer)
    question = Question(conformance.image((96, 96)), "a cat")
    (half,), (full,) = attribute(model, [question]), attribute(model_of(name), [question])
    assert half.contribution.dtype == np.float32
    assert np.corrcoef(half.contribution, full.contribution)[0, 1] > 0.98
    assert np.corrcoef(half.similarity, full.similarity)[0, 1] > 0.98


def test_a_compiled_model_is_refused() -> None:
    made = tiny("transformers-clip")
    made.module.vision_model.compile(backend="eager")
    with pytest.raises(vp.UnsupportedError, match="compile"):
        heatmap(vp.wrap(made.module, made.processor, made.tokenizer), request())


def test_a_head_that_is_something_else_is_refused() -> None:
    made = tiny("transformers-clip")
    made.module.visual_projection.register_forward_hook(lambda *call: call[2].flip(-1))
    with pytest.raises(vp.UnsupportedError, match="cannot be taken apart"):
        heatmap(vp.wrap(made.module, made.processor, made.tokenizer), request())


def test_one_forward_for_many_questions_on_one_image(clip: vp.Model) -> None:
    small = tiny("transformers-clip")
    model, calls = vp.wrap(small.module, small.processor, small.tokenizer), []
    handle = small.module.vision_model.register_forward_hook(lambda *call: calls.append(call[2][0].shape[0]))
    image = conformance.image((96, 96))
    attribute(model, [Question(image, f"a {word}") for word in ("cat", "dog", "bird", "car")])
    handle.remove()
    assert calls == [1]


@pytest.mark.parametrize("name", ["timm-vit", "transformers-dinov2", "transformers-deit", "open-clip-resnet"])
def test_a_model_that_cannot_be_asked_says_how_to_name_one(name: str) -> None:
    model = model_of(name)
    with pytest.raises(vp.UnsupportedError, match=r"auxiliary=.*falip|auxiliary=.*circle"):
        vp.Runner(model, vp.Prompter.from_name("api")).encode(request())
    with torch.no_grad():
        plain = vp.Runner(model, None).encode(request())
        helped = vp.Runner(model, vp.Prompter.from_name("api", auxiliary="bundled:scenes-clip")).encode(request())
    assert not torch.equal(plain, helped)


def test_pool_models_have_one_block(clip: vp.Model) -> None:
    with pytest.raises(vp.InvalidInputError, match="pooling head"):
        heatmap(model_of("transformers-siglip"), request(), block=1)
    assert not np.array_equal(heatmap(clip, request(), block=0).values, heatmap(clip, request(), block=-1).values)
    with pytest.raises(vp.InvalidInputError, match="one block"):
        heatmap(clip, request(), block=(0, 1))


# -- from map to mask -------------------------------------------------------------------------------------------------


def grid(rows: int, columns: int, wh: tuple[int, int]) -> Geometry:
    return Geometry(wh, (Tile((columns / wh[0], rows / wh[1]), (0.0, 0.0), (rows, columns), (rows, columns)),))


def test_mask_is_the_formula() -> None:
    generator = np.random.default_rng(0)
    psi, alone = generator.normal(size=(2, 35))
    a = torch.from_numpy(psi).view(5, 7)
    a = (a - a.min()) / (a.max() - a.min())
    a = torch.sigmoid(3 * (a - a.mean()) / a.std())
    b = torch.from_numpy(alone).view(5, 7)
    b = (b.max() - b) / (b.max() - b.min())
    pad = torch.nn.functional.pad(torch.stack((a, b))[:, None], (2, 2, 2, 2), mode="replicate")
    a, b = torch.nn.functional.avg_pool2d(pad, 5, 1)[:, 0]
    both = a + b - a * b
    both = (both - both.min()) / (both.max() - both.min())
    found = mask_of(RawMap(psi, alone, grid(5, 7, (70, 50))), "both", 3.0, 5)
    np.testing.assert_allclose(found, both.flatten().numpy(), atol=1e-6)


def test_a_flat_map_dims_nothing() -> None:
    flat = RawMap(np.ones(16), np.zeros(16), grid(4, 4, (32, 32)))
    np.testing.assert_array_equal(mask_of(flat), 1.0)


def test_a_mask_lies_on_its_patches() -> None:
    values = np.zeros(12)
    values[5] = 1.0  # row 1, column 1 of 3 × 4
    found = over_image(values, grid(3, 4, (80, 60)), "nearest", 0.0)
    assert found[20:40, 20:40].min() == 1.0
    assert found.sum() == 400


# -- alignment --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("align", ["auto", "pad", "squash", "slide"])
@pytest.mark.parametrize("name", ["transformers-clip", "transformers-siglip2-naflex", "open-clip-vit"])
def test_the_mask_lies_where_the_model_looked(name: str, align: str) -> None:
    """Painting a place changes S on the patches that lie over it, on every aspect ratio, corners included."""
    model = model_of(name)
    for wh in SIZES:
        for corner in ((0, 0), (wh[0] - 16, wh[1] - 16)):
            pixels = np.asarray(conformance.image(wh)).copy()
            pixels[corner[1] : corner[1] + 16, corner[0] : corner[0] + 16] = 255
            box = vp.Box(corner[0], corner[1], corner[0] + 16, corner[1] + 16)
            painted = heatmap(model, vp.Request(Image.fromarray(pixels), query="a cat"), align=align)
            plain = heatmap(model, request(wh, "a cat"), align=align)
            change = np.abs(painted.raw.comp - plain.raw.comp)
            cover = plain.geometry.coverage(box)
            assert cover.max() > 0.2, "nothing of the image is lost"
            assert cover[change.argmax()] > 0, f"{wh}: the patch that changed most does not show {box}"
            x0, y0, x1, y1 = plain.geometry.visible_xyxy()
            assert (x1 - x0, y1 - y0) == pytest.approx(wh, abs=1.0)


def test_a_whole_image_is_shown_as_it_is_and_a_cropped_one_made_whole(clip: vp.Model, llava: Any) -> None:
    naflex, wide = model_of("transformers-siglip2-naflex"), (144, 48)
    assert heatmap(naflex, request(wide)).geometry == naflex.geometry(wide)
    assert heatmap(clip, request(wide)).geometry == clip.geometry(wide, "squash")
    assert heatmap(llava, request(wide)).geometry == heatmap(llava, request(wide), align="pad").geometry


def test_patches_of_padding_do_not_count(clip: vp.Model) -> None:
    found = heatmap(clip, request((144, 48)), align="pad")
    assert len(found.values) < 64
    for index in range(len(found.values)):
        found.geometry.patch_box(index)  # raises for padding
    assert found.values.min() == 0.0
    assert found.values.max() == 1.0


def test_a_crop_leaves_what_it_does_not_see_alone(clip: vp.Model) -> None:
    item = request((144, 48))
    change = np.abs(rendered(clip, item, align="crop", floor=0.0) - np.asarray(item.pil_image)).sum(axis=(0, 2))
    assert not change[:47].any()
    assert not change[97:].any()
    assert change[49:95].all()


def test_the_papers_stretch_covers_everything(clip: vp.Model) -> None:
    item = request((144, 48))
    stretched, cropped = (heatmap(clip, item, align=align) for align in ("paper", "crop"))
    np.testing.assert_array_equal(stretched.values, cropped.values)
    assert stretched.geometry.visible_xyxy() == (0.0, 0.0, 144.0, 48.0)
    assert cropped.geometry.visible_xyxy() == (48.0, 0.0, 96.0, 48.0)


def test_sliding_windows_see_all_of_it_at_full_size(clip: vp.Model) -> None:
    found = heatmap(clip, request((144, 48)), align="slide")
    assert len(found.geometry.tiles) == 3
    assert found.geometry.visible_xyxy() == (0.0, 0.0, 144.0, 48.0)
    assert len(found.values) == 3 * 64
    assert np.isfinite(found.over_image()).all()


# -- what is done with it ---------------------------------------------------------------------------------------------


def test_the_overlay_is_the_formula(clip: vp.Model) -> None:
    item = request()
    mask = heatmap(clip, item).over_image()[..., None]
    for floor, grey in ((0.0, 0), (0.3, 200)):
        share = floor + (1 - floor) * mask
        expected = np.asarray(item.pil_image) * share + grey * (1 - share)
        found = rendered(clip, item, floor=floor, grey=grey)
        assert np.abs(found - expected).max() <= 0.51


def test_the_floor_holds(clip: vp.Model) -> None:
    item = request()
    pixels = np.asarray(item.pil_image)
    assert (rendered(clip, item, floor=0.5) >= np.floor(0.5 * pixels)).all()
    assert (rendered(clip, item, floor=0.0) <= rendered(clip, item, floor=0.5)).all()
    (prompt,) = vp.Prompter.from_name("api", floor=1.0).prompt(item, clip)
    assert prompt.image is item.pil_image


def test_regions_of_one_request_share_a_image(clip: vp.Model) -> None:
    boxes = [vp.Box(14, 20, 50, 62), vp.Box(40, 44, 84, 84)]
    item = vp.Request(conformance.image((96, 96)), region=boxes, query="a dog")
    first, second = vp.Prompter.from_name("api").prompt(item, clip)
    assert first.image is second.image
    assert first.regions == (boxes[0],)


def test_relative_is_the_difference_to_a_generic_question(clip: vp.Model) -> None:
    plain, generic = heatmap(clip, request()), heatmap(clip, request(query="a photo"))
    found = heatmap(clip, request(), relative=True)
    np.testing.assert_allclose(found.raw.cls, plain.raw.cls - generic.raw.cls, atol=1e-6)
    other = heatmap(clip, request(), relative=True, generic="a dog")
    assert not np.allclose(other.raw.cls, found.raw.cls)


@pytest.mark.parametrize("name", ["transformers-clip", "open-clip-siglip", "transformers-siglip2-naflex"])
def test_the_map_can_go_to_the_attention_instead(name: str) -> None:
    model, item = model_of(name), request((144, 48))
    prompter = vp.Prompter.from_name("api", apply="attention", strength=3.0)
    assert prompter.acts_on == {"attention"}
    (prompt,) = prompter.prompt(item, model)
    (edit,) = prompt.attention
    assert prompt.image is item.pil_image
    assert len(edit.bias) == model.geometry((144, 48)).num_patches
    assert edit.bias.max() <= 3.0 + 1e-6
    with torch.no_grad():
        moved = vp.Runner(model, prompter).encode(item) - vp.Runner(model, None).encode(item)
        off = vp.Prompter.from_name("api", apply="attention", strength=0.0)
        assert torch.equal(vp.Runner(model, off).encode(item), vp.Runner(model, None).encode(item))
    assert moved.abs().max() > 0


def test_the_attention_gets_the_map_where_it_lies(clip: vp.Model) -> None:
    """The looking model sees the padded image, the prompted one a crop of its middle."""
    item = request((144, 48))
    prompter = vp.Prompter.from_name("api", apply="attention", strength=1.0)
    (prompt,) = prompter.prompt(item, clip)
    over = prompter.heatmaps(item.units(), clip)[0].over_image("bilinear")  # type: ignore[attr-defined]
    geometry = clip.geometry((144, 48))
    for index in (0, 7, 27, 63):
        x0, y0, x1, y1 = (round(edge) for edge in geometry.patch_box(index).xyxy)
        assert prompt.attention[0].bias[index] == pytest.approx(over[y0:y1, x0:x1].mean(), abs=1e-5)


# -- models that write ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "llava-next", "qwen2-vl"])
def test_self_reflection_is_the_attention_over_image_tokens(name: str) -> None:
    small = tiny_lvlm(name)
    model = vp.wrap(small.module, small.processor)
    item = request((96, 96))
    (answer,) = vp.Runner(model, None).answer([item], blocks=[2], max_new_tokens=20)
    steps = answer.token_maps[0][:, 0]  # [T, H, P]
    expected = (steps / steps.sum(-1, keepdim=True)).mean((0, 1))
    found = heatmap(model, item)
    np.testing.assert_allclose(found.raw.cls, expected.numpy(), atol=1e-6)
    assert found.raw.comp is None
    several = heatmap(model, item, block=(1, 2))
    np.testing.assert_allclose(several.raw.cls, (found.raw.cls + heatmap(model, item, block=1).raw.cls) / 2, atol=1e-6)


def test_frames_of_a_video_have_the_map_of_their_tokens() -> None:
    small = tiny_lvlm("qwen2-vl")
    model = vp.wrap(small.module, small.processor)
    frames = vp.Request([conformance.image((64, 64), seed) for seed in range(4)], query="which one", video=True)
    found = vp.Prompter.from_name("api").heatmaps(frames.units(), model)  # type: ignore[attr-defined]
    assert len(found) == 4
    assert np.array_equal(found[0].values, found[1].values), "Qwen merges frames in pairs"
    assert not np.array_equal(found[1].values, found[2].values)


def test_relative_maps_of_an_lvlm_are_divided(llava: Any) -> None:
    item = request()
    generic = request(query="Write a general description of the image.")
    found = heatmap(llava, item, relative=True).raw.cls
    np.testing.assert_allclose(found, heatmap(llava, item).raw.cls / heatmap(llava, generic).raw.cls, rtol=1e-4)


def test_the_whole_image_is_seen_by_an_lvlm_that_crops(llava: Any) -> None:
    found = heatmap(llava, request((144, 48)))
    assert found.geometry.visible_xyxy() == (0.0, 0.0, 144.0, 48.0)


@pytest.mark.parametrize("options", [{}, {"relative": True}, {"auxiliary": "bundled:scenes-clip"}, {"block": 1}])
@pytest.mark.parametrize("apply", ["pixels", "attention"])
def test_an_lvlm_answers_prompted_questions(llava: Any, options: dict[str, Any], apply: str) -> None:
    prompter = vp.Prompter.from_name("api", apply=apply, **options)
    items = [request(wh) for wh in SIZES[:3]]
    items.append(vp.Request([conformance.image((96, 96)), conformance.image((48, 144))], query="which one"))
    answers = vp.Runner(llava, prompter).generate(items, max_new_tokens=3)
    assert len(answers) == 4
    alone = [vp.Runner(llava, prompter).generate([item], max_new_tokens=3)[0] for item in items]
    assert answers == alone


def test_an_lvlm_looks_for_an_encoder(clip: vp.Model, llava: Any) -> None:
    item = request((144, 48))
    np.testing.assert_array_equal(heatmap(clip, item, auxiliary=llava).values, heatmap(llava, item).values)
    with pytest.raises(vp.InvalidInputError, match="slide"):
        heatmap(llava, item, align="slide")
    with pytest.raises(vp.InvalidInputError, match="comp"):
        heatmap(llava, item, maps="comp")


def test_the_bundled_lvlm_looks_at_what_it_is_asked_about() -> None:
    from visprompt.data.scenes.questions import scene_questions

    model = vp.load_model("bundled:scenes-llava")
    questions = [item for item in scene_questions("validation", seed=1, count=48) if item.target_boxes]
    units = [unit for item in questions for unit in vp.Request(item.image, query=item.text).units()]
    found = vp.Prompter.from_name("api").heatmaps(units, model)  # type: ignore[attr-defined]
    shares, chance = [], []
    for item, one in zip(questions, found, strict=True):
        cover = np.max([one.geometry.coverage(vp.Box(*box)) for box in item.target_boxes], axis=0)
        shares.append(float((one.raw.cls * cover).sum() / one.raw.cls.sum()))
        chance.append(float(cover.mean()))
    assert np.mean(shares) > 2 * np.mean(chance)


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"enhance": 0}, "positive"),
        ({"kernel_size": 4}, "odd"),
        ({"interpolation": "cubic"}, "lanczos"),
        ({"grey": 300}, "between 0 and 255"),
        ({"floor": -0.1}, "between 0 and 1"),
        ({"maps": "all"}, "both, cls, comp"),
        ({"align": "stretch"}, "auto, pad"),
        ({"apply": "tokens"}, "pixels, attention"),
        ({"auxiliary": 3}, "auxiliary is a model"),
        ({"strength": float("nan")}, "finite"),
        ({"block": ()}, "several"),
        ({"block": "last"}, "block"),
        ({"max_new_tokens": 0}, "positive"),
        ({"generic": 5}, "question"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(vp.InvalidInputError, match=message):
        vp.Prompter.from_name("api", **options)


def test_a_query_is_needed(clip: vp.Model) -> None:
    with pytest.raises(vp.InvalidInputError, match="needs a query"):
        vp.Runner(clip, vp.Prompter.from_name("api")).encode(vp.Request(conformance.image((96, 96))))


def test_a_long_question_is_cut_with_a_warning(clip: vp.Model) -> None:
    with pytest.warns(UserWarning, match="is cut to the model's 77"):
        heatmap(clip, request(query="the dog " * 60))


def test_saved_by_the_name_of_its_auxiliary(tmp_path, clip: vp.Model) -> None:  # type: ignore[no-untyped-def]
    prompter = vp.Prompter.from_name("api", auxiliary="bundled:scenes-clip", relative=True, block=2)
    prompter.save_pretrained(tmp_path)
    again = vp.Prompter.from_pretrained(tmp_path)
    assert again.describe() == prompter.describe()
    assert np.array_equal(rendered_by(again, clip), rendered_by(prompter, clip))
    model = vp.load_model("bundled:scenes-clip")
    held = vp.Prompter.from_name("api", auxiliary=model, relative=True, block=2)
    assert held.describe() == prompter.describe()
    assert "scenes-clip" in repr(held)
    assert np.array_equal(rendered_by(held, clip), rendered_by(prompter, clip))


def rendered_by(prompter: vp.Prompter, model: vp.Model) -> np.ndarray:
    return np.asarray(prompter.prompt(request(), model)[0].image)


def test_an_auxiliary_does_not_see_edits_of_the_prompted_model(clip: vp.Model) -> None:
    item = vp.Request(conformance.image((96, 96)), region=vp.Box(14, 20, 50, 62), query="a dog")
    (prompt,) = vp.Prompter.from_name("falip+api", auxiliary="bundled:scenes-clip").prompt(item, clip)
    assert len(prompt.attention) == 1
    assert prompt.label == "falip+api"


def test_a_model_that_looks_under_falip_looks_for_every_region_anew():
    made = tiny_lvlm("llava")
    model = vp.wrap(made.module, made.processor)
    image, boxes = conformance.image((96, 64)), [vp.Box(8, 8, 40, 40), vp.Box(60, 10, 90, 60)]
    prompter = vp.Prompter.from_name("falip+api")
    query = "what is the red star"
    together = prompter.prompt(vp.Request(image, region=boxes, query=query), model)
    for prompt, box in zip(together, boxes, strict=True):
        (alone,) = prompter.prompt(vp.Request(image, region=box, query=query), model)
        assert np.array_equal(np.asarray(prompt.image), np.asarray(alone.image))
