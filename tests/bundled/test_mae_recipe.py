"""The auto-encoder's recipe: images from their step alone, places from the start, a loss on what is masked only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("zoo", reason="the recipe is not part of an installed package")

from zoo import mae_train
from zoo.mae_export import export_mae, with_decoder
from zoo.mae_train import MAE_RECIPES, images, new_mae, patch_statistics, reconstruction_loss, train_mae

RECIPE = MAE_RECIPES["scenes-mae"]
TINY = replace(RECIPE, steps=4, batch_size=6, checkpoint_every=2, warmup_steps=1)


def test_images_depend_on_their_step_only_and_come_from_the_train_split(monkeypatch: pytest.MonkeyPatch) -> None:
    first, again, other = (images(TINY, step) for step in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first.shape, first.dtype) == ((6, 64, 64, 3), np.uint8)
    splits = []

    def watched(seed: int, split: str, **options: object) -> object:
        splits.append(split)
        return scene(seed, split, **options)  # type: ignore[arg-type]

    scene = mae_train.scene
    monkeypatch.setattr(mae_train, "scene", watched)
    images(TINY, 0)
    assert splits == ["train"] * 6


def test_an_untrained_model_knows_its_patches_places() -> None:
    model = new_mae()
    for table in (model.vit.embeddings.position_embeddings, model.decoder.decoder_pos_embed):
        places = table[0, 1:]
        assert not table.requires_grad
        assert torch.cdist(places, places).add(torch.eye(64) * 9).min() > 0.3


def test_what_is_seen_and_flat_grain_have_no_say_in_the_loss() -> None:
    torch.manual_seed(0)
    patches, mask = torch.randn(2, 64, 192), torch.zeros(2, 64)
    mask[:, :40] = 1
    middle, spread = patch_statistics(patches, 0.05)
    right = (patches - middle) / spread
    assert reconstruction_loss(right, patches, mask, 0.05) < 1e-10
    elsewhere = right.clone()
    elsewhere[:, 40:] += 5.0
    assert reconstruction_loss(elsewhere, patches, mask, 0.05) < 1e-10
    grain = 0.5 + 0.05 * torch.randn(2, 64, 192)
    assert reconstruction_loss(torch.zeros_like(grain), grain, mask, 0.05) < 0.1


def test_a_killed_training_ends_where_an_unbroken_one_does_and_exports(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        unbroken = train_mae(TINY, tmp_path / "a", dtype=torch.float32, threads=1)
        train_mae(TINY, tmp_path / "b", dtype=torch.float32, threads=1, stop_at=3)  # the checkpoint is of step 2
        resumed = train_mae(TINY, tmp_path / "b", dtype=torch.float32, threads=1)
    finally:
        torch.set_num_threads(threads)
    one, two = (torch.load(path, weights_only=True)["model"] for path in (unbroken, resumed))
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
    assert export_mae(resumed, tmp_path / "folder") == 4
    whole = with_decoder(tmp_path / "folder")
    with torch.no_grad():
        painted = whole(torch.randn(2, 3, 64, 64)).logits
    assert painted.shape == (2, 64, 192)
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, two[name], atol=1e-3), name
