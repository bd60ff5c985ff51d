"""Strategies on the disk and on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import visprompt as vp
from visprompt.persistence import prompt_files as saving
from visprompt.testing import conformance

IMAGES = [vp.Request(conformance.image(wh), region=box) for wh, box in conformance.IMAGES.items()]


@pytest.fixture(scope="module")
def model() -> vp.Model:
    return conformance.wrapped("timm-vit-mean")[1]  # type: ignore[no-any-return]


def built(model: vp.Model, name: str = "gated", **options: Any) -> Any:
    prompter: Any = vp.Prompter.from_name(name, **{"prompts": 3, **options})
    prompter.build(model)
    return prompter


@torch.no_grad()
def encoded(model: vp.Model, prompter: vp.Prompter) -> torch.Tensor:
    return vp.Runner(model, prompter).encode(IMAGES)


@pytest.mark.parametrize(
    ("name", "options"), [("gated", {}), ("gated", {"gates": False}), ("vpt", {"deep": True}), ("vpt", {"prompts": 0})]
)
def test_what_was_learned_comes_back(model: vp.Model, tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    prompter = built(model, name, **options)
    for item in prompter.tensors().values():
        item.data.add_(0.25)
    prompter.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "prompt.safetensors"]
    loaded: Any = vp.Prompter.from_pretrained(tmp_path)
    assert loaded.options == prompter.options
    assert loaded.describe() == prompter.describe()
    assert torch.equal(encoded(model, loaded), encoded(model, prompter))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 20_000


def test_the_same_prompt_is_the_same_file(model: vp.Model, tmp_path: Path) -> None:
    """Byte for byte, whoever writes it: more than one entry of metadata would stand in any order."""
    prompter, found = built(model), set()
    for _ in range(8):
        prompter.save_pretrained(tmp_path)
        found.add((tmp_path / saving.WEIGHTS).read_bytes())
    assert len(found) == 1


def test_a_composition_with_learned_parts(model: vp.Model, tmp_path: Path) -> None:
    joined = vp.Prompter.from_name("circle") + built(model)
    joined.save_pretrained(tmp_path)
    loaded = vp.Prompter.from_pretrained(tmp_path)
    assert loaded.name == "circle+gated"
    assert torch.equal(encoded(model, loaded), encoded(model, joined))


def test_loading_onto_another_backbone_is_refused(model: vp.Model, tmp_path: Path) -> None:
    built(model).save_pretrained(tmp_path)
    other = conformance.wrapped("transformers-clip")[1]
    with pytest.raises(vp.UnsupportedError, match=r"was learned on .* is another model"):
        encoded(other, vp.Prompter.from_pretrained(tmp_path))


def test_what_has_learned_nothing_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(vp.InvalidInputError, match="nothing to save"):
        vp.Prompter.from_name("gated").save_pretrained(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "cut", "others", "no backbone"])
def test_damaged_folders_are_named(model: vp.Model, tmp_path: Path, damage: str) -> None:
    built(model).save_pretrained(tmp_path)
    weights, config = tmp_path / "prompt.safetensors", tmp_path / "config.json"
    if damage == "missing":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "others":
        content = json.loads(config.read_text())
        content["parts"][0]["record"] = {"head": {"kind": "linear", "width": 32, "classes": 3}}
        config.write_text(json.dumps(content))
    else:
        content = json.loads(config.read_text())
        del content["parts"][0]["backbone"]
        config.write_text(json.dumps(content))
    with pytest.raises(vp.InvalidInputError, match=r"prompt\.safetensors|do not fit|without the backbone"):
        vp.Prompter.from_pretrained(tmp_path)


def test_a_file_that_cannot_be_replaced_leaves_the_old_one(
    model: vp.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    prompter = built(model)
    prompter.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        prompter.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# -- the hub ----------------------------------------------------------------------------------------------------------


def test_push_to_hub_and_back(model: vp.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the hub's own mixin; only the calls that need a network are replaced."""
    import huggingface_hub
    from huggingface_hub import HfApi, hub_mixin

    stored = tmp_path / "hub"
    calls: list[dict[str, Any]] = []

    def create_repo(self: Any, repo_id: str, **options: Any) -> Any:
        calls.append({"repo_id": repo_id, **options})
        return type("Made", (), {"repo_id": repo_id})()

    def upload_folder(self: Any, *, folder_path: Any, **options: Any) -> str:
        stored.mkdir()
        for path in Path(folder_path).iterdir():
            (stored / path.name).write_bytes(path.read_bytes())
        return "https://hub/someone/flowers"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(stored))
    monkeypatch.setattr(hub_mixin, "hf_hub_download", lambda *_, **__: str(stored / "config.json"))
    monkeypatch.chdir(tmp_path)
    prompter = built(model)
    where = prompter.push_to_hub("someone/flowers", private=True, token="hf_secret")
    assert where.startswith("https://hub/someone/flowers")
    assert calls[0]["private"] is True
    names = {path.name for path in stored.iterdir()}
    assert {"config.json", "prompt.safetensors", "README.md"} <= names
    assert all(b"hf_secret" not in path.read_bytes() for path in stored.iterdir())
    loaded = vp.Prompter.from_pretrained("someone/flowers", revision="main")
    assert torch.equal(encoded(model, loaded), encoded(model, prompter))


def test_neither_folder_nor_hub_says_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(vp.InvalidInputError, match="no folder 'someone/nothing', and it cannot be had from the hub"):
        vp.Prompter.from_pretrained("someone/nothing", local_files_only=True)
    with pytest.raises(vp.InvalidInputError, match="is not a saved strategy"):
        vp.Prompter.from_pretrained("nowhere")


def test_hub_options_are_not_for_folders(tmp_path: Path) -> None:
    vp.Prompter.from_name("circle").save_pretrained(tmp_path)
    with pytest.raises(vp.InvalidInputError, match="revision are for hub ids"):
        vp.Prompter.from_pretrained(tmp_path, revision="main")


def test_weights_of_another_training_are_refused(
    model: vp.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off while it wrote over an older one: new weights beside old options fit, and mean something else."""
    built(model).save_pretrained(tmp_path)
    newer, whole = built(model, gamma=1.0, pool="model"), saving.write_text

    def dying(file: Path, content: str) -> None:
        if file.name == "config.json":
            raise KeyboardInterrupt
        whole(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(saving, "write_text", dying)
        with pytest.raises(KeyboardInterrupt):
            newer.save_pretrained(tmp_path)
    with pytest.raises(vp.InvalidInputError, match=r"prompt\.safetensors is not what config\.json beside it speaks of"):
        vp.Prompter.from_pretrained(tmp_path)
    newer.save_pretrained(tmp_path)
    assert vp.Prompter.from_pretrained(tmp_path).options == newer.options
