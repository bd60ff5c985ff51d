"""Qwen-VL, PaliGemma and Gemma 3: exact geometry, frames in pairs, sliding windows, masks that read both ways."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import transformers
from helpers import noise
from PIL import Image

import visprompt as vp
from visprompt.attention.masks import mask_rows
from visprompt.attention.packed_positions import PackedPositions
from visprompt.attention.program import SiteProgram
from visprompt.models.chat import Chat
from visprompt.models.lvlm.inputs import prepare
from visprompt.testing.tiny import randomise
from visprompt.testing.tiny_lvlm import tiny_lvlm
from visprompt.testing.tiny_lvlm_dynamic import tiny_gemma3, tiny_paligemma2

QWEN = ["qwen2-vl", "qwen2-5-vl", "qwen3-vl", "qwen3-vl-moe"]
ALL = [*QWEN, "paligemma", "paligemma-2", "gemma3"]
QUESTION = "what is the red star on the left of the dog"


def wrapped(name: str):
    made = tiny_lvlm(name)
    return vp.wrap(made.module, made.processor)


def runner(model, name=None, **options):
    return vp.Runner(model, None if name is None else vp.Prompter.from_name(name, **options), batch_size=4)


def silenced(model):
    """With the vision tower's attention off, a token depends on its own pixels only."""
    tower = getattr(model.module.model, "visual", None) or model.module.model.vision_tower
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if "out_proj" in name or "attn.proj" in name:
                parameter.zero_()
    return model


def token_features(model, images: list[Image.Image], video: bool = False) -> torch.Tensor:
    """`[P, d]`: what the decoder gets for every patch of all images."""
    request = vp.Request(images, query=QUESTION, video=video)
    inputs = prepare(model, [Chat(tuple(request.units()), QUESTION, video=video)])
    kept = {}

    def keep(module, args, kwargs):
        kept["embeds"] = kwargs["inputs_embeds"]

    hook = model.module.get_decoder().register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model.module(**inputs.tensors)
    hook.remove()
    return kept["embeds"][0, inputs.columns[0]]


def changed(before: torch.Tensor, after: torch.Tensor) -> set[int]:
    return set((before != after).any(-1).nonzero().flatten().tolist())


# -- tokens and pixels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wh", [(64, 40), (40, 64), (48, 48)])
@pytest.mark.parametrize("name", QWEN)
def test_a_image_that_needs_no_resize_is_seen_pixel_by_pixel(name, wh):
    model = silenced(wrapped(name))
    plain = noise(wh, high=255)
    geometry = model.geometry(wh)
    assert geometry.tiles[0].scale_xy == (1.0, 1.0)
    assert geometry.grid_hw == (wh[1] // 8, wh[0] // 8)
    before = token_features(model, [plain])
    for patch in range(0, geometry.num_patches, 7):
        box = geometry.patch_box(patch)
        for x, y in ((int(box.x0), int(box.y0)), (int(box.x1) - 1, int(box.y1) - 1)):
            pixels = np.array(plain)
            pixels[y, x] = 255 - pixels[y, x]
            assert changed(before, token_features(model, [Image.fromarray(pixels)])) == {patch}


@pytest.mark.parametrize("backend", ["Qwen2VLImageProcessor", "Qwen2VLImageProcessorPil"])
def test_the_grid_is_the_processors(backend):
    made = tiny_lvlm("qwen2-vl")
    kind = getattr(transformers, backend)
    sizes = [*np.random.default_rng(0).integers(16, 400, (40, 2)).tolist(), (16, 300), (300, 17), (16, 16), (900, 40)]
    for low, high in ((32 * 32, 64 * 64), (80 * 80, 120 * 120), (16 * 16, 24 * 24)):
        settings = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
        made.processor.image_processor = kind(size={"shortest_edge": low, "longest_edge": high}, **settings)
        model = vp.wrap(made.module, made.processor)
        for wh in map(tuple, sizes):
            tile = model.geometry(wh).tiles[0]
            _, rows, columns = made.processor.image_processor([noise(wh, high=255)], return_tensors="pt")[
                "image_grid_thw"
            ][0]
            assert tile.grid_hw == (rows // 2, columns // 2)
            assert tile.input_hw == (rows * 4, columns * 4)
            assert model.geometry(wh).visible_xyxy() == (0.0, 0.0, *map(float, wh))
        made.module = model.unwrap()


def test_settings_that_are_not_understood_are_refused():
    made = tiny_lvlm("qwen2-5-vl")
    model = vp.wrap(made.module, made.processor)
    made.processor.image_processor.do_resize = False
    assert model.geometry((48, 64)).grid_hw == (8, 6)
    with pytest.raises(vp.UnsupportedError, match="50×64"):
        model.geometry((50, 64))
    made.processor.image_processor.merge_size = 4
    with pytest.raises(vp.UnsupportedError, match="merge_size=4"):
        model.geometry((64, 64))
    other = tiny_lvlm("paligemma")
    other.processor.image_processor.size = {"height": 32, "width": 32}
    with pytest.raises(vp.UnsupportedError, match="64×64"):
        vp.wrap(other.module, other.processor).geometry((64, 64))
    last = tiny_gemma3()
    last.module.config.mm_tokens_per_image = 9
    with pytest.raises(vp.UnsupportedError, match="9 tokens"):
        vp.wrap(last.module, last.processor).geometry((64, 64))


def test_gemma_pools_squares_of_patches():
    model = silenced(wrapped("gemma3"))
    plain = noise(high=255)
    geometry, vision = model.geometry((64, 64)), model.geometry((64, 64), tower="vision")
    assert (geometry.grid_hw, vision.grid_hw) == ((4, 4), (16, 16))
    before = token_features(model, [plain])
    for x, y in ((0, 0), (15, 15), (16, 15), (63, 0), (40, 50)):
        pixels = np.array(plain)
        pixels[y, x] = 255 - pixels[y, x]
        assert changed(before, token_features(model, [Image.fromarray(pixels)])) == {y // 16 * 4 + x // 16}


@pytest.mark.parametrize("wh", [(300, 100), (90, 200), (64, 60)])
@pytest.mark.parametrize("backend", ["Gemma3ImageProcessor", "Gemma3ImageProcessorPil"])
def test_gemmas_crops_have_tiles_of_their_own(backend, wh):
    options = {"min_crop_size": 40, "max_num_crops": 4, "min_ratio_to_activate": 1.2}
    scan = {"do_pan_and_scan": True, **{f"pan_and_scan_{key}": value for key, value in options.items()}}
    made = tiny_lvlm("gemma3")
    made.processor.image_processor = getattr(transformers, backend)(size={"height": 64, "width": 64})
    made.processor.images_kwargs = {**made.processor.images_kwargs, **scan}
    model = vp.wrap(made.module, made.processor)
    request = vp.Request(noise(wh, high=255), region=(5, 5, wh[0] / 2, wh[1] / 2), query=QUESTION)
    plain, prompted, in_tower = (
        runner(model, name, **options).answer(request, blocks=[1], max_new_tokens=2)[0].maps[0]
        for name, options in ((None, {}), ("falip", {"strength": 4.0}), ("falip", {"strength": 4.0, "tower": "vision"}))
    )
    assert prompted.mass().mean() > plain.mass(request.regions[0]).mean()
    assert (in_tower.values != plain.values).any()
    silenced(model)
    geometry = model.geometry(wh)
    assert len(geometry.tiles) == {300: 4, 90: 3, 64: 1}[wh[0]]
    assert model.geometry(wh, tower="vision").num_patches == 16 * geometry.num_patches
    plain = noise(wh, high=255)
    before = token_features(model, [plain])
    assert len(before) == geometry.num_patches
    for patch in range(0, geometry.num_patches, 5):
        box = geometry.patch_box(patch)
        x0, y0, x1, y1 = (int(np.ceil(box.x0)), int(np.ceil(box.y0)), int(box.x1), int(box.y1))
        pixels = np.array(plain)
        pixels[y0:y1, x0:x1] = 255 - pixels[y0:y1, x0:x1]
        change = (token_features(model, [Image.fromarray(pixels)]) - before).abs().amax(-1)
        share = geometry.coverage(vp.Box(x0, y0, x1, y1))
        reach = max(1 / min(tile.scale_xy) for tile in geometry.tiles) * 2
        wide = vp.Box(max(x0 - reach, 0), max(y0 - reach, 0), min(x1 + reach, wh[0]), min(y1 + reach, wh[1]))
        assert (change[share > 0.1] > 1e-3).all()
        assert (change[geometry.coverage(wide) == 0] < 1e-6).all()


# -- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 2, 4, 5])
@pytest.mark.parametrize("name", QWEN)
def test_a_frame_shows_in_the_tokens_of_its_pair(name, frames):
    model = silenced(wrapped(name))
    plain = [noise((48, 32), seed=seed, high=255) for seed in range(frames)]
    if frames == 1 and name.startswith("qwen3"):
        with pytest.raises(vp.UnsupportedError, match="temporal_factor"):
            token_features(model, plain, video=True)
        return
    before = token_features(model, plain, video=True)
    layouts = model.family.video_layout(model, (48, 32), frames)
    assert len(layouts) == -(-frames // 2)
    count = layouts[0].geometry.num_patches
    assert len(before) == count * len(layouts)
    for number in range(frames):
        pixels = np.array(plain[number])
        box = layouts[0].geometry.patch_box(count - 1)
        x0, y0, x1, y1 = map(int, box.xyxy)
        pixels[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2] = 255
        frames_now = [*plain[:number], Image.fromarray(pixels), *plain[number + 1 :]]
        moved = changed(before, token_features(model, frames_now, video=True))
        assert (number // 2 + 1) * count - 1 in moved
        assert {token // count for token in moved} == {number // 2}


@pytest.mark.parametrize("name", QWEN)
def test_a_frames_region_raises_its_pairs_map(name):
    model = wrapped(name)
    frames = [noise((150, 100), seed=seed, high=255) for seed in range(5)]  # frames have other pixel limits than images
    region = vp.Box(20, 20, 90, 70)
    plain = runner(model).answer(vp.Request(frames, query=QUESTION, video=True), blocks=[0], max_new_tokens=2)[0]
    request = vp.Request(frames, region=[None, None, None, region, None], query=QUESTION, video=True)
    found = runner(model, "falip", strength=4.0).answer(request, blocks=[0], max_new_tokens=2)[0]
    assert len(found.maps) == 3
    inside = found.maps[1].geometry.coverage(region)
    before, after = (answer.maps[1].values.mean((0, 1)) @ inside for answer in (plain, found))
    assert after > 2 * before
    for other in (0, 2):
        assert found.maps[other].values.sum() < plain.maps[other].values.sum()
    tower = runner(model, "falip", strength=4.0, tower="vision").answer(request, blocks=[0], max_new_tokens=2)[0]
    assert not torch.allclose(tower.token_maps[1], plain.token_maps[1], atol=1e-3)


def test_a_region_on_both_frames_of_a_pair_counts_once():
    model = wrapped("qwen2-vl")
    frames = [noise(seed=seed, high=255) for seed in range(2)]
    region = vp.Box(10, 10, 50, 50)
    answers = []
    for regions in ([region, None], [region, region]):
        request = vp.Request(frames, region=regions, query=QUESTION, video=True)
        answers.append(runner(model, "falip", strength=2.0).answer(request, blocks=[0, 3], max_new_tokens=3)[0])
    assert torch.equal(answers[0].token_maps[0], answers[1].token_maps[0])


@pytest.mark.parametrize("rate", [None, 4.0])
def test_timestamps_stand_between_the_frames_of_qwen3(rate):
    """Frames are taken to be sampled at the processor's own rate, two a second."""
    model = wrapped("qwen3-vl")
    if rate is not None:
        model.processor.video_processor.fps = rate
    request = vp.Request([noise((48, 32), seed=seed, high=255) for seed in range(4)], query=QUESTION, video=True)
    inputs = prepare(model, [Chat(tuple(request.units()), QUESTION, video=True)])
    assert (inputs.columns[0].diff() > 1).sum() == 1
    text = model.tokenizer.decode(inputs.tensors["input_ids"][0], skip_special_tokens=True).replace(" ", "")
    assert [when in text for when in ("0.2s", "1.2s")] == [rate is None] * 2  # (0 + 0.5) / 2 and (1 + 1.5) / 2
    assert [when in text for when in ("0.1s", "0.6s")] == [rate is not None] * 2


def test_seconds_between_the_frames_of_qwen2_5():
    model = wrapped("qwen2-5-vl")
    request = vp.Request([noise((48, 32), seed=seed, high=255) for seed in range(4)], query=QUESTION, video=True)
    inputs = prepare(model, [Chat(tuple(request.units()), QUESTION, video=True)])
    assert inputs.tensors["second_per_grid_ts"].tolist() == [1.0]


# -- against the model's own eager attention --------------------------------------------------------------------------


def eager_reference(module, inputs, bias: torch.Tensor, steps: int, **options):
    """Greedy answer and attention of every block and step, with `bias` `[n, columns]` added to the logits of the text
    behind the image by the model's own eager function.
    """
    module.set_attn_implementation("eager")
    decoder = module.get_decoder()
    source = sys.modules[type(decoder.layers[0].self_attn).__module__]
    own, seen = source.eager_attention_forward, {}
    behind = (inputs.images.cumsum(1) > 0) & ~inputs.images & ~inputs.padding
    ours = {id(layer.self_attn) for layer in decoder.layers}

    def forward(layer, query, key, value, attention_mask, **kwargs):
        if id(layer) not in ours:
            return own(layer, query, key, value, attention_mask, **kwargs)
        first = seen.get(id(layer), 0)
        seen[id(layer)] = first + query.shape[2]
        total, keys = seen[id(layer)], key.shape[2]
        n = len(bias)
        rows = torch.ones(n, total, dtype=torch.bool)
        rows[:, : inputs.length] = behind[:, :total]
        wide = torch.zeros(n, total + keys)
        wide[:, : bias.shape[1]] = bias
        columns = wide[:, max(total - keys, 0) :][:, :keys]
        extra = (rows[:, first:, None] * columns[:, None])[:, None]
        mask = extra if attention_mask is None else attention_mask[..., :keys] + extra
        return own(layer, query, key, value, mask, **kwargs)

    source.eager_attention_forward = forward
    try:
        with torch.no_grad():
            return module.generate(
                **inputs.tensors,
                max_new_tokens=steps,
                min_new_tokens=steps,
                do_sample=False,
                output_attentions=True,
                return_dict_in_generate=True,
                **options,
            )
    finally:
        source.eager_attention_forward = own


def check_against_eager(model, fresh, steps: int = 6, strength: float = 2.0, **options) -> list[torch.Tensor]:
    """A batch of two, left-padded, FALIP in every block: answers and the maps of every block and step."""
    requests = [
        vp.Request(noise((96, 64), high=255), region=(10, 10, 60, 50), query=QUESTION),
        vp.Request(noise((60, 90), seed=1, high=255), region=(20, 30, 60, 80), query="a cat"),
    ]
    ran = runner(model, "falip", strength=strength)
    found = ran.answer(requests, blocks=range(4), max_new_tokens=steps, min_new_tokens=steps, **options)
    inputs = prepare(model, [Chat(item.prompts, r.query) for item, r in zip(found, requests, strict=True)])
    bias = torch.zeros(2, inputs.length)
    for row, item in enumerate(found):
        edits = [edit for prompt in item.prompts for edit in prompt.attention]
        assert edits or not strength
        for edit in edits:
            columns = inputs.columns[row][inputs.columns[row] >= 0]
            bias[row, columns] += torch.from_numpy(edit.bias)
    output = eager_reference(fresh, inputs, bias, steps)
    for row, item in enumerate(found):
        columns = inputs.columns[row][inputs.columns[row] >= 0]
        assert model.tokenizer.decode(output.sequences[row, inputs.length :], skip_special_tokens=True) == item.text
        for step, blocks in enumerate(item.token_maps[0]):
            for block, own in enumerate(blocks):
                attention = output.attentions[step][block][row][:, -1]
                gone = inputs.length + step - attention.shape[-1]
                want = torch.where(columns >= gone, attention[:, (columns - gone).clamp(min=0)], 0.0)
                assert torch.allclose(own, want, atol=1e-5)
    return [item.token_maps[0] for item in found]


@pytest.mark.parametrize("name", ALL)
def test_edits_in_every_block_equal_a_mask_in_eager_attention(name):
    check_against_eager(wrapped(name), tiny_lvlm(name).module)


@pytest.mark.parametrize("window", [8, 20, 33, 47])
def test_a_window_shorter_than_the_prompt(window):
    """The prompt pass applies the window by the mask; during generation the image leaves the cache."""
    model, fresh = (tiny_gemma3(sliding_window=window) for _ in range(2))
    randomise(model.module), randomise(fresh.module)
    maps = check_against_eager(vp.wrap(model.module.eval(), model.processor), fresh.module.eval(), steps=8)
    sliding, full = maps[0][:, [0, 2]], maps[0][:, [1, 3]]
    assert (full.sum(-1) > 0).all()
    assert (sliding == 0).any() == (window < 47) or (sliding[-1] == 0).any()


@pytest.mark.parametrize("window", [20, 33, 200])
def test_static_caches(window):
    """The same answers and maps as with a growing cache, sliding layers included."""
    made = tiny_gemma3(sliding_window=window)
    model = vp.wrap(randomise(made.module).eval(), made.processor)
    check_static(model)


@pytest.mark.parametrize("name", ["qwen2-vl", "qwen3-vl", "paligemma"])
def test_static_caches_of_other_families(name):
    check_static(wrapped(name))


def check_static(model) -> None:
    for requests in (
        [vp.Request(noise(high=255), region=(9, 9, 50, 50), query=QUESTION)],  # no padding: no mask either
        [
            vp.Request(noise(seed=seed, high=255), region=(9, 9, 50, 50), query=q)
            for seed, q in enumerate((QUESTION, "a"))
        ],
    ):
        maps = []
        for options in ({}, {"cache_implementation": "static"}):
            found = runner(model, "falip", strength=2.0).answer(
                requests, blocks=range(4), max_new_tokens=5, min_new_tokens=5, **options
            )
            maps.append([item.token_maps[0] for item in found])
        for growing, static in zip(*maps, strict=True):
            assert torch.allclose(growing, static, atol=1e-5)


@pytest.mark.parametrize("options", [{"use_cache": False}, {"prefill_chunk_size": 25}])
def test_other_ways_through_the_prompt(options):
    """Without a cache every call brings the whole text; in chunks (the first one with the whole image, which
    is read in both directions) the prompt takes two."""
    made = tiny_gemma3(sliding_window=20)
    model = vp.wrap(randomise(made.module).eval(), made.processor)
    request = vp.Request(noise(high=255), region=(9, 9, 50, 50), query=QUESTION)
    plain, other = (
        runner(model, "falip", strength=2.0).answer(request, blocks=range(4), max_new_tokens=4, **more)[0]
        for more in ({}, options)
    )
    assert plain.text == other.text
    assert torch.allclose(plain.token_maps[0], other.token_maps[0], atol=1e-5)


def test_drafts_are_refused():
    request = vp.Request(noise(high=255), query=QUESTION)
    with pytest.raises(vp.UnsupportedError, match="prompt_lookup"):
        runner(wrapped("gemma3")).generate(request, prompt_lookup_num_tokens=3)


@pytest.mark.parametrize("name", ["gemma3", "paligemma-2"])
def test_target_mass_leaves_what_a_window_hides(name):
    """A region outside a block's window gets no attention there, and its target mass in other blocks."""
    made = tiny_gemma3(sliding_window=20) if name == "gemma3" else tiny_paligemma2(sliding_window=20)
    model = vp.wrap(randomise(made.module).eval(), made.processor)
    request = vp.Request(noise(high=255), region=(0, 0, 40, 30), query=QUESTION)
    ran = runner(model, "falip", target_mass=0.8, rounding="touched")
    found = ran.answer(request, blocks=range(4), max_new_tokens=3, min_new_tokens=3)[0]
    inside = torch.from_numpy(found.maps[0].geometry.coverage(request.regions[0]) > 0)
    shares = (found.token_maps[0] * inside).sum(-1)
    sees_all = shares[:, [1, 3]]
    assert (sees_all >= 0.8 - 1e-4).all()
    if name == "paligemma-2":  # reads its prompt in both directions, whatever the window
        assert (shares[0] >= 0.8 - 1e-4).all()
        shares = shares[1:]
    assert (shares[:, [0, 2]] == 0).all()


# -- Qwen's packed vision tower ---------------------------------------------------------------------------------------


def vision_reference(module, inputs, grids: list[torch.Tensor], blocks: range, row: int | None = None) -> torch.Tensor:
    """What the decoder gets for images whose patches have `grids` `[h, w]` added to their logits as keys, in some
    blocks of the tower and for all rows or one patch's, by the model's own eager function.

    Where a patch stands is asked of transformers' own functions, which share nothing with the code under test.
    """
    known = pytest.importorskip("transformers.vision_utils")
    module.set_attn_implementation("eager")
    tower = module.model.visual
    config = tower.config
    video = "video_grid_thw" in inputs.tensors
    thw = inputs.tensors["video_grid_thw" if video else "image_grid_thw"]
    each = torch.tensor([[1, h, w] for t, h, w in thw.tolist() for _ in range(t)])
    patch_token_index = known.get_vision_position_ids(each, config.spatial_merge_size)
    owner = torch.repeat_interleave(torch.arange(len(each)), each.prod(1))
    bias = torch.stack([grids[n][h, w] for n, (h, w) in zip(owner.tolist(), patch_token_index.tolist(), strict=True)])
    number = patch_token_index[:, 0] * each[owner, 2] + patch_token_index[:, 1]
    if hasattr(config, "window_size"):
        units = config.spatial_merge_size**2
        index = known.get_vision_window_index(thw, config.spatial_merge_size, config.window_size, config.patch_size)[0]
        bias, number = (item.reshape(-1, units)[index].reshape(-1) for item in (bias, number))
    source = sys.modules[type(tower.blocks[0].attn).__module__]
    own, seen = source.eager_attention_forward, {}
    edited = {id(tower.blocks[block].attn) for block in blocks}

    def forward(layer, query, key, value, attention_mask, **kwargs):
        if id(layer) not in edited:
            return own(layer, query, key, value, attention_mask, **kwargs)
        first = seen.get(id(layer), 0)
        seen[id(layer)] = first + key.shape[2]
        piece = slice(first, first + key.shape[2])
        rows = torch.ones(query.shape[2], 1) if row is None else (number[piece] == row).float()[:, None]
        return own(layer, query, key, value, (rows * bias[piece])[None, None], **kwargs)

    source.eager_attention_forward = forward
    try:
        with torch.no_grad():
            return decoder_input(module, inputs)
    finally:
        source.eager_attention_forward = own


def decoder_input(module, inputs) -> torch.Tensor:
    kept = {}

    def keep(module, args, kwargs):
        kept.update(kwargs)

    hook = module.get_decoder().register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        module(**inputs.tensors)
    hook.remove()
    deep = kept.get("deepstack_visual_embeds") or []
    return torch.cat([kept["inputs_embeds"].flatten(), *(item.flatten() for item in deep)])


@pytest.mark.parametrize("row", [None, 9])
@pytest.mark.parametrize("name", QWEN)
def test_edits_in_the_packed_tower_equal_a_mask_in_eager_attention(name, row):
    model = wrapped(name)
    sizes, rng, made, grids = [(72, 40), (40, 56), (48, 48)], np.random.default_rng(0), [], []
    for number, wh in enumerate(sizes):
        geometry = model.geometry(wh, tower="vision")
        assert geometry.grid_hw == (wh[1] // 4, wh[0] // 4)
        bias = rng.normal(size=geometry.num_patches).astype(np.float32) * (number != 1)  # the second has no edit
        grids.append(torch.from_numpy(bias).view(geometry.grid_hw))
        edit = vp.AttentionEdit(first_block=1, last_block=2, bias=bias, rows="readout" if row is None else (row,))
        unit = vp.Request(noise(wh, seed=number, high=255), query="a").units()[0]
        made.append(unit.with_(attention=(edit,) if number != 1 else ()))
    chats = [Chat((made[0], made[1]), "a"), Chat((made[2],), "the red star")]
    inputs = prepare(model, chats)
    with model.editing(chats, inputs):
        found = decoder_input(model.module, inputs)
    want = vision_reference(tiny_lvlm(name).module, inputs, grids, range(1, 3), row)
    assert torch.allclose(found, want, atol=1e-5)
    assert not torch.allclose(found, decoder_input(tiny_lvlm(name).module, inputs), atol=1e-3)


@pytest.mark.parametrize("name", QWEN)
def test_frames_are_edited_in_the_packed_tower_pair_by_pair(name):
    model = wrapped(name)
    layouts = model.family.video_layout(model, (48, 32), 5)
    vision = layouts[0].vision
    rng = np.random.default_rng(1)
    bias = rng.normal(size=vision.num_patches).astype(np.float32)
    edit = vp.AttentionEdit(first_block=0, last_block=1, bias=bias)
    units = vp.Request([noise((48, 32), seed=seed, high=255) for seed in range(5)], query="a", video=True).units()
    edited = [unit.with_(attention=(edit,) if place in (2, 3) else ()) for place, unit in enumerate(units)]
    chats = [Chat(tuple(edited), "a", video=True)]
    inputs = prepare(model, chats)
    with model.editing(chats, inputs):
        found = decoder_input(model.module, inputs)
    grids = [torch.from_numpy(bias * (pair == 1)).view(vision.grid_hw) for pair in range(3)]
    want = vision_reference(tiny_lvlm(name).module, inputs, grids, range(2))
    assert torch.allclose(found, want, atol=1e-5)


@pytest.mark.parametrize("name", QWEN)
def test_unleash_compares_the_packed_tower_with_a_plain_run(name):
    """Gains change nothing without a prompt: the reference rows are assembled image by image."""
    model = wrapped(name)
    images = [noise((72, 40), high=255), noise((40, 56), seed=1, high=255)]
    features = {}
    for what in ("plain", "same", "circle"):
        request = vp.Request(images, region=[(10, 10, 50, 30), (5, 5, 30, 40)], query=QUESTION)
        units = request.units() if what != "circle" else vp.Prompter.from_name("circle").prompt(request, model)
        edit = vp.AttentionEdit(first_block=0, gain=5.0)
        made = [unit.with_(reference=shown, attention=(edit,)) for unit, shown in zip(units, images, strict=True)]
        chats = [Chat(tuple(request.units() if what == "plain" else made), QUESTION)]
        inputs = prepare(model, chats)
        with model.editing(chats, inputs):
            features[what] = decoder_input(model.module, inputs)
    assert torch.allclose(features["same"], features["plain"], atol=1e-4)
    assert not torch.allclose(features["circle"], features["plain"], atol=1e-2)


# -- masks ------------------------------------------------------------------------------------------------------------


def test_paligemma_reads_its_prompt_both_ways_under_edits():
    model = wrapped("paligemma")
    request = vp.Request(noise(high=255), region=(9, 9, 50, 50), query="the red star")
    made = vp.Prompter.from_name("falip", strength=2.0).prompt(request, model)[0]
    logits = []
    for text in ("the red star", "the red dog"):
        chat = Chat((made,), text)
        inputs = prepare(model, [chat])
        with torch.no_grad(), model.editing([chat], inputs):
            logits.append(model.module(**inputs.tensors).logits[0])
    assert (logits[0][:60] - logits[1][:60]).abs().amax() > 1e-3


@pytest.mark.parametrize("name", ["paligemma", "paligemma-2"])
def test_paligemma_takes_several_images(name):
    model = wrapped(name)
    request = vp.Request(
        [noise((90, 60), high=255), noise(seed=1, high=255)], region=[None, (9, 9, 50, 50)], query=QUESTION
    )
    low, high = (
        runner(model, "falip", strength=strength).answer(request, blocks=[1], max_new_tokens=2)[0]
        for strength in (0, 4)
    )
    assert high.maps[1].mass().mean() > low.maps[1].mass().mean()
    with pytest.raises(vp.UnsupportedError, match="system"):
        model.generate([Chat(tuple(request.units()), "a", system="be brief")])


def test_a_scored_answer_is_read_forwards_only():
    """In PaliGemma's prompt all tokens see each other; an answer's tokens must not see later ones."""
    model = wrapped("paligemma")
    request = vp.Request(noise(high=255), query=QUESTION)
    short, longer = runner(model).score([request], ["red", "red star"])[0]
    chat = Chat(tuple(request.units()), QUESTION)
    inputs = prepare(model, [chat])
    with torch.no_grad():
        first = model.module(**inputs.tensors).logits[0, -1].float().log_softmax(-1)
    red = model.tokenizer("red", add_special_tokens=False)["input_ids"]
    assert len(red) == 1
    assert torch.allclose(short, first[red[0]], atol=1e-4)
    assert longer < short


@pytest.mark.parametrize("name", ALL)
def test_training_a_padded_batch_has_finite_gradients(name):
    model = wrapped(name)
    chats = []
    for query in (QUESTION, "a"):
        request = vp.Request(noise(high=255), region=(9, 9, 40, 40), query=query)
        made = vp.Prompter.from_name("falip", rows="all", target_mass=0.7).prompt(request, model)[0]
        chats.append(Chat((made,), query))
    inputs = prepare(model, chats)
    with model.editing(chats, inputs):
        model.module(**inputs.tensors).logits[:, -1].float().logsumexp(-1).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.module.parameters() if p.grad is not None)


def test_many_rows_are_taken_in_parts(monkeypatch):
    model = wrapped("gemma3")
    request = vp.Request(noise(high=255), region=(9, 9, 50, 50), query=QUESTION)
    made = vp.Prompter.from_name("falip", strength=3.0, tower="vision", first_block=0).prompt(request, model)[0]
    chats, features = [Chat((made,), QUESTION)], []
    for most in (2**26, 5000):
        monkeypatch.setattr("visprompt.attention.edited_rows.MOST_LOGITS", most)
        inputs = prepare(model, chats)
        with model.editing(chats, inputs):
            features.append(decoder_input(model.module, inputs))
    assert torch.allclose(*features, atol=1e-5)


@pytest.mark.parametrize("name", ["llava", "gemma3", "paligemma"])
def test_a_kernel_that_knows_what_is_causal_itself(name):
    """Flash attention's interface: padding in two dimensions or no mask at all, the window as an argument."""
    probabilities: dict[int, list[torch.Tensor]] = {}

    def kernel(module, query, key, value, attention_mask, scaling=None, sliding_window=None, is_causal=None, **_):
        assert module.config._attn_implementation == "tiny_flash"  # it loads itself by its name
        groups = query.shape[1] // key.shape[1]
        key, value = (item.repeat_interleave(groups, dim=1) for item in (key, value))
        logits = query @ key.transpose(-1, -2) * (scaling or query.shape[-1] ** -0.5)
        queries, keys = logits.shape[-2:]
        behind = torch.arange(queries)[:, None] + keys - queries - torch.arange(keys)
        causal = module.is_causal if is_causal is None else is_causal
        seen = (behind >= 0) if causal else torch.ones_like(behind, dtype=torch.bool)
        if sliding_window and keys > sliding_window:
            seen &= behind.abs() < sliding_window
        if attention_mask is not None:
            assert attention_mask.dim() == 2
            seen = seen & attention_mask[:, None, None, -keys:].bool()
        weights = logits.masked_fill(~seen, torch.finfo(logits.dtype).min).softmax(-1)
        probabilities.setdefault(id(module.q_proj), []).append(weights[:, :, -1])
        return (weights @ value).transpose(1, 2), None

    transformers.AttentionInterface.register("tiny_flash", kernel)
    masks = transformers.masking_utils
    masks.AttentionMaskInterface.register("tiny_flash", masks.flash_attention_mask)
    made = tiny_gemma3(sliding_window=20) if name == "gemma3" else tiny_lvlm(name)
    for child in randomise(made.module).eval().modules():
        if hasattr(child, "config"):
            child.config._attn_implementation_internal = "tiny_flash"
    model = vp.wrap(made.module, made.processor)
    requests = [
        vp.Request(noise((96, 64), high=255), query=QUESTION),
        vp.Request(noise((60, 90), seed=1, high=255), query="a cat"),
    ]
    found = runner(model).answer(requests, blocks=range(4), max_new_tokens=4, min_new_tokens=4)
    inputs = prepare(model, [Chat(item.prompts, r.query) for item, r in zip(found, requests, strict=True)])
    for row, item in enumerate(found):
        columns = inputs.columns[row]
        for block, site in enumerate(model.tower.sites):
            steps = probabilities[id(site.module.q_proj)][-4:]
            for step, weights in enumerate(steps):
                gone = inputs.length + step - weights.shape[-1]
                want = torch.where(columns >= gone, weights[row][:, (columns - gone).clamp(min=0)], 0.0)
                assert torch.allclose(item.token_maps[0][step, block], want, atol=1e-5)


class Kernel(torch.nn.Module):
    """A stand-in for an attention module whose config names a kernel."""

    def __init__(self, name: str, causal: bool = True) -> None:
        super().__init__()
        self.config = type("Config", (), {"_attn_implementation": f"visprompt_{name}"})()
        self.is_causal = causal


def seen(kernel: Kernel, queries: int, keys: int, mask=None, **kwargs) -> list[list[int]]:
    rows, sizes = torch.arange(queries), (1, 1, queries, 2)
    found = mask_rows(kernel, mask, rows, torch.zeros(sizes), torch.zeros(1, 1, keys, 2), kwargs)
    found = torch.ones(queries, keys, dtype=torch.bool) if found is None else found.expand(1, 1, queries, keys)[0, 0]
    return [row.nonzero().flatten().tolist() for row in found]


def test_kernels_without_a_mask():
    sdpa, flash = Kernel("sdpa"), Kernel("flash_attention_2")
    assert seen(sdpa, 3, 3) == seen(flash, 3, 3) == [[0], [0, 1], [0, 1, 2]]
    assert seen(sdpa, 2, 4) == [[0], [0, 1]]  # a static cache: counted from its first key
    assert seen(flash, 2, 4) == [[0, 1, 2], [0, 1, 2, 3]]  # the keys before are there already
    assert seen(sdpa, 1, 4) == seen(flash, 1, 4) == [[0, 1, 2, 3]]
    assert seen(flash, 1, 4, sliding_window=2) == [[2, 3]]
    assert seen(flash, 3, 3, sliding_window=2) == [[0], [0, 1], [1, 2]]
    assert seen(sdpa, 3, 3, is_causal=False) == seen(Kernel("eager"), 3, 3) == [[0, 1, 2]] * 3
    assert seen(Kernel("flash_attention_2", causal=False), 3, 3, sliding_window=2) == [[0, 1], [0, 1, 2], [1, 2]]


def test_kernels_with_flash_attentions_padding():
    flash = Kernel("flash_attention_2")
    padding = torch.tensor([[0, 1, 1, 1]])
    assert seen(flash, 4, 4, padding) == [[], [1], [1, 2], [1, 2, 3]]
    assert seen(flash, 1, 4, padding) == [[1, 2, 3]]
    assert seen(flash, 1, 3, padding, sliding_window=3) == [[0, 1, 2]]
    assert seen(flash, 1, 6, padding) == [[1, 2, 3]]  # a static cache with room behind
    with pytest.raises(vp.UnsupportedError, match="flex_attention"):
        seen(Kernel("flex_attention"), 1, 1, object())


def test_a_tower_that_packs_otherwise_is_refused():
    """Images seen in one call, or more patches than the images have."""
    model = wrapped("qwen2-vl")
    site = model.vision_tower.sites[0]
    packed = PackedPositions(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 1, 0]))
    program = SiteProgram(rows=torch.arange(2), edited=torch.ones(2, 2, 2, dtype=torch.bool))
    assert packed.lay_out(site, program, 1, 2, 2).columns.tolist() == [[0, 1]]
    second = packed.lay_out(site, program, 1, 2, 2)
    assert (second.rows.tolist(), second.columns.tolist()) == ([1, 0], [[1, 0]])
    with pytest.raises(vp.UnsupportedError, match="several images"):
        packed.lay_out(site, program, 1, 4, 4)
    with pytest.raises(vp.SiteNotReachedError, match="6 patches"):
        PackedPositions(packed.streams, packed.patches).lay_out(site, program, 1, 6, 6)
