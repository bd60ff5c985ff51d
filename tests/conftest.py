"""What all tests share: no network, one thread, tiny models built once per process, and a few images."""

from __future__ import annotations

import os

# Before anything imports a hub client: a test that needs the network is a wrong test.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    import visprompt as vp

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


@pytest.fixture(scope="module")
def clip() -> vp.Model:
    """A tiny CLIP, made anew for every module: 64 px, patches of 8, a grid of 8 × 8, centre crop."""
    from helpers import wrapped_tiny

    return wrapped_tiny("transformers-clip")


@pytest.fixture(scope="module")
def llava() -> Any:
    """A tiny LLaVA, made anew for every module."""
    import visprompt as vp
    from visprompt.testing.tiny_lvlm import tiny_lvlm

    made = tiny_lvlm("llava")
    return vp.wrap(made.module, made.processor)
