"""Conformance checks that every strategy must pass on every LVLM: `conformance` for models that generate text.

| check | holds when |
|---|---|
| `check_support` | it runs, or refuses with an error that names strategies that do run |
| `check_effect` | it moves the logits of the answer's first token |
| `check_neutral` | at its neutral setting those logits equal the plain model's, bit for bit |
| `check_leaves_no_trace` | the model is bit for bit as before: after a run, and after a crash in the middle of one |
"""

from __future__ import annotations

import functools
import re
from typing import Any

import torch

import visprompt as vp
from visprompt.models.chat import Chat
from visprompt.models.lvlm.inputs import prepare
from visprompt.registry import get_class
from visprompt.testing.conformance import image, neutral_options, prompter_of, ready, without
from visprompt.testing.tiny_lvlm import TinyLvlm, tiny_lvlm
from visprompt.testing.watching import Crash, crashing, differences, snapshot

QUESTION = "what is the red star on the left of the dog"


def request() -> vp.Request:
    """One wide image with a region and a question."""
    return vp.Request(image((96, 64)), region=vp.Box(20, 12, 60, 50), query=QUESTION)


@functools.cache
def wrapped(model_name: str) -> tuple[TinyLvlm, Any]:
    """A tiny LVLM and its wrapped form, created once per process."""
    made = tiny_lvlm(model_name)
    return made, vp.wrap(made.module, made.processor, name=model_name)


def first_logits(model: Any, prompter: vp.Prompter | None) -> torch.Tensor:
    """The logits of the first token of the answer, `[V]`.

    Args:
        model: a wrapped LVLM.
        prompter: the strategy; None: without a prompt.
    """
    asked = request()
    prompts = asked.units() if prompter is None else prompter.prompt(asked, model)
    chats = [Chat((prompts[0],), QUESTION)]
    inputs = prepare(model, chats)
    with torch.no_grad(), model.editing(chats, inputs):
        return model.module(**inputs.tensors).logits[0, -1]


def expected_support(strategy: str, model_name: str) -> bool:
    """Whether a strategy should run on a tiny LVLM.

    All do, except strategies that edit the vision tower where it cannot be edited, and prompt tokens where the tower
    packs its images into one sequence.
    """
    made, _ = wrapped(model_name)
    kind = get_class(strategy)
    if "tokens" in kind.acts_on and model_name.startswith("qwen"):
        return False
    return made.vision_edits or "vision" not in kind.needs


def check_support(strategy: str, model_name: str) -> str:
    """The strategy runs, or is refused with an error that names strategies that work on the model.

    Returns:
        `"supported"` or `"refused"`.

    Raises:
        AssertionError: if it should run and does not, or if the error names no strategy or one that does not work.
    """
    _, model = wrapped(model_name)
    try:
        (text,) = vp.Runner(model, ready(prompter_of(strategy), model)).generate(request(), max_new_tokens=2)
    except vp.UnsupportedError as error:
        refusal = str(error)
        assert not expected_support(strategy, model_name), f"it should run: {refusal}"
        named = [info.name for info in vp.list_strategies() if re.search(rf"\b{re.escape(info.name)}\b", refusal)]
        works = [name for name in named if name != strategy]
        assert works, f"the error names no strategy that works instead: {refusal}"
        for name in works:
            assert expected_support(name, model_name), f"the error recommends {name}, which does not work"
        return "refused"
    assert isinstance(text, str)
    return "supported"


def check_effect(strategy: str, model_name: str) -> None:
    """The strategy changes the logits of the answer's first token."""
    _, model = wrapped(model_name)
    plain, prompted = first_logits(model, without(strategy)), first_logits(model, ready(prompter_of(strategy), model))
    assert not torch.equal(plain, prompted), "it changes nothing"


def check_neutral(strategy: str, model_name: str) -> None:
    """With its neutral options the strategy gives the plain model's logits, bit for bit."""
    options = neutral_options(strategy)
    assert options is not None, f"{strategy} declares no `neutral` options"
    _, model = wrapped(model_name)
    assert torch.equal(
        first_logits(model, without(strategy)), first_logits(model, ready(prompter_of(strategy, **options), model))
    )


def check_leaves_no_trace(strategy: str, model_name: str) -> None:
    """The model is bit-identical before and after a normal run and an error in the middle of a forward.

    Raises:
        AssertionError: naming the run and what it changed.
    """
    made, model = wrapped(model_name)
    before, state = first_logits(model, None), snapshot(made.module)
    runner = vp.Runner(model, ready(prompter_of(strategy), model))

    def run_normally() -> None:
        runner.generate(request(), max_new_tokens=2)

    def run_into_a_crash() -> None:
        with crashing(model.tower.blocks[len(model.tower.blocks) // 2]):
            try:
                runner.generate(request(), max_new_tokens=2)
            except Crash:
                return
        raise AssertionError("the model's own error was swallowed, or the model never ran")

    for what in (run_normally, run_into_a_crash):
        what()
        changed = differences(state, snapshot(made.module))
        assert not changed, f"{what.__name__} leaves behind: {changed}"
        assert torch.equal(before, first_logits(model, None)), f"{what.__name__} changes later results"
