"""The language of the bundled CLIP models: captions of scenes, their wording, and the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from visprompt.data.scenes.world import COLOURS, POSITIONS, SHAPES

MAX_TOKENS = 24
# Longest caption in training; further positions exist so that longer texts do not fail.
TRAINED_TOKENS = 16
# "eos" must not be 2: for transformers this identifies old checkpoints, whose texts are pooled at the largest id.
PAD, UNK, BOS, EOS = 0, 1, 3, 4
SPECIAL = {"<pad>": PAD, "<unk>": UNK, "<mask>": 2, "<bos>": BOS, "<eos>": EOS}
_FUNCTION_WORDS = (
    "a",
    "an",
    "the",
    "photo",
    "picture",
    "image",
    "of",
    "is",
    "there",
    "with",
    "object",
    "thing",
    "shape",
    "something",
    "on",
    "at",
    "in",
    "to",
    "side",
)
WORDS: tuple[str, ...] = (*_FUNCTION_WORDS, *POSITIONS, *COLOURS, *SHAPES)
VOCABULARY: dict[str, int] = {**SPECIAL, **{word: i + len(SPECIAL) for i, word in enumerate(WORDS)}}
ANY = -1

_FRAMES = (
    "{}",
    "a {}",
    "the {}",
    "a photo of a {}",
    "a photo of the {}",
    "a photo of {}",
    "a picture of a {}",
    "an image of the {}",
)
_NOUNS = ("object", "thing", "shape")
_PLACES = {
    "left": ("on the left", "on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right", "on the right side", "at the right"),
    "top": ("at the top", "at the top", "on the top", "on top"),
    "bottom": ("at the bottom", "at the bottom", "on the bottom", "at the bottom side"),
}


@dataclass(frozen=True)
class CaptionSet:
    """All captions, as arrays of (colour, shape, position) numbers; -1 leaves one out.

    Args:
        pairs: colour and shape, ``(64, 3)``.
        placed: colour, shape and position, ``(256, 3)``.
        single: colour or shape, ``(16, 3)``.
    """

    pairs: NDArray[np.int64]
    placed: NDArray[np.int64]
    single: NDArray[np.int64]


def every_caption() -> CaptionSet:
    """All 64 pairs, 256 pairs with a position (four lines per pair) and 16 single attributes."""
    pairs = [(c, s, ANY) for c in range(8) for s in range(8)]
    placed = [(c, s, p) for c, s, _ in pairs for p in range(4)]
    single = [(c, ANY, ANY) for c in range(8)] + [(ANY, s, ANY) for s in range(8)]
    return CaptionSet(np.array(pairs), np.array(placed), np.array(single))


def wording(rng: np.random.Generator, colour: int, shape: int, position: int) -> str:
    """A caption in words, with random wording.

    Args:
        rng: random generator.
        colour: number of the colour, or -1.
        shape: number of the shape, or -1.
        position: number of the position, or -1.
    """
    noun = SHAPES[shape] if shape != ANY else _NOUNS[int(rng.integers(3))]
    words = f"{COLOURS[colour]} {noun}" if colour != ANY else noun
    if position != ANY:
        name = tuple(POSITIONS)[position]
        phrases = _PLACES[name]
        words = f"{name} {words}" if rng.random() < 0.1 else f"{words} {phrases[int(rng.integers(len(phrases)))]}"
    return _FRAMES[int(rng.integers(len(_FRAMES)))].format(words)


def encode(rng: np.random.Generator, text: str) -> NDArray[np.int64]:
    """Encodes a caption as ids, sometimes with an unknown word, so that the model learns to ignore these.

    Args:
        rng: random generator.
        text: the caption.

    Returns:
        int64 ``(TRAINED_TOKENS,)``, padded on the right.
    """
    ids = [VOCABULARY[word] for word in text.split()]
    while rng.random() < 0.08 and len(ids) < TRAINED_TOKENS - 2:
        ids.insert(int(rng.integers(len(ids) + 1)), UNK)
    row = np.full(TRAINED_TOKENS, PAD, dtype=np.int64)
    row[: len(ids) + 2] = [BOS, *ids, EOS]
    return row


def tokenizer() -> Any:
    """The fast tokenizer: lower case, one token per word, ``<bos> … <eos>``."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=MAX_TOKENS,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
    )
