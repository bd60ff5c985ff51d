"""Families that cut pictures into tiles: where every token looks, at odd sizes, in released settings, in videos."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import visprompt as vp
from visprompt.models import lvlm_layout_shuffled, lvlm_layout_tiles
from visprompt.models.chat import Chat
from visprompt.models.chat_inputs import prepare
from visprompt.models.lvlm_layout_tiles import Canvas, TowerInput, UnevenTile
from visprompt.testing.tiny_lvlm import chat_tokenizer, tiny_lvlm

FAMILIES = ["llava-next", "llava-onevision", "idefics3", "smolvlm", "internvl"]
WITH_VIDEO = ["llava-onevision", "smolvlm", "internvl"]
#: square, odd, tall, a strip; small ones are enlarged
SIZES = [(96, 96), (97, 53), (31, 89), (150, 24), (20, 21)]


def noise(wh: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (wh[1], wh[0], 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    small = tiny_lvlm(request.param)
    return vp.wrap(small.module, small.processor, name=request.param)


@pytest.fixture(scope="module", params=WITH_VIDEO)
def video_model(request):
    small = tiny_lvlm(request.param)
    return vp.wrap(small.module, small.processor, name=request.param)


def embeddings(model, chats) -> list[torch.Tensor]:
    """For every chat `[P, d]`: what the decoder gets for the patches of all its pictures."""
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


def features(model, pictures: list[Image.Image]) -> torch.Tensor:
    """`[n, image tokens, d]` of one-picture chats, in the order in which the decoder gets them."""
    crop = {"crop_to_patches": True} if model.config.model_type == "internvl" else {}
    made = model.reader.processor(images=[[item] for item in pictures], return_tensors="pt", **crop)
    names = ["pixel_values", "pixel_attention_mask", "image_sizes"]
    names += ["batch_num_images"] * (model.config.model_type == "llava_onevision")
    with torch.no_grad():
        found = model.module.get_image_features(**{name: made[name] for name in names if name in made}).pooler_output
    return torch.cat([item.reshape(-1, item.shape[-1]) for item in found]).unflatten(0, (len(pictures), -1))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("wh", SIZES, ids=str)
def test_a_bright_line_moves_the_tokens_that_it_crosses(name, wh):
    """A line sweeps over the picture: the place where it moves a token most is the middle of the token's patch."""
    small = tiny_lvlm(name)
    see_brightness_only(small.module)
    model = vp.wrap(small.module, small.processor)
    layout = model.layout(wh)
    step = 2
    for axis in (0, 1):
        dark = np.full((wh[1], wh[0], 3), 60, np.uint8)
        pictures, middles = [Image.fromarray(dark)], []
        for start in range(0, wh[axis], step):
            line = dark.copy()
            (line[:, start : start + step] if axis == 0 else line[start : start + step])[:] = 255
            pictures.append(Image.fromarray(line))
            middles.append(min(start + step / 2, (start + wh[axis]) / 2))
        found = features(model, pictures)
        assert found.shape[1] == layout.length
        moved = (found[1:] - found[:1]).norm(dim=-1).double()[:, layout.places]
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
    """Newline tokens are the same vector in every picture."""
    for name in ("llava-next", "llava-onevision"):
        small = tiny_lvlm(name)
        model = vp.wrap(small.module, small.processor)
        for wh in SIZES:
            layout = model.layout(wh)
            rest = np.setdiff1d(np.arange(layout.length), layout.places)
            assert len(rest) == layout.geometry.tiles[1].grid_hw[0]
            found = features(model, [noise(wh)])[0, rest]
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


# -- released settings ------------------------------------------------------------------------------------------------

SIDE_336, SIDE_384 = {"height": 336, "width": 336}, {"height": 384, "width": 384}


def stand_in(processor, config, prefix: int = 0):
    """What a layout asks a model for, with a family's released settings and without its weights."""
    reader = SimpleNamespace(processor=processor.image_processor)
    return SimpleNamespace(name="stand-in", config=config, processor=processor, reader=reader, vision_prefix=prefix)


def released_next():
    config = transformers.LlavaNextConfig()
    pictures = transformers.LlavaNextImageProcessor(size={"shortest_edge": 336}, crop_size=SIDE_336)
    processor = transformers.LlavaNextProcessor(
        pictures, chat_tokenizer(["<image>"]), 14, "default", num_additional_image_tokens=1
    )
    return stand_in(processor, config, prefix=1), lvlm_layout_tiles.llava_next


def released_onevision():
    config = transformers.LlavaOnevisionConfig()
    processor = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(),
        chat_tokenizer(["<image>", "<video>"]),
        transformers.LlavaOnevisionVideoProcessor(),
        num_image_tokens=729,
        vision_feature_select_strategy="full",
    )
    return stand_in(processor, config), lvlm_layout_tiles.llava_onevision


def released_idefics3():
    config = transformers.Idefics3Config(vision_config={"image_size": 364, "patch_size": 14}, scale_factor=2)
    pictures = transformers.Idefics3ImageProcessor()
    processor = transformers.Idefics3Processor(pictures, chat_tokenizer([]), image_seq_len=169)
    return stand_in(processor, config), lvlm_layout_shuffled.idefics3


def released_internvl():
    config = transformers.InternVLConfig()
    pictures = transformers.GotOcr2ImageProcessor(size={"height": 448, "width": 448}, crop_to_patches=True)
    return stand_in(SimpleNamespace(image_processor=pictures), config, prefix=1), lvlm_layout_shuffled.internvl


RELEASED = {
    "llava-next": released_next,
    "llava-onevision": released_onevision,
    "idefics3": released_idefics3,
    "internvl": released_internvl,
}


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize("wh", [(640, 480), (427, 641), (1111, 300)], ids=str)
def test_tiles_of_the_released_processor_show_what_the_geometry_says(name, wh):
    """Red grows with x and green with y: the mean colour of a patch is the place that it shows."""
    model, layout = RELEASED[name]()
    x, y = np.meshgrid((np.arange(wh[0]) + 0.5) / wh[0], (np.arange(wh[1]) + 0.5) / wh[1])
    ramps = np.round(np.stack((x, y, np.zeros_like(x)), -1) * 255).astype(np.uint8)
    processor = model.reader.processor
    made = processor(images=[[Image.fromarray(ramps)]], return_tensors="pt", do_normalize=False)["pixel_values"]
    tiles = made.reshape(-1, *made.shape[-3:]).float()
    geometry = layout(model, wh, 1).vision
    assert len(tiles) == len(geometry.tiles)
    for pixels, tile in zip(tiles, geometry.tiles, strict=True):
        rows, columns = tile.grid_hw
        side = int(tile.patch_hw[0])
        patches = pixels[:2, : rows * side, : columns * side].unfold(1, side, side).unfold(2, side, side).mean((-1, -2))
        edges = tile.edges()
        for channel, size in enumerate(wh):
            middle = (edges[channel][1:] + edges[channel][:-1]) / 2
            inside = [(e[:-1] >= 0) & (e[1:] <= limit) for e, limit in zip(edges, wh, strict=True)]
            seen = patches[channel].numpy()[np.ix_(inside[1], inside[0])] * size
            wanted = np.broadcast_to(middle if channel == 0 else middle[:, None], (rows, columns))
            # the first and the last half pixel of a resize repeat the border
            assert np.allclose(seen, wanted[np.ix_(inside[1], inside[0])], atol=0.004 * size + 0.5)


def random_sizes(count: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(0)
    return [tuple(map(int, np.exp(rng.uniform(np.log(24), np.log(3000), 2)))) for _ in range(count)]  # type: ignore[misc]


@pytest.mark.parametrize("name", ["llava-next", "llava-onevision", "internvl"])
def test_as_many_tokens_as_the_released_processor_makes(name):
    model, layout = RELEASED[name]()
    for wh in [*random_sizes(200), (900, 18)]:
        if name == "internvl":
            wanted = 256 * model.reader.processor.get_number_of_image_patches(wh[1], wh[0])
        else:
            wanted = model.processor._get_num_multimodal_tokens([wh[::-1]]).num_image_tokens[0]
        assert layout(model, wh, 1).length == wanted


def test_idefics3_cuts_as_many_rows_and_columns_as_the_processor():
    """Rounding at every resize: what its own count of tiles forgets is what the processor does."""
    config = transformers.Idefics3Config(vision_config={"image_size": 32, "patch_size": 4}, scale_factor=2)
    for longest in (96, 97, 60, 20):
        pictures = transformers.Idefics3ImageProcessor(
            size={"longest_edge": longest}, max_image_size={"longest_edge": 32}
        )
        model = stand_in(SimpleNamespace(image_processor=pictures), config)
        for wh in random_sizes(40):
            made = pictures(images=[[Image.new("RGB", wh)]], return_row_col_info=True)
            layout = lvlm_layout_shuffled.idefics3(model, wh, 1)
            rows, columns = made["rows"][0][0], made["cols"][0][0]
            assert len(layout.geometry.tiles) == rows * columns + 1
            first = layout.geometry.tiles[0]
            assert first.scale_xy == (max(columns, 1) * 32 / wh[0], max(rows, 1) * 32 / wh[1])
        for option in ({"do_image_splitting": False}, {"do_resize": False}):
            for key, value in option.items():
                setattr(pictures, key, value)
            made = pictures(images=[[Image.new("RGB", (150, 64))]], return_row_col_info=True)
            found = lvlm_layout_shuffled.idefics3(model, (150, 64), 1).geometry.tiles
            assert len(found) == made["rows"][0][0] * made["cols"][0][0] + 1
            pictures.do_image_splitting = True


def test_unpadding_rounds_to_whole_tokens():
    """565 of 672 rows of pixels are 40.4 of 48 rows of tokens: 4 go at each end, with 3 pixels of the picture."""
    canvas = Canvas.best((672, 565), [[672, 672]], 336)
    assert canvas.kept(24) == (range(4, 44), range(0, 48))
    tile = canvas.assembled(TowerInput(336, 14))
    assert (tile.grid_hw, tile.scale_xy, tile.offset_xy) == ((40, 48), (1.0, 1.0), (0.0, -3.0))
    assert Canvas.best((672, 644), [[672, 672]], 336).kept(24)[0] == range(1, 47)
    assert Canvas.best((672, 658), [[672, 672]], 336).kept(24)[0] == range(0, 48)  # one row cannot be halved
    assert Canvas.best((658, 672), [[672, 672]], 336).kept(24)[1] == range(0, 48)


# -- settings that contradict each other ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "where", "changes", "reason"),
    [
        ("llava-next", "config", {"vision_feature_select_strategy": "full"}, "select_strategy"),
        ("llava-next", "processor", {"crop_size": {"height": 40, "width": 40}}, "crop_size"),
        ("llava-next", "processor", {"size": {"shortest_edge": 40}}, "size"),
        ("llava-next", "processor", {"image_grid_pinpoints": [[64, 64]]}, "pinpoints"),
        ("llava-onevision", "config", {"vision_aspect_ratio": "square"}, "vision_aspect_ratio"),
        ("llava-onevision", "config", {"vision_feature_select_strategy": "default"}, "select_strategy"),
        ("idefics3", "config", {"scale_factor": 3}, "merge"),
        ("smolvlm", "processor", {"max_image_size": {"height": 32}}, "max_image_size"),
        ("internvl", "config", {"vision_feature_select_strategy": "full"}, "select_strategy"),
        ("internvl", "config", {"downsample_ratio": 0.4}, "downsample_ratio"),
        ("internvl", "processor", {"size": {"height": 32, "width": 48}}, "square"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(name, where, changes, reason):
    small = tiny_lvlm(name)
    for key, value in changes.items():
        setattr(small.module.config if where == "config" else small.processor.image_processor, key, value)
    model = vp.wrap(small.module, small.processor)
    with pytest.raises(vp.UnsupportedError, match=reason):
        model.layout((96, 64))


def test_another_number_of_tokens_than_expected_is_refused():
    small = tiny_lvlm("internvl")
    small.processor.image_seq_length = 9
    model = vp.wrap(small.module, small.processor)
    with pytest.raises(vp.SiteNotReachedError, match="image tokens"):
        vp.Runner(model).generate(vp.Request(noise((64, 64)), query="a"), max_new_tokens=1)


# -- several pictures, videos, batches --------------------------------------------------------------------------------


def unit(image: Image.Image) -> vp.VisualPrompt:
    return vp.Request(image, query="a").units()[0]


def test_every_picture_of_a_chat_has_its_own_tokens(model):
    first, second = noise((97, 53)), noise((31, 89), 1)
    alone = embeddings(model, [Chat((unit(first), unit(second)), "a")])[0]
    changed = embeddings(model, [Chat((unit(first), unit(noise((31, 89), 2))), "a")])[0]
    count = model.layout(first.size, pictures=2).geometry.num_patches
    assert torch.equal(alone[:count], changed[:count])
    assert (alone[count:] != changed[count:]).any(-1).all()


def test_chats_with_different_numbers_of_pictures_share_a_batch(model):
    chats = [
        Chat((unit(noise((97, 53))),), "what is the red star"),
        Chat((unit(noise((31, 89), 1)), unit(noise((96, 96), 2))), "a"),
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


def test_several_pictures_switch_the_tiles_of_onevision_off():
    small = tiny_lvlm("llava-onevision")
    model = vp.wrap(small.module, small.processor)
    layout = model.layout((97, 53), pictures=2)
    assert (layout.geometry.grid_hw, layout.length) == ((4, 4), 17)
    scale = 26 / 97
    assert layout.geometry.tiles[0].scale_xy == (scale, scale)
    assert layout.geometry.tiles[0].offset_xy == (0.0, 22 * scale)


def test_every_frame_has_its_own_tokens(video_model):
    frames = [noise((60, 40), seed) for seed in range(3)]
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
    """In a batch: the edited picture is the second one, and only what shows the region's tile changes."""
    wh = (96, 96)
    vision = model.layout(wh).vision
    counts = [tile.grid_hw[0] * tile.grid_hw[1] for tile in vision.tiles]
    region = vp.Box(2, 2, 12, 12)
    touched = [bool(part.any()) for part in np.split(vision.coverage(region) > 0, np.cumsum(counts)[:-1])]
    assert 1 < sum(touched) < len(touched)
    plain = Chat((unit(noise((97, 53))),), "a")
    before = embeddings(model, [plain, Chat((unit(noise(wh, 1)),), "a")])
    request = vp.Request(noise(wh, 1), region=region, query="a")
    edited = vp.Prompter.from_name("falip", tower="vision", strength=4.0, first_block=0).prompt(request, model)[0]
    after = embeddings(model, [plain, Chat((edited,), "a")])
    assert torch.equal(before[0], after[0])
    changed = (before[1] != after[1]).any(-1)
    geometry = model.layout(wh).geometry
    if len(geometry.tiles) == len(vision.tiles):
        tile_of = np.repeat(np.arange(len(geometry.tiles)), [np.prod(tile.grid_hw) for tile in geometry.tiles])
    else:  # the whole picture, then the tiles put together
        row, column = np.indices(geometry.tiles[1].grid_hw) // (geometry.tiles[1].grid_hw[0] / 2)
        tile_of = np.concatenate((np.zeros(16), (1 + row * 2 + column).reshape(-1))).astype(int)
    if model.config.model_type != "llava_onevision":  # whose 3 × 3 tiles are mixed into 8 × 8 tokens
        assert np.array_equal(changed, np.array(touched)[tile_of])
    assert changed.any()
    assert not changed.all()
