"""Families that tile images: released settings, and settings that contradict each other."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import transformers
from PIL import Image

import visprompt as vp
from visprompt.models.lvlm.layouts import pixel_shuffle as lvlm_layout_shuffled
from visprompt.models.lvlm.layouts import tiled as lvlm_layout_tiles
from visprompt.models.lvlm.layouts.tiled import Canvas, TowerInput
from visprompt.testing.tiny_lvlm import chat_tokenizer, tiny_lvlm

# -- released settings ------------------------------------------------------------------------------------------------

SIDE_336, SIDE_384 = {"height": 336, "width": 336}, {"height": 384, "width": 384}


def stand_in(processor, config, prefix: int = 0):
    """A stand-in for a model with the attributes that layouts read: a family's released settings, no weights."""
    reader = SimpleNamespace(processor=processor.image_processor)
    return SimpleNamespace(name="stand-in", config=config, processor=processor, reader=reader, vision_prefix=prefix)


def released_next():
    config = transformers.LlavaNextConfig()
    images = transformers.LlavaNextImageProcessor(size={"shortest_edge": 336}, crop_size=SIDE_336)
    processor = transformers.LlavaNextProcessor(
        images, chat_tokenizer(["<image>"]), 14, "default", num_additional_image_tokens=1
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
    images = transformers.Idefics3ImageProcessor()
    processor = transformers.Idefics3Processor(images, chat_tokenizer([]), image_seq_len=169)
    return stand_in(processor, config), lvlm_layout_shuffled.idefics3


def released_internvl():
    config = transformers.InternVLConfig()
    images = transformers.GotOcr2ImageProcessor(size={"height": 448, "width": 448}, crop_to_patches=True)
    return stand_in(SimpleNamespace(image_processor=images), config, prefix=1), lvlm_layout_shuffled.internvl


RELEASED = {
    "llava-next": released_next,
    "llava-onevision": released_onevision,
    "idefics3": released_idefics3,
    "internvl": released_internvl,
}


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize("wh", [(640, 480), (427, 641), (1111, 300)], ids=str)
def test_tiles_of_the_released_processor_show_what_the_geometry_says(name, wh):
    """Red grows with x and green with y: the mean colour of a patch encodes its position."""
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


@pytest.mark.parametrize("name", ["llava-next", "llava-onevision"])
@pytest.mark.parametrize("wh", [(640, 480), (427, 641), (1111, 300)], ids=str)
def test_the_grid_put_together_is_the_tiles_without_padding(name, wh):
    model, layout = RELEASED[name]()
    found = layout(model, wh, 1)
    grid, tiles = found.geometry.tiles[1], found.vision.tiles[1:]
    side = tiles[0].grid_hw[0]
    x = np.unique(np.concatenate([tile.edges()[0] for tile in tiles]).round(6))
    y = np.unique(np.concatenate([tile.edges()[1] for tile in tiles]).round(6))
    own = [edges.round(6) for edges in grid.edges()]
    for edges, of_tiles, last in zip(own, (x, y), (grid.grid_hw[1], grid.grid_hw[0]), strict=True):
        assert np.isin(edges, of_tiles).all()
        assert len(edges) == last + 1
    ignored = 384 % 14 if name == "llava-onevision" else 0
    widths = np.diff(own[0]) * grid.scale_xy[0]
    assert np.allclose(np.unique(widths.round(3)), [14, 14 + ignored] if ignored and side < len(widths) else [14])


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
    """The layout rounds at every resize as the processor does."""
    config = transformers.Idefics3Config(vision_config={"image_size": 32, "patch_size": 4}, scale_factor=2)
    for longest in (96, 97, 60, 20):
        images = transformers.Idefics3ImageProcessor(
            size={"longest_edge": longest}, max_image_size={"longest_edge": 32}
        )
        model = stand_in(SimpleNamespace(image_processor=images), config)
        for wh in random_sizes(40):
            made = images(images=[[Image.new("RGB", wh)]], return_row_col_info=True)
            layout = lvlm_layout_shuffled.idefics3(model, wh, 1)
            rows, columns = made["rows"][0][0], made["cols"][0][0]
            assert len(layout.geometry.tiles) == rows * columns + 1
            first = layout.geometry.tiles[0]
            assert first.scale_xy == (max(columns, 1) * 32 / wh[0], max(rows, 1) * 32 / wh[1])
        for option in ({"do_image_splitting": False}, {"do_resize": False}):
            for key, value in option.items():
                setattr(images, key, value)
            made = images(images=[[Image.new("RGB", (150, 64))]], return_row_col_info=True)
            found = lvlm_layout_shuffled.idefics3(model, (150, 64), 1).geometry.tiles
            assert len(found) == made["rows"][0][0] * made["cols"][0][0] + 1
            images.do_image_splitting = True


def test_unpadding_rounds_to_whole_tokens():
    """565 of 672 rows of pixels are 40.4 of 48 rows of tokens: 4 go at each end, with 3 pixels of the image."""
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
        vp.Runner(model).generate(vp.Request(Image.new("RGB", (64, 64)), query="a"), max_new_tokens=1)
