"""The language of the bundled LVLM: vocabulary, tokenizer, chat template, and the encoding of questions as ids."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from visprompt.data.scenes.questions import ANSWERS, EXTREMES, PLURALS
from visprompt.data.scenes.world import COLOURS, SHAPES

PAD, UNK, BOS, EOS, USER, ASSISTANT, IMAGE = range(7)
SPECIAL = {
    "<pad>": PAD,
    "<unk>": UNK,
    "<bos>": BOS,
    "<eos>": EOS,
    "<user>": USER,
    "<assistant>": ASSISTANT,
    "<image>": IMAGE,
}
_ASKING = """
what which is are there a an the how many object objects thing things color colour shape small large
on at left right top bottom first of above below or and
"""
_WORDS = (
    *_ASKING.split(),
    *EXTREMES,
    *COLOURS,
    *SHAPES,
    *PLURALS.values(),
    *(answer for answers in ANSWERS.values() for answer in answers),
    *("?", ".", ",", ":"),
)
VOCABULARY = {**SPECIAL, **{word: i + len(SPECIAL) for i, word in enumerate(dict.fromkeys(_WORDS))}}
#: tokens of a question in a training step: its words, <assistant>, the answer; <eos> is only predicted
SLOT = 14
#: tokens before every question: <bos>, <user> and the 64 tokens of the image
N_IMAGE_TOKENS = 64
PREFIX = 2 + N_IMAGE_TOKENS
MAX_TOKENS = 1024

# Images come first, whatever their position in the message, as in training. System messages are left out, since the
# model would not understand them.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{{ '<user>' }}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- for part in message['content'] if part['type'] in ('image', 'image_url') %}{{ '<image>' }}{% endfor %}
{%- for part in message['content'] if part['type'] == 'text' %}{{ ' ' + part['text'] }}{% endfor %}
{%- endif %}
{%- elif message['role'] == 'assistant' %}{{ '<assistant>' }}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}
{%- for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}
{%- endif %}{{ eos_token }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"""


def words_of(text: str) -> list[str]:
    """Splits a text as the tokenizer does: words, and punctuation marks."""
    return text.lower().replace("?", " ?").split()


def encode(rng: np.random.Generator, question: str, answer: str, reword: bool = True) -> tuple[NDArray[np.int64], int]:
    """Encodes a question and its answer as one slot of ids.

    Args:
        rng: random generator for the wording.
        question: in the wording of `visprompt.data.scenes.questions`.
        answer: one word.
        reword: vary the wording at random, with an occasional unknown word.

    Returns:
        int64 ``(SLOT,)``, padded on the right, and the index of ``<assistant>`` in it; the answer is the next token.
    """
    words = words_of(question)
    if reword:
        if words[:2] == ["what", "colour"]:
            words[1] = ("colour", "colour", "color")[int(rng.integers(3))]
        if words[0] == "what" and rng.random() < 0.2:
            words[0] = "which"
        if rng.random() < 0.2:
            words = ["thing" if w == "object" else "things" if w == "objects" else w for w in words]
        if words[-1] == "?" and rng.random() < 0.15:
            words = words[:-1]
    ids = [VOCABULARY[word] for word in words]
    if reword and rng.random() < 0.05 and len(ids) < SLOT - 2:
        ids.insert(int(rng.integers(len(ids) + 1)), UNK)
    row = np.full(SLOT, PAD, dtype=np.int64)
    row[: len(ids) + 2] = [*ids, ASSISTANT, VOCABULARY[answer]]
    return row, len(ids)


def tokenizer() -> Any:
    """The fast tokenizer: lower case, one token per word, no tokens added."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=MAX_TOKENS,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        additional_special_tokens=["<user>", "<assistant>", "<image>"],
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        chat_template=CHAT_TEMPLATE,
    )
