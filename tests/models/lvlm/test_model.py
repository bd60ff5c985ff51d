"""Every LVLM family as a tiny random model: tokens ↔ pixels, maps, edits, batches, and clean-up."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers import noise
from PIL import Image

import visprompt as vp
from visprompt.models.chat import Chat
from visprompt.models.lvlm.inputs import prepare
from visprompt.testing.tiny_lvlm import tiny_lvlm, tiny_lvlm_names

SIZES = {"square": (96, 96), "wide": (150, 64), "tall": (50, 131)}
QUESTION = "what is the red star on the left of the dog"


@pytest.fixture(scope="module", params=tiny_lvlm_names())
def family(request):
    return tiny_lvlm(request.param)


@pytest.fixture(scope="module")
def model(family):
    return vp.wrap(family.module, family.processor, name=family.name)


def runner(model, name=None, **options):
    return vp.Runner(model, None if name is None else vp.Prompter.from_name(name, **options), batch_size=4)


def forward(model, chats, read=(), grad=False):
    """Logits of a forward inside `editing`, and the decoder's scope."""
    inputs = prepare(model, chats)
    with torch.set_grad_enabled(grad), model.editing(chats, inputs, read) as scope:
        return model.module(**inputs.tensors).logits, inputs, scope


# -- tokens and pixels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SIZES)
def test_a_painted_patch_changes_its_own_token_and_no_other(family, shape):
    """With the vision tower's attention off, a token depends on its own pixels only."""
    fresh = tiny_lvlm(family.name)
    model = vp.wrap(fresh.module, fresh.processor)
    silence_vision_attention(fresh.module)
    wh = SIZES[shape]
    plain = noise(wh, high=255)
    geometry = model.layout(wh).geometry
    before = image_embeddings(model, plain)
    tile_of = np.repeat(np.arange(len(geometry.tiles)), [np.prod(tile.grid_hw) for tile in geometry.tiles])
    rng = np.random.default_rng(1)
    chosen = rng.choice(geometry.num_patches, size=min(6, geometry.num_patches), replace=False)
    for patch in chosen:
        try:
            box = geometry.patch_box(int(patch))
        except vp.InvalidInputError:
            continue  # padding
        painted = np.array(plain)
        x0, y0, x1, y1 = (int(np.ceil(box.x0)), int(np.ceil(box.y0)), int(box.x1), int(box.y1))
        if x1 <= x0 or y1 <= y0:
            continue
        painted[y0:y1, x0:x1] = 255 - painted[y0:y1, x0:x1]
        change = (image_embeddings(model, Image.fromarray(painted)) - before).abs().amax(-1)
        share = geometry.coverage(vp.Box(x0, y0, x1, y1))
        # A resize filter reaches a little beyond the painted pixels: a token that saw none of them may move slightly.
        reach = max(wh) / min(min(tile.grid_hw) for tile in geometry.tiles)
        near = geometry.coverage(
            vp.Box(max(x0 - reach, 0), max(y0 - reach, 0), min(x1 + reach, wh[0]), min(y1 + reach, wh[1]))
        )
        assert change[patch] > 1e-3
        own = tile_of == tile_of[patch]  # in a coarser tile the painted noise averages out
        assert change[patch] >= 0.5 * change[own].max()
        assert (change[near == 0] < 1e-5).all(), "a token far from the painted pixels changed"
        assert (change[share > 0.6] > 1e-4).all(), "a token that shows mostly painted pixels did not change"


def silence_vision_attention(module) -> None:
    inner = getattr(module, "model", module)
    tower = next(getattr(inner, n) for n in ("vision_tower", "vision_model", "visual") if hasattr(inner, n))
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if any(part in name for part in ("out_proj", "o_proj", "projection_layer", "attn.proj")):
                parameter.zero_()


def image_embeddings(model, image: Image.Image) -> torch.Tensor:
    """`[P, d]`: what the decoder gets for every patch."""
    chat = Chat((vp.Request(image, query=QUESTION).units()[0],), QUESTION)
    inputs = prepare(model, [chat])
    kept = {}

    def keep(module, args, kwargs):
        kept["embeds"] = kwargs["inputs_embeds"]

    hook = model.module.get_decoder().register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model.module(**inputs.tensors)
    hook.remove()
    columns = inputs.columns[0]
    return kept["embeds"][0, columns[columns >= 0]].float()


# -- read-out ---------------------------------------------------------------------------------------------------------


def test_maps_equal_the_models_own_eager_attention(family, model):
    requests = [
        vp.Request(noise(SIZES["wide"], high=255), query=QUESTION),
        vp.Request(noise(SIZES["tall"], seed=1, high=255), query="a cat"),
    ]
    answers = runner(model).answer(requests, blocks=[1, -1], max_new_tokens=3)
    eager = tiny_lvlm(family.name)
    eager.module.set_attn_implementation("eager")
    inputs = prepare(model, [Chat(a.prompts, r.query) for a, r in zip(answers, requests, strict=True)])
    with torch.no_grad():
        output = eager.module.generate(
            **inputs.tensors, max_new_tokens=3, do_sample=False, output_attentions=True, return_dict_in_generate=True
        )
    blocks = len(model.tower.blocks)
    for number, answer in enumerate(answers):
        columns = inputs.columns[number]
        columns = columns[columns >= 0]
        for step, own in enumerate(answer.token_maps[0]):
            for place, block in enumerate((1, blocks - 1)):
                attention = output.attentions[step][block][number][:, -1]
                offset = inputs.length + step - attention.shape[-1]  # sliding windows
                want = torch.where(columns >= offset, attention[:, (columns - offset).clamp(min=0)], 0.0)
                assert torch.allclose(own[place], want, atol=1e-5)


def test_reading_changes_nothing(model):
    requests = [vp.Request(noise(SIZES["wide"], high=255), query=QUESTION)]
    plain, reading = forward(model, chats(requests))[0], forward(model, chats(requests), read=(0, 2))[0]
    assert torch.equal(plain, reading)


def test_streamed_pieces_make_the_answer(model):
    request = vp.Request(noise(SIZES["square"], high=255), query=QUESTION)
    whole = runner(model).generate(request, max_new_tokens=5)[0]
    assert "".join(runner(model).generate(request, max_new_tokens=5, stream=True)).strip() == whole


# -- edits ------------------------------------------------------------------------------------------------------------


def test_strength_zero_is_bit_identical(model):
    request = vp.Request(noise(SIZES["wide"], high=255), region=vp.Box(20, 10, 90, 50), query=QUESTION)
    plain = forward(model, chats([request]))[0]
    prompts = vp.Prompter.from_name("falip", strength=0.0).prompt(request, model)
    assert torch.equal(forward(model, [Chat((prompts[0],), QUESTION)])[0], plain)


def test_the_unwrapped_module_gives_the_same_bits(family, model):
    request = vp.Request(noise(SIZES["wide"], high=255), query=QUESTION)
    logits, inputs, _ = forward(model, chats([request]))
    fresh = tiny_lvlm(family.name)
    with torch.no_grad():
        before = fresh.module(**inputs.tensors).logits
        wrapped = vp.wrap(fresh.module, fresh.processor)
        runner(wrapped, "falip").generate(
            vp.Request(request.pil_image, region=(9, 9, 60, 60), query="a"), max_new_tokens=2
        )
        assert torch.equal(fresh.module(**inputs.tensors).logits, before)
        assert torch.equal(wrapped.unwrap()(**inputs.tensors).logits, before)
    assert torch.equal(before, logits)


@pytest.mark.parametrize("shape", SIZES)
def test_rising_strength_raises_the_regions_attention(model, shape):
    wh = SIZES[shape]
    region = vp.Box(wh[0] * 0.2, wh[1] * 0.2, wh[0] * 0.7, wh[1] * 0.7)
    request = vp.Request(noise(wh, high=255), region=region, query=QUESTION)
    masses = []
    for strength in (0.0, 1.0, 3.0, 6.0):
        answer = runner(model, "falip", strength=strength).answer(request, blocks=range(4), max_new_tokens=1)[0]
        masses.append(answer.maps[0].mass())
    for low, high in itertools.pairwise(masses):  # later blocks' queries change too, and may look elsewhere for it
        assert (high[0] > low[0]).all()
    assert (masses[-1].mean(1) > masses[0].mean(1)).all()


def test_target_mass_is_reached_in_every_head_and_step(model):
    request = vp.Request(noise(SIZES["wide"], high=255), region=vp.Box(10, 10, 60, 50), query=QUESTION)
    answer = runner(model, "falip", target_mass=0.8, rounding="touched").answer(
        request, blocks=[0, 3], max_new_tokens=3
    )[0]
    inside = torch.from_numpy(answer.maps[0].geometry.coverage(request.regions[0]) > 0)
    assert ((answer.token_maps[0] * inside).sum(-1) >= 0.8 - 1e-4).all()


def test_a_question_is_causal_under_edits(model):
    """Later words do not change the logits of earlier ones."""
    shown = noise(SIZES["square"], high=255)
    made = vp.Prompter.from_name("falip").prompt(vp.Request(shown, region=(20, 20, 70, 70), query="a"), model)[0]
    short, inputs, _ = forward(model, [Chat((made,), "the red star")])
    longer, more, _ = forward(model, [Chat((made,), "the red star dog cat")])
    same = int(
        (inputs.tensors["input_ids"][0] == more.tensors["input_ids"][0, : inputs.length]).long().cumprod(0).sum()
    )
    assert same > int(inputs.columns.max())
    reads_both_ways = model.config.model_type == "paligemma"  # over its whole prompt, by design
    assert torch.allclose(short[0, :same], longer[0, :same], atol=1e-4) is not reads_both_ways


def test_left_padding_changes_no_answer(model):
    requests = [
        vp.Request(noise(SIZES["wide"], high=255), region=(10, 10, 80, 50), query=QUESTION),
        vp.Request(noise(SIZES["square"], seed=3, high=255), region=(30, 30, 80, 80), query="a cat"),
    ]
    together = runner(model, "falip", strength=2.0).answer(requests, blocks=[0, 2], max_new_tokens=3)
    for request, batched in zip(requests, together, strict=True):
        alone = runner(model, "falip", strength=2.0).answer(request, blocks=[0, 2], max_new_tokens=3)[0]
        assert alone.text == batched.text
        assert torch.allclose(alone.token_maps[0], batched.token_maps[0], atol=1e-4)


def test_a_training_forward_has_the_edits_too(model):
    request = vp.Request(noise(SIZES["wide"], high=255), region=(10, 10, 80, 50), query=QUESTION)
    prompts = vp.Prompter.from_name("falip", strength=3.0).prompt(request, model)
    edited = forward(model, [Chat((prompts[0],), QUESTION)], grad=True)[0]
    edited.float().logsumexp(-1).mean().backward()
    assert not torch.equal(edited, forward(model, chats([request]))[0])
    model.module.zero_grad(set_to_none=True)


def test_the_vision_tower_can_be_edited(family, model):
    request = vp.Request(noise(SIZES["wide"], high=255), region=(10, 10, 80, 50), query=QUESTION)
    edit = runner(model, "falip", tower="vision", strength=4.0, first_block=0)
    if not family.vision_edits:
        with pytest.raises(vp.UnsupportedError, match="decoder"):
            edit.generate(request, max_new_tokens=2)
        return
    assert model.vision_tower is not None
    prompts = edit.prompter.prompt(request, model)
    assert not torch.equal(forward(model, [Chat((prompts[0],), QUESTION)])[0], forward(model, chats([request]))[0])


def test_scores_are_log_likelihoods(model):
    """Equal to the logits of prompt and answer in one forward, in any batch."""
    request = vp.Request(noise(SIZES["wide"], high=255), region=(10, 10, 80, 50), query=QUESTION)
    texts = ["red", "a small blue cat"]
    for name in (None, "falip"):
        found = runner(model, name).score(
            [request, vp.Request(noise(high=255), region=(9, 9, 40, 40), query="a")], texts
        )
        assert found.shape == (2, 2)
        prompts = request.units() if name is None else vp.Prompter.from_name(name).prompt(request, model)
        inputs = prepare(model, [Chat((prompts[0],), QUESTION)])
        for text, own in zip(texts, found[0], strict=True):
            ids = model.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
            tensors = dict(inputs.tensors)
            tensors["input_ids"] = torch.cat((tensors["input_ids"], ids), 1)
            tensors["attention_mask"] = torch.ones_like(tensors["input_ids"])
            for extra in ("token_type_ids", "mm_token_type_ids"):
                if extra in tensors:  # PaliGemma reads type 0 in both directions, and an answer is not
                    kind = int(model.config.model_type == "paligemma" and extra == "token_type_ids")
                    tensors[extra] = torch.cat((tensors[extra], torch.full_like(ids, kind)), 1)
            with torch.no_grad(), model.editing([Chat((prompts[0],), QUESTION)], inputs):
                logits = model.module(**tensors).logits[0, inputs.length - 1 : -1].float().log_softmax(-1)
            want = logits.gather(-1, ids[0][:, None]).sum()
            assert torch.allclose(own, want, atol=1e-3)


# -- several images, errors -----------------------------------------------------------------------------------------


def test_several_images_have_a_map_each(model):
    images = [noise(SIZES["wide"], high=255), noise(SIZES["square"], seed=1, high=255)]
    request = vp.Request(images, region=[None, (20, 20, 80, 80)], query=QUESTION)
    low, high = (
        runner(model, "falip", strength=strength).answer(request, blocks=[0], max_new_tokens=2)[0]
        for strength in (0.0, 4.0)
    )
    assert len(low.maps) == len(high.maps) == 2
    assert [item.geometry.image_wh for item in high.maps] == [SIZES["wide"], SIZES["square"]]
    assert high.maps[1].mass().mean() > low.maps[1].mass().mean()
    assert high.maps[0].values.sum() < low.maps[0].values.sum()


def test_frames_of_a_video(family, model):
    frames = [noise(seed=seed, high=255) for seed in range(4)]
    request = vp.Request(frames, query=QUESTION, video=True)
    answer = runner(model).answer(request, blocks=[0], max_new_tokens=2)[0]
    group = model.family.frames_per_group if model.family.video_layout is not None else 1
    assert len(answer.maps) == -(-len(frames) // group)


def test_videos_of_different_lengths(family, model):
    requests = [vp.Request([noise(seed=n, high=255) for n in range(count)], query="a", video=True) for count in (2, 4)]
    together = runner(model).answer(requests, blocks=[0], max_new_tokens=2)
    for request, found in zip(requests, together, strict=True):
        alone = runner(model).answer(request, blocks=[0], max_new_tokens=2)[0]
        assert alone.text == found.text
        assert torch.allclose(alone.maps[0].values, found.maps[0].values, atol=1e-5)
    if family.video:
        with pytest.raises(vp.InvalidInputError, match="frames"):
            model.generate([Chat(tuple(r.units()), "a", video=True) for r in requests], max_new_tokens=1)


@pytest.mark.parametrize("tower", ["decoder", "vision"])
def test_a_region_on_one_frame_raises_that_frame(family, model, tower):
    frames = [noise(seed=seed, high=255) for seed in range(3)]
    request = vp.Request(frames, region=[None, None, (10, 10, 50, 50)], query=QUESTION, video=True)
    if tower == "vision" and not family.vision_edits:
        with pytest.raises(vp.UnsupportedError, match="decoder"):
            runner(model, "falip", tower=tower).generate(request, max_new_tokens=2)
        return
    low, high = (
        runner(model, "falip", strength=strength, tower=tower).answer(request, blocks=[0], max_new_tokens=2)[0]
        for strength in (0.0, 4.0)
    )
    if tower == "decoder":
        assert high.maps[-1].mass().mean() > low.maps[-1].mass().mean()
        assert high.maps[0].values.sum() <= low.maps[0].values.sum()  # 0 behind a sliding window
    else:
        assert not torch.equal(high.maps[-1].values, low.maps[-1].values)


def test_several_regions_give_an_answer_each(model):
    request = vp.Request(noise(SIZES["wide"], high=255), region=[(5, 5, 60, 60), (80, 5, 140, 60)], query=QUESTION)
    ran = runner(model, "falip")
    assert len(ran.generate(request, max_new_tokens=2)) == 2
    assert ran.index == [(0, 0), (0, 1)]


def test_what_it_cannot_do_is_said(model):
    request = vp.Request(noise(high=255))
    with pytest.raises(vp.InvalidInputError, match="question"):
        runner(model).generate(request)
    with pytest.raises(vp.UnsupportedError, match="generate"):
        runner(model).encode(vp.Request(noise(high=255), query="a"))
    with pytest.raises(vp.InvalidInputError, match="block"):
        runner(model).answer(vp.Request(noise(high=255), query="a"), blocks=[99])
    edit = vp.AttentionEdit(tower="decoder", bias=np.ones(3))
    made = vp.Request(noise(high=255), query="a").units()[0].with_(attention=(edit,))
    with pytest.raises(vp.InvalidInputError, match="columns"):
        model.generate([Chat((made,), "a")], max_new_tokens=2)


def test_a_run_inside_another_runs_edits_is_refused(model):
    request = vp.Request(noise(high=255), region=(9, 9, 50, 50), query="a")
    made = vp.Prompter.from_name("falip").prompt(request, model)[0]
    asked = [Chat((made,), "a")]
    with pytest.raises(vp.InvalidInputError, match="leave that scope"), model.editing(asked, prepare(model, asked)):
        runner(model).generate(request, max_new_tokens=1)


def test_an_error_inside_leaves_nothing_behind(family, model):
    request = vp.Request(noise(high=255), region=(9, 9, 50, 50), query="a")
    before = runner(model).generate(request, max_new_tokens=3)

    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    with pytest.raises(Stop):
        model.generate(chats([request]), max_new_tokens=3, stream=stop)
    handle = model.tower.blocks[2].register_forward_pre_hook(stop)
    with pytest.raises(Stop):
        runner(model, "falip").generate(request, max_new_tokens=3)
    handle.remove()
    assert runner(model).generate(request, max_new_tokens=3) == before


def chats(requests):
    return [Chat((request.units()[0],), request.query) for request in requests]
