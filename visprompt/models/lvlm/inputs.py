"""Converts chats to a batch of an LVLM's inputs and finds every image's tokens in it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from visprompt.errors import InvalidInputError, SiteNotReachedError, UnsupportedError
from visprompt.models.chat import Chat
from visprompt.models.lvlm.families import Layout
from visprompt.utils.renamed import renamed_attributes

if TYPE_CHECKING:
    from visprompt.models.lvlm.model import LVLM


@renamed_attributes(pictures="images")
@dataclass(frozen=True, eq=False)
class ChatInputs:
    """The inputs of a batch of n chats.

    Args:
        tensors: arguments of the model's forward, on its device.
        layouts: for every chat one layout per image (per group of frames, for a video).
        columns: `[n, P]` position of every patch's token in the padded prompt, −1 for none.
        images: bool `[n, T]`, True for image tokens.
        padding: bool `[n, T]`, True for padding tokens.
        vision_patches: for every image with a layout of the vision tower, the number of patches of each tile.
    """

    tensors: dict[str, Tensor]
    layouts: list[list[Layout]]
    columns: Tensor
    images: Tensor
    padding: Tensor
    vision_patches: list[list[int]]

    @property
    def length(self) -> int:
        """T, the number of tokens of the padded prompts."""
        return self.images.shape[1]


def prepare(model: LVLM, chats: Sequence[Chat]) -> ChatInputs:
    """Runs the model's processor over a batch of chats, padded on the left.

    Args:
        model: the LVLM.
        chats: n chats; all with images or all with videos.

    Returns:
        The inputs.

    Raises:
        UnsupportedError: for prompt tokens, in a model that takes none.
        InvalidInputError: for a question that contains an image token, or videos that cannot share a batch.
        SiteNotReachedError: if the processor makes another number of image tokens than the layout has.
    """
    for chat in chats:
        for prompt in chat.prompts:
            if prompt.tokens is not None:
                model.require(frozenset({"tokens"}), prompt.label)
        _require_plain(model, chat)
    texts = [chat_text(model, chat) for chat in chats]
    images = [[model.on_canvas(prompt.image, prompt.fit)[0] for prompt in chat.prompts] for chat in chats]
    as_video = [chat.video and model.family.video_layout is not None for chat in chats]
    if any(as_video) and not all(as_video):
        raise InvalidInputError("videos and images cannot be asked about in one batch: run them one after the other.")
    if all(as_video) and len({len(chat.prompts) for chat in chats}) > 1:
        # Some processors cannot stack them, others give a short video the number of frames of the longest.
        raise InvalidInputError("the videos of one batch all have the same number of frames: run others by themselves.")
    layouts = [_layouts(model, chat, video) for chat, video in zip(chats, as_video, strict=True)]
    inputs = _processed(model, texts, images, bool(as_video[0]))
    ids = inputs["input_ids"]
    _warn_if_long(model, ids.shape[1])
    token = image_token(model, bool(as_video[0]))
    most = max(sum(item.geometry.num_patches for item in group) for group in layouts)
    columns = torch.full((len(chats), most), -1, dtype=torch.long)
    is_image = ids == token
    for row, group in enumerate(layouts):
        found = is_image[row].nonzero().flatten()
        expected = sum(item.length for item in group)
        if len(found) != expected:
            raise SiteNotReachedError(
                f"{model.name}: the processor made {len(found)} image tokens of {chats[row].prompts[0].request!r}, "
                f"{expected} were expected: its settings are not the family's, and maps would lie in the wrong place."
            )
        first = start = 0
        for item in group:
            at = found[torch.as_tensor(item.patch_token_index) + first]
            columns[row, start : start + len(at)] = at
            first, start = first + item.length, start + len(at)
    mask = inputs.get("attention_mask", torch.ones_like(ids))
    towers = [item.vision for group in layouts for item in group if item.vision is not None]
    vision = [[tile.grid_hw[0] * tile.grid_hw[1] for tile in geometry.tiles] for geometry in towers]
    tensors = {
        name: item.to(model.device, model.dtype) if name.startswith("pixel_values") else item.to(model.device)
        for name, item in inputs.items()
        if isinstance(item, Tensor) and name != "labels"  # PaliGemma's processor makes labels for training
    }
    return ChatInputs(tensors, layouts, columns, is_image, mask == 0, vision)


def media_of(inputs: ChatInputs) -> dict[str, Tensor]:
    """Selects the inputs of the vision tower.

    Args:
        inputs: inputs of a batch.

    Returns:
        Tensors by name.
    """
    words = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
    return {name: item for name, item in inputs.tensors.items() if name not in words}


def chat_text(model: LVLM, chat: Chat) -> str:
    """Makes the whole prompt as text for the processor: the model's chat template around images and question.

    Args:
        model: the LVLM.
        chat: the chat.

    Returns:
        The text.

    Raises:
        UnsupportedError: without a chat template.
    """
    if model.family.prompt is not None:
        return model.family.prompt(model, len(chat.prompts), chat.text, chat.system)
    template = getattr(model.processor, "chat_template", None) or getattr(model.tokenizer, "chat_template", None)
    if not template:
        raise UnsupportedError(
            f"{model.name} has no chat template: give its processor one (processor.chat_template = …), so that "
            "questions are put to it the way it was trained."
        )
    video = chat.video and model.family.video_layout is not None
    images = [{"type": "video"}] if video else [{"type": "image"} for _ in chat.prompts]
    turns: list[dict[str, Any]] = []
    if chat.system:
        turns.append({"role": "system", "content": [{"type": "text", "text": chat.system}]})
    turns.append({"role": "user", "content": [*images, {"type": "text", "text": chat.text}]})
    return str(model.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))


def image_token(model: LVLM, video: bool = False) -> int:
    """The token that represents a part of an image, or of a video.

    Args:
        model: the LVLM.
        video: of a video.

    Returns:
        Its id.

    Raises:
        UnsupportedError: if the config names none.
    """
    config, kind = model.config, "video" if video else "image"
    # Some families write the frames of a video with the token of images.
    for name in (f"{kind}_token_id", f"{kind}_token_index", "image_token_id"):
        if getattr(config, name, None) is not None:
            return int(getattr(config, name))
    raise UnsupportedError(f"{model.name}: its config names no {kind} token.")


def _layouts(model: LVLM, chat: Chat, video: bool) -> list[Layout]:
    if video:
        sizes = {(prompt.image.size, prompt.fit) for prompt in chat.prompts}
        if len(sizes) != 1 or chat.prompts[0].fit != "model":
            raise InvalidInputError("the frames of a video all have one size, and no fit of their own.")
        assert model.family.video_layout is not None
        return model.family.video_layout(model, chat.prompts[0].image.size, len(chat.prompts))
    count = len(chat.prompts)
    return [model.layout(prompt.image.size, prompt.fit, count) for prompt in chat.prompts]


def _processed(model: LVLM, texts: list[str], images: list[list[Any]], video: bool) -> dict[str, Any]:
    media: dict[str, Any] = {"images": images}
    if video:
        media = {"videos": [_frames(frames) for frames in images], "do_sample_frames": False}
        media["video_metadata"] = [_timing(model, len(frames)) for frames in images]
    padded: dict[str, Any] = {}
    if len(texts) > 1:
        if getattr(model.tokenizer, "pad_token_id", None) is None:
            raise InvalidInputError(
                f"{model.name}'s tokenizer has no padding token, so it takes one request at a time: use "
                "batch_size=1, or set tokenizer.pad_token."
            )
        padded = {"padding": True, "padding_side": "left"}
    # Some templates write the start token themselves; the tokenizer must not add a second one.
    start = getattr(model.tokenizer, "bos_token", None)
    special = not (start and all(text.startswith(start) for text in texts))
    return dict(model.processor(text=texts, return_tensors="pt", add_special_tokens=special, **media, **padded))


def _require_plain(model: LVLM, chat: Chat) -> None:
    """Refuses texts that contain the token of an image: images are put before the question."""
    names = (getattr(model.processor, name, None) for name in ("image_token", "video_token", "boi_token"))
    for token in (name for name in names if isinstance(name, str) and name):
        if token in chat.text or token in (chat.system or ""):
            raise InvalidInputError(
                f"{chat.text!r:.80} holds {token!r}, which stands for an image: leave it out, the images are put in "
                "front of the question."
            )


def _warn_if_long(model: LVLM, length: int) -> None:
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(longest, int) and length > longest:
        warnings.warn(
            f"{model.name}: the prompt has {length} tokens, more than the {longest} that its decoder was made for: do "
            "not trust the answer. Ask with fewer or smaller images, or a shorter question.",
            UserWarning,
            stacklevel=3,
        )


def _frames(frames: list[Any]) -> Any:
    import numpy as np

    return np.stack([np.asarray(frame) for frame in frames])


def _timing(model: LVLM, frames: int) -> dict[str, Any]:
    """The times of the frames, which some models put into the prompt: at the rate at which the model's own processor
    samples videos, `processor.video_processor.fps` (2 per second if it has none).
    """
    rate = float(getattr(getattr(model.processor, "video_processor", None), "fps", None) or 2.0)
    return {"total_num_frames": frames, "fps": rate, "duration": frames / rate, "frames_indices": list(range(frames))}
