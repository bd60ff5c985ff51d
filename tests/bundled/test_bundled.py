"""The shipped models load offline with plain transformers, and do what their cards say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from visprompt import bundled
from visprompt.data.scenes import world

#: The CLIP models; the LVLM and the auto-encoder have tests of their own.
NAMES = ("scenes-clip", "scenes-clip-annotated")
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest) -> Path:
    return bundled.path(request.param)


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoProcessor, CLIPModel

    model = CLIPModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(folder, local_files_only=True)


def test_there_are_four_models_and_a_typo_gets_a_suggestion() -> None:
    assert bundled.names() == (*NAMES, "scenes-llava", "scenes-mae")
    assert bundled.path("bundled:scenes-clip") == bundled.path("scenes-clip")
    with pytest.raises(ValueError, match="did you mean 'scenes-clip'"):
        bundled.path("scene-clip")
    with pytest.raises(ValueError, match="there are scenes-clip, scenes-clip-annotated, scenes-llava"):
        bundled.path("qwerty")


def test_folder_is_small_complete_and_float16(folder: Path) -> None:
    from safetensors import safe_open

    present = {file.name for file in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "README.md"} <= present
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 12 * MEGABYTE
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        kinds = {weights.get_tensor(key).dtype for key in weights.keys() if "position_ids" not in key}  # noqa: SIM118
    assert kinds == {torch.float16}


def test_processor_and_tokenizer_load_on_their_own(folder: Path) -> None:
    from transformers import AutoImageProcessor, AutoTokenizer

    pixels = AutoImageProcessor.from_pretrained(folder, local_files_only=True)(
        images=world.scene(0, size_wh=(96, 64)).pil, return_tensors="pt"
    )["pixel_values"]
    assert tuple(pixels.shape) == (1, 3, 64, 64)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = tokenizer(["A Photo of the red star.", "red"], padding=True)["input_ids"]
    assert len(ids[0]) == len(ids[1])
    assert tokenizer.decode(ids[0]) == "<bos> a photo of the red star <unk> <eos>"
    assert ids[1].count(tokenizer.pad_token_id) == len(ids[0]) - 3


def test_text_is_pooled_at_its_end_whatever_the_padding(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    assert model.config.text_config.eos_token_id == processor.tokenizer.eos_token_id != 2
    alone = processor.tokenizer(["a red star"], return_tensors="pt")
    padded = processor.tokenizer(
        ["a red star", "a photo of the blue ring on the left"], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        short = model.text_model(**alone).pooler_output[0]
        long = model.text_model(**padded).pooler_output[0]
        rows = model.text_model(**alone).last_hidden_state[0]
    assert torch.allclose(short, long, atol=1e-5)
    assert torch.allclose(short, rows[-1], atol=1e-5)


def test_training_pass_equals_the_models_own_forward(loaded: tuple[Any, Any]) -> None:
    zoo_forward = pytest.importorskip("zoo.forward", reason="the recipe is not part of an installed package")
    model, processor = loaded
    texts = processor.tokenizer(["a red star", "the blue ring on the left"], padding=True, return_tensors="pt")
    pixels = processor.image_processor(images=[s.pil for s in world.scenes(3)], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = model(pixel_values=pixels, **texts)
        images, _ = zoo_forward.encode_images(model, pixels)
        captions = zoo_forward.encode_texts(model, texts["input_ids"], torch.float32)
    assert torch.allclose(torch.nn.functional.normalize(images, dim=-1), out.image_embeds, atol=1e-5)
    assert torch.allclose(torch.nn.functional.normalize(captions, dim=-1), out.text_embeds, atol=1e-5)


def test_single_objects_are_named(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    scenes = [world.scene(9, "test", index=i, n_objects=1) for i in range(150)]
    texts = [f"a photo of a {name}" for name in world.all_names()]
    inputs = processor(text=texts, images=[s.pil for s in scenes], padding=True, return_tensors="pt")
    with torch.no_grad():
        chosen = model(**inputs).logits_per_image.argmax(dim=1)
    right = [world.all_names()[int(c)] == s.objects[0].name for c, s in zip(chosen, scenes, strict=True)]
    assert sum(right) / len(right) >= 0.9


def test_position_words_are_understood(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    right = total = 0
    texts_by_side = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
    scenes = [world.scene(10, "test", index=i, n_objects=1) for i in range(60)]
    names = [s.objects[0].name for s in scenes]
    texts = [f"a {name} {phrase}" for name in names for phrase in texts_by_side.values()]
    inputs = processor(text=texts, images=[s.pil for s in scenes], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits_per_image
    for i, scene in enumerate(scenes):
        scores = dict(zip(texts_by_side, logits[i, 4 * i : 4 * i + 4].tolist(), strict=True))
        for one, other in (("left", "right"), ("top", "bottom")):
            sides = set(scene.sides(scene.objects[0])) & {one, other}
            for side in sides:
                total += 1
                right += scores[side] == max(scores[one], scores[other])
    assert right / total >= 0.9
