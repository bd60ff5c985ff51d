"""Families that tile images: the pixels of every token, for odd sizes, several images and videos."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from helpers import noise
from PIL import Image

import visprompt as vp
from visprompt.models.chat import Chat
from visprompt.models.lvlm.inputs import prepare
from visprompt.models.lvlm.layouts.tiled import UnevenTile
from visprompt.testing.tiny_lvlm import tiny_lvlm

FAMILIES = ["llava-next", "llava-onevision", "idefics3", "smolvlm", "internvl"]
WITH_VIDEO = ["llava-onevision", "smolvlm", "internvl"]
#: square, odd, tall, a strip; small ones are enlarged
SIZES = [(96, 96), (97, 53), (31, 89), (150, 24), (20, 21)]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    small = tiny_lvlm(request.param)
    return vp.wrap(small.module, small.processor, name=request.param)


@pytest.fixture(scope="module", params=WITH_VIDEO)
def video_model(request):
    small = tiny_lvlm(request.param)
    return vp.wrap(small.module, small.processor, name=request.param)


def embeddings(model, chats) -> list[torch.Tensor]:
    """For every chat `[P, d]`: what the decoder gets for the patches of all its images."""
    inputs = prepare(model, chats)
    kept = {}
    hook = model.module.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: kept.update(kwargs), with_kwargs=True
    )
    with torch.no_grad(), model.editing(chats, inputs):
        model.module(**inputs.tensors)
    hook.remove()
    return [
        kept["inputs_embeds"][row, columns[columns >= 0]].float() for row, columns in enumerate(inputs.columns.cpu())
    ]


# -- where every token looks ------------------------------------------------------------------------------------------


def see_brightness_only(module) -> None:
    """Every patch of the tower becomes a function of its own mean brightness."""
    inner = module.model
    tower = next(getattr(inner, name) for name in ("vision_tower", "vision_model") if hasattr(inner, name))
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if any(part in name for part in ("out_proj", "projection_layer", "fc2")):
                parameter.zero_()
        for child in tower.modules():
            if isinstance(child, torch.nn.Conv2d):
                per_channel = torch.linspace(-1, 1, len(child.weight)) * 2 / child.weight[0].numel()
                child.weight.copy_(per_channel[:, None, None, None].expand_as(child.weight))


def features(model, images: list[Image.Image]) -> torch.Tensor:
    """`[n, image tokens, d]` of one-image chats, in the order in which the decoder gets them."""
    crop = {"crop_to_patches": True} if model.config.model_type == "internvl" else {}
    made = model.reader.processor(images=[[item] for item in images], return_tensors="pt", **crop)
    names = ["pixel_values", "pixel_attention_mask", "image_sizes"]
    names += ["batch_num_images"] * (model.config.model_type == "llava_onevision")
    with torch.no_grad():
        found = model.module.get_image_features(**{name: made[name] for name in names if name in made}).pooler_output
    return torch.cat([item.reshape(-1, item.shape[-1]) for item in found]).unflatten(0, (len(images), -1))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("wh", SIZES, ids=str)
def test_a_bright_line_moves_the_tokens_that_it_crosses(name, wh):
    """A line sweeps over the image: the place where it moves a token most is the middle of the token's patch."""
    small = tiny_lvlm(name)
    see_brightness_only(small.module)
    model = vp.wrap(small.module, small.processor)
    layout = model.layout(wh)
    step = 2
    for axis in (0, 1):
        dark = np.full((wh[1], wh[0], 3), 60, np.uint8)
        images, middles = [Image.fromarray(dark)], []
        for start in range(0, wh[axis], step):
            line = dark.copy()
            (line[:, start : start + step] if axis == 0 else line[start : start + step])[:] = 255
            images.append(Image.fromarray(line))
            middles.append(min(start + step / 2, (start + wh[axis]) / 2))
        found = features(model, images)
        assert found.shape[1] == layout.length
        moved = (found[1:] - found[:1]).norm(dim=-1).double()[:, layout.patch_token_index]
        middle = (moved * torch.tensor(middles)[:, None]).sum(0) / moved.sum(0)
        for patch in range(layout.geometry.num_patches):
            try:
                box = layout.geometry.patch_box(patch).xyxy
            except vp.InvalidInputError:  # padding only
                assert moved[:, patch].max() < 1e-5
                continue
            low, high = box[axis], box[axis + 2]
            # a token is a square of patches, which the projector does not weigh equally, or a mix of neighbours
            assert abs(middle[patch] - (low + high) / 2) < 0.15 * (high - low) + 0.5
            outside = (torch.tensor(middles) < low - 0.6 * (high - low) - 2) | (
                torch.tensor(middles) > high + 0.6 * (high - low) + 2
            )
            assert moved[outside, patch].sum() < 0.06 * moved[:, patch].sum()


def test_tokens_without_a_place_show_nothing():
    """Newline tokens are the same vector in every image."""
    for name in ("llava-next", "llava-onevision"):
        small = tiny_lvlm(name)
        model = vp.wrap(small.module, small.processor)
        for wh in SIZES:
            layout = model.layout(wh)
            rest = np.setdiff1d(np.arange(layout.length), layout.patch_token_index)
            assert len(rest) == layout.geometry.tiles[1].grid_hw[0]
            found = features(model, [noise(wh, high=255)])[0, rest]
            assert torch.equal(found, small.module.model.image_newline.expand_as(found))


def test_the_canvas_is_coarser_when_there_are_too_many_tokens():
    small = tiny_lvlm("llava-onevision")
    model = vp.wrap(small.module, small.processor)
    fine, coarse = model.layout((52, 52)).geometry.tiles[1], model.layout((100, 100)).geometry.tiles[1]
    assert isinstance(fine, UnevenTile)
    assert fine.grid_hw == (8, 8)
    assert coarse.grid_hw == (8, 8)  # of 12 × 12
    assert model.layout((100, 60)).geometry.tiles[1].grid_hw == (8, 12)  # of 8 × 12, 1.095 times too many a side
    assert model.layout((100, 90)).geometry.tiles[1].grid_hw == (8, 9)  # of 10 × 12
    # 26 pixels are 4 patches of 6 and 2 pixels that nobody sees
    assert np.allclose(fine.edges()[0], [0, 6, 12, 18, 26, 32, 38, 44, 50])
    assert np.allclose(coarse.edges()[0][[0, 4, 8]], np.array([0, 39 - 1, 76]) * 100 / 78)


@pytest.mark.parametrize("fit", ["pad", "squash"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_lit_patch_moves_most_in_its_tile_on_a_canvas_too(name, fit):
    small = tiny_lvlm(name)
    see_brightness_only(small.module)
    model = vp.wrap(small.module, small.processor)
    wh = (120, 66)
    dark = np.full((wh[1], wh[0], 3), 60, np.uint8)
    geometry = model.layout(wh, fit).geometry
    starts = np.cumsum([0, *(np.prod(tile.grid_hw) for tile in geometry.tiles)])
    before = embeddings(model, [Chat((unit(Image.fromarray(dark)).with_(fit=fit),), "a")])[0]
    for patch in np.random.default_rng(0).choice(geometry.num_patches, 8, replace=False):
        try:
            left, top, right, bottom = (round(edge) for edge in geometry.patch_box(int(patch)).xyxy)
        except vp.InvalidInputError:
            continue
        if right <= left or bottom <= top or geometry.coverage(vp.Box(left, top, right, bottom))[patch] < 0.5:
            continue  # mostly padding
        lit = dark.copy()
        lit[top:bottom, left:right] = 255
        after = embeddings(model, [Chat((unit(Image.fromarray(lit)).with_(fit=fit),), "a")])[0]
        tile = np.searchsorted(starts, patch, side="right") - 1
        moved = (after - before).norm(dim=-1)[starts[tile] : starts[tile + 1]]
        assert moved.argmax() + starts[tile] == patch


@pytest.mark.parametrize("name", FAMILIES)
def test_processors_on_pil_put_images_where_the_others_do(name):
    small = tiny_lvlm(name)
    model = vp.wrap(small.module, small.processor)
    with_torch = [embeddings(model, [Chat((unit(noise(wh, high=255)),), "a")])[0] for wh in SIZES]
    own = small.processor.image_processor
    names = ("size", "crop_size", "image_grid_pinpoints", "max_image_size", "max_patches")
    settings = {key: value for key in names if (value := own.to_dict().get(key)) is not None}
    small.processor.image_processor = getattr(transformers, f"{type(own).__name__}Pil")(**settings)
    on_pil = vp.wrap(small.module, small.processor)
    for wh, wanted in zip(SIZES, with_torch, strict=True):
        found = embeddings(on_pil, [Chat((unit(noise(wh, high=255)),), "a")])[0]
        assert torch.nn.functional.cosine_similarity(found, wanted).min() > 0.95


# -- several images, videos, batches --------------------------------------------------------------------------------


def unit(image: Image.Image) -> vp.VisualPrompt:
    return vp.Request(image, query="a").units()[0]


def test_every_image_of_a_chat_has_its_own_tokens(model):
    first, second = noise((97, 53), high=255), noise((31, 89), seed=1, high=255)
    alone = embeddings(model, [Chat((unit(first), unit(second)), "a")])[0]
    changed = embeddings(model, [Chat((unit(first), unit(noise((31, 89), seed=2, high=255))), "a")])[0]
    count = model.layout(first.size, images=2).geometry.num_patches
    assert torch.equal(alone[:count], changed[:count])
    assert (alone[count:] != changed[count:]).any(-1).all()


def test_chats_with_different_numbers_of_images_share_a_batch(model):
    chats = [
        Chat((unit(noise((97, 53), high=255)),), "what is the red star"),
        Chat((unit(noise((31, 89), seed=1, high=255)), unit(noise((96, 96), seed=2, high=255))), "a"),
    ]
    together = embeddings(model, chats)
    for chat, found in zip(chats, together, strict=True):
        assert torch.allclose(embeddings(model, [chat])[0], found, atol=1e-5)
    answers = model.generate(chats, max_new_tokens=3, read=[0, 3])
    for chat, answer in zip(chats, answers, strict=True):
        alone = model.generate([chat], max_new_tokens=3, read=[0, 3])[0]
        assert (alone.text, len(alone.attention)) == (answer.text, len(answer.attention))
        for one, other in zip(alone.attention, answer.attention, strict=True):
            assert torch.allclose(one, other, atol=1e-4)


def test_several_images_switch_the_tiles_of_onevision_off():
    small = tiny_lvlm("llava-onevision")
    model = vp.wrap(small.module, small.processor)
    layout = model.layout((97, 53), images=2)
    assert (layout.geometry.grid_hw, layout.length) == ((4, 4), 17)
    scale = 26 / 97
    assert layout.geometry.tiles[0].scale_xy == (scale, scale)
    assert layout.geometry.tiles[0].offset_xy == (0.0, 22 * scale)


def test_every_frame_has_its_own_tokens(video_model):
    frames = [noise((60, 40), seed=seed, high=255) for seed in range(3)]
    chat = Chat(tuple(unit(frame) for frame in frames), "a", video=True)
    layouts = prepare(video_model, [chat]).layouts[0]
    assert len(layouts) == 3
    assert all(len(item.geometry.tiles) == 1 for item in layouts)
    before = embeddings(video_model, [chat])[0]
    painted = np.array(frames[1])
    painted[:, 30:] = 255 - painted[:, 30:]
    after = embeddings(
        video_model, [Chat((chat.prompts[0], unit(Image.fromarray(painted)), chat.prompts[2]), "a", True)]
    )
    count = layouts[0].geometry.num_patches
    changed = (after[0] != before).any(-1)
    assert not changed[:count].any()
    assert changed[count : 2 * count].all()
    assert not changed[2 * count :].any()
    answer = video_model.generate([chat], max_new_tokens=2, read=[1])[0]
    assert [item.shape[-1] for item in answer.attention] == [count] * 3


@pytest.mark.parametrize("name", WITH_VIDEO)
def test_frames_are_squashed_into_one_input(name):
    small = tiny_lvlm(name)
    see_brightness_only(small.module)
    model = vp.wrap(small.module, small.processor)
    wh = (60, 40)
    dark = np.full((wh[1], wh[0], 3), 60, np.uint8)
    chat = [Chat((unit(Image.fromarray(dark)),) * 2, "a", video=True)]
    layout = prepare(model, chat).layouts[0][0]
    before = embeddings(model, chat)[0][: layout.geometry.num_patches]
    for patch in range(layout.geometry.num_patches):
        box = [round(edge) for edge in layout.geometry.patch_box(patch).xyxy]
        lit = dark.copy()
        lit[box[1] : box[3], box[0] : box[2]] = 255
        frames = (unit(Image.fromarray(lit)), chat[0].prompts[1])
        after = embeddings(model, [Chat(frames, "a", video=True)])[0][: layout.geometry.num_patches]
        moved = (after - before).norm(dim=-1)
        assert moved.argmax() == patch
        assert moved[patch] > 0.5 * moved.sum()


# -- edits of the vision tower ----------------------------------------------------------------------------------------


def test_vision_edits_stay_in_the_tiles_that_show_the_region(model):
    """In a batch whose second image is edited, only the tokens of the region's tile change."""
    wh = (96, 96)
    vision = model.layout(wh).vision
    counts = [tile.grid_hw[0] * tile.grid_hw[1] for tile in vision.tiles]
    region = vp.Box(2, 2, 12, 12)
    touched = [bool(part.any()) for part in np.split(vision.coverage(region) > 0, np.cumsum(counts)[:-1])]
    assert 1 < sum(touched) < len(touched)
    plain = Chat((unit(noise((97, 53), high=255)),), "a")
    before = embeddings(model, [plain, Chat((unit(noise(wh, seed=1, high=255)),), "a")])
    request = vp.Request(noise(wh, seed=1, high=255), region=region, query="a")
    edited = vp.Prompter.from_name("falip", tower="vision", strength=4.0, first_block=0).prompt(request, model)[0]
    after = embeddings(model, [plain, Chat((edited,), "a")])
    assert torch.equal(before[0], after[0])
    changed = (before[1] != after[1]).any(-1)
    geometry = model.layout(wh).geometry
    if len(geometry.tiles) == len(vision.tiles):
        tile_of = np.repeat(np.arange(len(geometry.tiles)), [np.prod(tile.grid_hw) for tile in geometry.tiles])
    else:  # the whole image, then the tiles put together
        row, column = np.indices(geometry.tiles[1].grid_hw) // (geometry.tiles[1].grid_hw[0] / 2)
        tile_of = np.concatenate((np.zeros(16), (1 + row * 2 + column).reshape(-1))).astype(int)
    if model.config.model_type != "llava_onevision":  # whose 3 × 3 tiles are mixed into 8 × 8 tokens
        assert np.array_equal(changed, np.array(touched)[tile_of])
    assert changed.any()
    assert not changed.all()
