"""Loading and wrapping: names, folders, loaded modules, and errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import visprompt as vp
from visprompt.testing.tiny import tiny


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bundled:scenes-clp", "scenes-clip"),
        ("scenes-clip", "bundled:scenes-clip"),
        ("open_clip:ViT-B-61/openai", "ViT-B-16"),
        ("open_clip:ViT-B-16/opnai", "openai"),
        ("open_clip:ViT-B-16", "pretrained tag"),
        ("timm:vit_base_patch61_224", "vit_base_patch16_224"),
        ("./no/such/folder", "no folder"),
        ("remote:", "server knows"),
    ],
)
def test_a_name_that_does_not_exist(name: str, message: str) -> None:
    with pytest.raises(vp.VispromptError, match=message):
        vp.load_model(name)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(vp.InvalidInputError, match=r"config\.json"):
        vp.load_model(tmp_path)


@pytest.mark.parametrize(("option", "message"), [({"device": "gpu"}, "device"), ({"dtype": "int8"}, "dtype")])
def test_bad_device_and_dtype(option: dict[str, str], message: str) -> None:
    with pytest.raises(vp.InvalidInputError, match=message):
        vp.load_model("bundled:scenes-clip", **option)


@pytest.mark.parametrize("name", ["transformers-clip", "transformers-dinov2", "transformers-siglip"])
def test_a_local_folder(name: str, tmp_path: Path) -> None:
    small = tiny(name)
    small.module.save_pretrained(tmp_path)
    small.processor.save_pretrained(tmp_path)
    if small.tokenizer is not None:
        small.tokenizer.save_pretrained(tmp_path)
    model = vp.load_model(tmp_path)
    assert ("text" in model.supports) == small.has_text
    assert model.describe()["weights"] == vp.wrap(small.module, small.processor, small.tokenizer).weights_hash()


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    small = tiny("transformers-dinov2")
    small.module.config.save_pretrained(tmp_path)
    small.processor.save_pretrained(tmp_path)
    torch.save(small.module.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(vp.InvalidInputError, match="safetensors"):
        vp.load_model(tmp_path)


def test_wrap_refuses_what_it_does_not_know() -> None:
    with pytest.raises(vp.InvalidInputError, match=r"torch\.nn\.Module"):
        vp.wrap("openai/clip-vit-base-patch16")
    with pytest.raises(vp.UnsupportedError, match="not a model of transformers"):
        vp.wrap(torch.nn.Linear(2, 2))
    small = tiny("transformers-clip")
    with pytest.raises(vp.InvalidInputError, match="image processor"):
        vp.wrap(small.module)
    with pytest.raises(vp.InvalidInputError, match="already"):
        vp.wrap(vp.wrap(small.module, small.processor))


def test_unwrap_gives_the_module_back() -> None:
    small = tiny("transformers-clip")
    before = [module.config._attn_implementation for module in small.module.modules() if hasattr(module, "config")]
    model = vp.wrap(small.module, small.processor, small.tokenizer)
    assert model.unwrap() is small.module
    after = [module.config._attn_implementation for module in small.module.modules() if hasattr(module, "config")]
    assert after == before
    with pytest.raises(vp.UnsupportedError, match="unwrapped"):
        model.embed_text(["a dog"])


def test_the_bundled_models_load_without_a_network() -> None:
    for name in vp.list_models():
        model = vp.load_model(name)
        text = set() if name == "bundled:scenes-mae" else {"text"}
        assert model.supports == {"pixels", "attention", "tokens"} | text


def test_wrapping_twice_needs_no_unwrap_in_between() -> None:
    small = tiny("transformers-clip")
    first = vp.wrap(small.module, small.processor)
    second = vp.wrap(small.module, small.processor)
    second.unwrap()
    first.unwrap()
    assert small.module.vision_model.config._attn_implementation == "sdpa"
