"""The likelihood of given answers, token by token, with gradients, for prompts of any length.

An answer's tokens follow the prompt as the model itself would have written them: without special tokens, except for the
one that ends an answer, if wanted.
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
    """Log-probabilities of n given answers of at most T tokens.

    Args:
        log_likelihood: `[n, T]` float32: natural logarithm of every token's probability given those before it; 0 after
            an answer's end.
        first_choice: bool `[n, T]`: the token is the most likely one; True after an answer's end. If this holds for all
            tokens, including the one that ends the answer, greedy decoding writes it.
        counted: bool `[n, T]`: the token belongs to the answer.
    """

    log_likelihood: Tensor
    first_choice: Tensor
    counted: Tensor


def answer_ids(model: LVLM, text: str, ended: bool) -> list[int]:
    """Tokenizes an answer.

    Args:
        model: the model with the tokenizer.
        text: the answer.
        ended: append the token that ends an answer.

    Returns:
        Token ids.

    Raises:
        InvalidInputError: for an answer without tokens.
    """
    ids = [int(item) for item in model.tokenizer(text, add_special_tokens=False)["input_ids"]]
    if not ids:
        raise InvalidInputError(f"an answer is a text of one or more tokens; got {text!r}.")
    return ids + ending(model) if ended else ids


def ending(model: LVLM) -> list[int]:
    """The token with which the model ends an answer: that of its chat template, or else its tokenizer's.

    Args:
        model: the model.

    Returns:
        One token id; none if the model has no such token.
    """
    ends = end_ids(model.module, model.tokenizer, {})
    ending_ids = model.tokenizer(_template_ending(model), add_special_tokens=False)["input_ids"]
    own = model.tokenizer.eos_token_id
    found = [int(item) for item in (*ending_ids, own) if item in ends]
    return found[:1] or sorted(ends)[:1]


def _template_ending(model: LVLM) -> str:
    """The text that the chat template puts after an answer; empty without a template."""
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
        answers: token ids of n answers, of any lengths.

    Returns:
        Log-probabilities, with gradients.

    Raises:
        InvalidInputError: if there are not as many answers as prompts.
    """
    if len(answers) != len(inputs.layouts) or not all(answers):
        raise InvalidInputError(f"{len(answers)} answers to {len(inputs.layouts)} questions: give one each.")
    longest = max(map(len, answers))
    # An answer is padded with its own first token, which is in the vocabulary and is no image token.
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
