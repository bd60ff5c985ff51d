"""Checks the options of `generate`, and finds where its answers end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from visprompt.attention.scope import Scope
from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.models.chat import Chat, Generation
from visprompt.models.lvlm.inputs import ChatInputs
from visprompt.models.lvlm.text import pieces_of

if TYPE_CHECKING:
    from visprompt.models.lvlm.model import LVLM

#: options of `generate` that visprompt sets itself
_OURS = ("input_ids", "attention_mask", "inputs_embeds", "output_attentions", "streamer", "return_dict_in_generate")
#: options of assisted decoding, which writes drafts and discards them, in steps that edits and maps cannot follow
_DRAFTS = ("assistant_model", "assistant_early_exit", "prompt_lookup_num_tokens")


def settings_of(
    module: Any, tokenizer: Any, max_new_tokens: Any, reads: bool, streams: bool, options: dict[str, Any]
) -> dict[str, Any]:
    """Checks and completes the options of the model's own `generate`: greedy unless they, or a `generation_config`
    among them, set something else.

    Args:
        module: the model's module.
        tokenizer: its tokenizer.
        max_new_tokens: longest answer, in tokens.
        reads: attention is read.
        streams: the answer is streamed.
        options: the caller's options.

    Returns:
        Options for `generate`.

    Raises:
        InvalidInputError: for options that visprompt sets itself.
        UnsupportedError: for ways of decoding that edits, maps or streams cannot follow.
    """
    if not isinstance(max_new_tokens, int) or isinstance(max_new_tokens, bool) or max_new_tokens < 1:
        raise InvalidInputError(f"max_new_tokens is a positive number; got {max_new_tokens!r}.")
    settings = dict(options)
    config = settings.pop("generation_config", None)
    if config is not None:  # only options that it sets: the others are the model's own, as in transformers
        given = {name: item for name, item in config.to_diff_dict().items() if item is not None and name[0] != "_"}
        given.pop("transformers_version", None)
        if given.pop("max_new_tokens", max_new_tokens) != max_new_tokens:
            raise InvalidInputError("max_new_tokens is an argument: give it next to the generation_config.")
        settings = {**given, **settings}
    for name in _OURS:
        if name in settings:
            raise InvalidInputError(f"{name} is set by visprompt; maps come with read=[block, …].")
    if settings.get("max_length") is not None:
        raise InvalidInputError("max_length counts the prompt with its images: give max_new_tokens instead.")

    def effective(name: str) -> Any:
        return settings.get(name, getattr(module.generation_config, name, None))

    for name in _DRAFTS:
        if effective(name):
            raise UnsupportedError(f"{name}: answers are written token by token here, without a draft; leave it out.")
    if effective("guidance_scale") not in (None, 1):
        raise UnsupportedError(
            "guidance_scale runs the decoder a second time without the images, where edits and maps have no place; "
            "leave it out."
        )
    if (effective("num_return_sequences") or 1) > 1:
        raise UnsupportedError("num_return_sequences: a chat gets one answer; ask it several times for more.")
    if (effective("num_beams") or 1) > 1 and (reads or streams):
        what = "maps are read while one answer is" if reads else "a stream shows one answer as it is"
        raise UnsupportedError(f"{what} written: use num_beams=1.")
    if not settings.setdefault("do_sample", False):
        for name in ("temperature", "top_p", "top_k"):  # checkpoints set them, and greedy decoding warns about them
            settings.setdefault(name, None)
    if effective("stop_strings"):
        settings.setdefault("tokenizer", tokenizer)
    return {"max_new_tokens": max_new_tokens, **settings}


def end_ids(module: Any, tokenizer: Any, settings: dict[str, Any]) -> set[int]:
    """The tokens that end an answer.

    Args:
        module: the model's module.
        tokenizer: its tokenizer.
        settings: options of `generate`.

    Returns:
        Token ids.
    """
    found = settings.get("eos_token_id", getattr(module.generation_config, "eos_token_id", None))
    found = tokenizer.eos_token_id if found is None else found
    ends = set(found if isinstance(found, list | tuple) else [found])
    return {int(item) for item in ends if item is not None}


def pad_id(module: Any, settings: dict[str, Any]) -> int | None:
    """The token that pads answers which were ended by a stop string or criterion instead of a token.

    Args:
        module: the model's module.
        settings: options of `generate`.

    Returns:
        Its id; None if only tokens end answers, so that a padding token in an answer was written by the model.
    """
    if not any(settings.get(name) for name in ("tokenizer", "stopping_criteria")):
        return None
    found = settings.get("pad_token_id", getattr(module.generation_config, "pad_token_id", None))
    return None if found is None else int(found)


def answer_in(row: Sequence[int], ends: set[int], pad: int | None, longest: int) -> tuple[list[int], int, bool]:
    """Finds one answer in its row of a padded batch.

    >>> answer_in([7, 8, 2, 0], {2}, 0, 4), answer_in([7, 8, 0, 0], {2}, 0, 4), answer_in([7, 8], {2}, 0, 2)
    (([7, 8], 3, True), ([7, 8], 2, True), ([7, 8], 2, False))

    Args:
        row: token ids.
        ends: ids that end an answer.
        pad: see `pad_id`.
        longest: `max_new_tokens`.

    Returns:
        (its tokens without the one that ended it, number of decoding steps, whether it ended before the limit)
    """
    for index, token in enumerate(row):
        if token in ends or (token == pad and not any(item != pad for item in row[index:])):
            return list(row[:index]), index + (token in ends), True
    return list(row), len(row), len(row) < longest


def answers_of(
    model: LVLM,
    chats: Sequence[Chat],
    inputs: ChatInputs,
    output: Any,
    scope: Scope | None,
    blocks: tuple[int, ...],
    settings: dict[str, Any],
) -> list[Generation]:
    """Makes the answers of one batch, with the decoder's attention while they were generated.

    Args:
        model: the LVLM.
        chats: the batch.
        inputs: its inputs.
        output: the result of the model's own `generate`.
        scope: the decoder's scope, or None.
        blocks: decoder blocks that were read.
        settings: options of `generate`.

    Returns:
        One answer per chat.
    """
    tokens = output if isinstance(output, Tensor) else output.sequences
    tokens = tokens[:, inputs.length :].cpu()
    ends, longest = end_ids(model.module, model.tokenizer, settings), settings["max_new_tokens"]
    pad = pad_id(model.module, settings)
    maps = _maps(model, scope, blocks) if scope is not None and blocks else None
    answers = []
    for number, layouts in enumerate(inputs.layouts):
        written, steps, ended = answer_in(tokens[number].tolist(), ends, pad, longest)
        attention: list[Tensor] = []
        if maps is not None:
            start = 0
            for layout in layouts:
                count = layout.geometry.num_patches
                attention.append(maps[number, : min(steps, maps.shape[1]), :, :, start : start + count].clone())
                start += count
        text = model.tokenizer.decode(written, skip_special_tokens=True).strip()
        pieces, seen = pieces_of(model.tokenizer, written), tuple(item.geometry for item in layouts)
        answers.append(Generation(text, pieces, blocks, tuple(attention), seen, ended))
    return answers


def _maps(model: LVLM, scope: Scope, blocks: tuple[int, ...]) -> Tensor:
    """The attention `[n, T, B, H, P]` on the CPU; several rows of one step are averaged."""
    per_block = []
    for block in blocks:
        steps = [item.mean(dim=2) for item in scope.steps[model.tower.sites[block]]]
        per_block.append(torch.stack(steps, dim=1).float().cpu())
    return torch.stack(per_block, dim=2)
