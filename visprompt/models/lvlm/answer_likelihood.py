"""How likely answers are that somebody else has written: token by token, with gradients, behind prompts of any length.

Answers stand right behind the prompt as the model itself would have written them: without special tokens, the one that
ends an answer excepted where it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from visprompt.errors import InvalidInputError
from visprompt.models.lvlm.generation import end_ids
from visprompt.utils.renamed import renamed_names

if TYPE_CHECKING:
    from visprompt.models.lvlm.inputs import ChatInputs
    from visprompt.models.lvlm.model import LVLM


@dataclass(frozen=True, eq=False)
class AnswerLogProbs:
    """What a model says to given answers, for the tokens of n answers of at most T tokens.

    Args:
        log_likelihood: `[n, T]` natural logarithm of every token's probability behind those before it, float32; 0
            behind an answer's end.
        first_choice: bool `[n, T]`: no other token was more likely; True behind an answer's end. An answer whose tokens
            all are, the one that ends it among them, is what greedy decoding writes.
        counted: bool `[n, T]`: tokens of the answers.
    """

    log_likelihood: Tensor
    first_choice: Tensor
    counted: Tensor


def answer_ids(model: LVLM, text: str, ended: bool) -> list[int]:
    """The tokens of an answer.

    Args:
        model: whose tokenizer.
        text: the answer.
        ended: with the token that ends an answer.

    Raises:
        InvalidInputError: for an answer without tokens.
    """
    ids = [int(item) for item in model.tokenizer(text, add_special_tokens=False)["input_ids"]]
    if not ids:
        raise InvalidInputError(f"an answer is a text of one or more tokens; got {text!r}.")
    return ids + ending(model) if ended else ids


def ending(model: LVLM) -> list[int]:
    """The token with which the model ends an answer: the one of its chat template, or else its tokenizer's; none for a
    model that knows none.
    """
    ends = end_ids(model.module, model.tokenizer, {})
    behind = model.tokenizer(_behind_an_answer(model), add_special_tokens=False)["input_ids"]
    own = model.tokenizer.eos_token_id
    found = [int(item) for item in (*behind, own) if item in ends]
    return found[:1] or sorted(ends)[:1]


def _behind_an_answer(model: LVLM) -> str:
    """What the chat template writes behind an answer; nothing without a template."""
    template = getattr(model.processor, "chat_template", None) or getattr(model.tokenizer, "chat_template", None)
    if not template or model.family.prompt is not None:
        return ""
    marker = "visprompt"
    turns = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", "question"), ("assistant", marker))
    ]
    return str(model.processor.apply_chat_template(turns, tokenize=False)).rpartition(marker)[2]


def answer_log_probs(model: LVLM, inputs: ChatInputs, answers: Sequence[Sequence[int]]) -> AnswerLogProbs:
    """Runs the model once over prompts and answers; call it inside `model.editing(chats, inputs)`.

    Args:
        model: the LVLM.
        inputs: n prompts, from `prepare`.
        answers: the tokens of n answers, of any lengths.

    Raises:
        InvalidInputError: if there are not as many answers as prompts.
    """
    if len(answers) != len(inputs.layouts) or not all(answers):
        raise InvalidInputError(f"{len(answers)} answers to {len(inputs.layouts)} questions: give one each.")
    longest = max(map(len, answers))
    # Padding is written with a token of the answer: every vocabulary has it, and it is no image's.
    rows = [[*answer, *answer[:1] * (longest - len(answer))] for answer in map(list, answers)]
    tail = torch.tensor(rows, device=model.device)
    lengths = torch.tensor([len(answer) for answer in answers], device=model.device)
    counted = torch.arange(longest, device=model.device) < lengths[:, None]
    tensors = dict(inputs.tensors)
    kinds = {"input_ids": tail, "attention_mask": counted.to(tensors["attention_mask"].dtype)}
    for name, kind in (("token_type_ids", model.family.answer_type), ("mm_token_type_ids", 0)):
        if name in tensors:
            kinds[name] = torch.full_like(tail, kind)
    for name, item in kinds.items():
        tensors[name] = torch.cat((tensors[name], item), dim=1)
    output = model.module(**tensors, logits_to_keep=longest + 1, use_cache=False)
    logits = output.logits[:, :-1].float()
    likelihood = logits.log_softmax(-1).gather(-1, tail[..., None])[..., 0]
    return AnswerLogProbs(likelihood.masked_fill(~counted, 0.0), (logits.argmax(-1) == tail) | ~counted, counted)


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"tell": "answer_log_probs", "Told": "AnswerLogProbs"}, globals())
