"""What all tests share: no network, one thread, tiny models built once per process, and a few images."""

from __future__ import annotations

import os

# Before anything imports a hub client: a test that needs the network is a wrong test.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
from PIL import Image

#: packages of their own, which their tests install; their examples run only there
collect_ignore = ["plugin_example", "plugin_0_4_0"]


@pytest.fixture(autouse=True, scope="session")
def _one_thread_per_worker() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def image() -> Image.Image:
    """A landscape image of smooth colour with some noise, 120×80."""
    generator = np.random.default_rng(0)
    ramp = np.linspace(0, 200, 120)[None, :, None] + np.linspace(0, 40, 80)[:, None, None]
    pixels = ramp + generator.normal(0, 8, (80, 120, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
