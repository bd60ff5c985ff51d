"""The bundled masked auto-encoder: loads offline without a warning, is read as the mean over patches, knows shapes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import visprompt as vp
from visprompt import bundled
from visprompt.data.scenes.downstream import downstream
from visprompt.data.scenes.world import scenes

FOLDER = bundled.path("scenes-mae")
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def encoder() -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(FOLDER, local_files_only=True, dtype=torch.float32).eval()


def rows(encoder: Any, images: list[Any]) -> torch.Tensor:
    """The patches' rows behind the last norm, nothing masked, ``(n, 64, 128)``."""
    from transformers import AutoImageProcessor

    pixels = AutoImageProcessor.from_pretrained(FOLDER, local_files_only=True)(images=images, return_tensors="pt")
    encoder.config.mask_ratio = 0.0
    with torch.no_grad():
        noise = torch.arange(64.0).expand(len(images), -1)
        return torch.as_tensor(encoder(pixels["pixel_values"], noise=noise).last_hidden_state[:, 1:])


def test_automodel_gives_the_encoder_with_every_weight_in_its_place() -> None:
    from transformers import AutoModel, ViTMAEModel

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, found = AutoModel.from_pretrained(FOLDER, local_files_only=True, output_loading_info=True)
    assert isinstance(model, ViTMAEModel)
    assert not any(found.values())
    assert model.dtype == torch.float16
    # Positions are fixed, and zero in a model that is only built: they have to come with the weights.
    assert model.embeddings.position_embeddings[0, 1:].float().std() > 0.4


def test_folder_is_small_and_complete() -> None:
    present = {file.name for file in FOLDER.iterdir()}
    assert present >= {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 12 * MEGABYTE


def test_the_package_reads_it_out_as_the_mean_over_patches(encoder: Any) -> None:
    images = [one.pil for one in scenes(3)]
    model = vp.load_model("bundled:scenes-mae")
    found = model.encode([vp.VisualPrompt(image) for image in images]).embeddings
    expected = rows(encoder, images).mean(1)
    assert torch.allclose(found, expected, atol=1e-4)
    assert torch.equal(found, model.encode([vp.VisualPrompt(image) for image in images]).embeddings)


def test_shapes_can_be_read_from_its_patches(encoder: Any) -> None:
    """A ridge classifier on the patches of 250 images: which of the 8 shapes covers this patch? Chance is 1 in 8."""
    features, truth = [], []
    for split, n in (("train", 250), ("test", 100)):
        data = downstream("segment", split, count=n)
        found = rows(encoder, [data.image(i) for i in range(n)]).flatten(0, 1)
        tiles = np.stack([np.asarray(data.label(i)) for i in range(n)]).reshape(n, 8, 8, 8, 8).transpose(0, 1, 3, 2, 4)
        share = (tiles.reshape(-1, 64, 1) == np.arange(1, 9)).mean(axis=1)
        covered = share.max(axis=1) >= 0.3
        features.append(torch.cat([found, torch.ones(len(found), 1)], dim=1)[torch.from_numpy(covered)])
        truth.append(torch.from_numpy(share.argmax(axis=1)[covered]))
    targets = torch.nn.functional.one_hot(truth[0], 8).float()
    gram = features[0].T @ features[0] + 10.0 * torch.eye(features[0].shape[1])
    guess = (features[1] @ torch.linalg.solve(gram, features[0].T @ targets)).argmax(1)
    assert (guess == truth[1]).float().mean() >= 0.25
