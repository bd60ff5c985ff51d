"""The logits of CLIP-like models from image and text embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize


def contrastive_logits(model: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """Makes the function `exp(logit_scale) · cos + logit_bias`; only some models have a bias (SigLIP).

    Args:
        model: has `logit_scale`, and `logit_bias` if it uses one; both are read at every call.

    Returns:
        A function from `[n, d]` image and `[t, d]` text embeddings to `[n, t]` logits in float32.
    """

    def logits(images: Tensor, texts: Tensor) -> Tensor:
        cosine = normalize(images.float(), dim=-1) @ normalize(texts.float(), dim=-1).T
        scores = cosine * model.logit_scale.float().exp()
        bias = getattr(model, "logit_bias", None)
        return scores if bias is None else scores + bias.float()

    return logits
