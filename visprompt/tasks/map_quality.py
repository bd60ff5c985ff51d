"""Map quality: the fraction of an attribution map's mass in the box of the object that a question is about.

It is computed for every block, next to the box's fraction of the image tokens, which a uniform map would have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visprompt.data.questions.question import Question
from visprompt.errors import InvalidInputError
from visprompt.tasks.base import Row

_Z95 = 1.959963984540054
_CHUNK = 64
_Shares = NDArray[np.float64]


def map_quality(
    model: Any,
    questions: Sequence[Question],
    auxiliaries: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> list[Row]:
    """Measures how much of each map lies in the box that the question is about.

    - `decoder`: attention of the positions that generate the answer, softmax over the image tokens, mean over heads and
    tokens (API's self-reflection before enhancement);
    - for every auxiliary encoder `Ψ_cls` and `1 − S` (raw maps of the strategy that has `heatmaps`), each rescaled to
    [0, 1], because the raw maps are signed; API continues with the rescaled maps.

    Args:
        model: an LVLM.
        questions: questions about exactly one object are used, others are left out.
        auxiliaries: names of text-image encoders, for `load_model`.
        progress: called with the number of questions finished since its last call, for every map source.

    Returns:
        Rows with `source`, `block`, `share` (fraction of the mass in the box), `ci95` (normal, over questions),
            `uniform` (the box's fraction of the tokens) and `n`.

    Raises:
        InvalidInputError: if no question is about exactly one object.
    """
    chosen = usable(questions)
    if not chosen:
        raise InvalidInputError("no question is about exactly one object, so no map can be held against its box.")
    rows: list[Row] = []
    found = {"decoder": _of_decoder(model, chosen, progress)}
    for name in auxiliaries:
        found.update(_of_encoder(name, chosen, progress))
    for source, (shares, uniform) in found.items():
        for block, values in enumerate(shares):
            rows.append(
                {"source": source, "block": block, **_summed(values), "uniform": round(float(uniform.mean()), 5)}
            )
    return rows


def usable(questions: Sequence[Question]) -> list[Question]:
    """Returns the questions about exactly one object."""
    return [question for question in questions if len(question.targets) == 1]


def _summed(values: _Shares) -> Row:
    mean = float(values.mean())
    half = _Z95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else float("nan")
    bounds = [round(mean - half, 5), round(mean + half, 5)] if math.isfinite(half) else None
    return {"share": round(mean, 5), "ci95": bounds, "n": len(values)}


def _of_decoder(model: Any, questions: Sequence[Question], progress: Any) -> tuple[_Shares, _Shares]:
    """Returns the fractions of mass in the box `[blocks, n]`, and the box's fractions of the image tokens `[n]`."""
    from visprompt.request import Request
    from visprompt.runner.runner import Runner

    runner = Runner(model, None, progress=False)
    blocks = range(model.num_blocks)
    shares, uniform = [], []
    for start in range(0, len(questions), _CHUNK):
        part = questions[start : start + _CHUNK]
        answers = runner.answer([Request(one.pil_images[0], query=one.text, id=one.id) for one in part], blocks=blocks)
        for question, answer in zip(part, answers, strict=True):
            (looked,) = answer.maps
            cover = looked.geometry.coverage(question.targets[0])
            values = looked.values.double().numpy()  # [B, H, P]
            values = values / np.maximum(values.sum(axis=-1, keepdims=True), 1e-30)
            shares.append((values * cover).sum(axis=-1).mean(axis=-1))
            uniform.append(float(cover.mean()))
        if progress:
            progress(len(part))
    return np.array(shares).T, np.array(uniform)


def _of_encoder(name: str, questions: Sequence[Question], progress: Any) -> dict[str, tuple[_Shares, _Shares]]:
    from visprompt.models import load_model
    from visprompt.prompter import make_prompter
    from visprompt.registry import first_strategy
    from visprompt.request import Request

    encoder = load_model(name)
    strategy = first_strategy(lambda kind: "map" in kind.needs and hasattr(kind, "heatmaps"))
    short = name.rpartition(":")[2].rpartition("/")[2]
    prompts = [Request(one.pil_images[0], query=one.text, id=one.id).units()[0] for one in questions]
    cls: list[_Shares] = []
    comp: list[_Shares] = []
    uniform = np.zeros(len(questions))
    for block in range(encoder.num_blocks):
        prompter: Any = make_prompter(strategy, block=block)
        raw = []
        for start in range(0, len(prompts), _CHUNK):
            raw += [one.raw for one in prompter.heatmaps(prompts[start : start + _CHUNK], encoder)]
        covers = [one.geometry.coverage(question.targets[0]) for one, question in zip(raw, questions, strict=True)]
        uniform = np.array([float(cover.mean()) for cover in covers])
        cls.append(np.array([_share(one.cls, cover) for one, cover in zip(raw, covers, strict=True)]))
        comp.append(np.array([_share(-one.comp, cover) for one, cover in zip(raw, covers, strict=True)]))
    if progress:
        progress(len(questions))
    return {f"{short} Ψ_cls": (np.array(cls), uniform), f"{short} 1 − S": (np.array(comp), uniform)}


def _share(values: NDArray[Any], cover: NDArray[Any]) -> float:
    """Returns the fraction of a signed map's mass in the box after rescaling to [0, 1].

    A constant map gets the box's fraction of the tokens.
    """
    stretched = values.astype(np.float64) - float(values.min())
    total = float(stretched.sum())
    return float((stretched * cover).sum()) / total if total > 0 else float(cover.mean())
