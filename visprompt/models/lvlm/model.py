"""Vision-language models of transformers: a vision tower, a projector, and a decoder that generates text.

The layouts of image tokens are in `families`, questions and answers in `visprompt.models.chat`. This module turns a
batch of chats into one call of the model's own `generate`, inside the scopes of its edits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from cachetools import LRUCache
from PIL import Image
from torch import Tensor, nn

from visprompt.attention.backends import install_shim
from visprompt.attention.scope import Scope
from visprompt.attention.sites import Tower
from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.geometry.analytic import mean_rgb
from visprompt.geometry.fit import check_processable, fit_image
from visprompt.geometry.geometry import Geometry
from visprompt.models.base import Model, Parts
from visprompt.models.chat import Chat, Generation
from visprompt.models.lvlm.answer_likelihood import answer_ids, answer_log_probs
from visprompt.models.lvlm.decoder_tower import decoder_tower
from visprompt.models.lvlm.editing import editing, verify_decoder_once
from visprompt.models.lvlm.families import FAMILIES, Layout, LvlmFamily
from visprompt.models.lvlm.generation import answers_of, settings_of
from visprompt.models.lvlm.inputs import ChatInputs, prepare
from visprompt.models.lvlm.prompt_tokens import alike
from visprompt.models.lvlm.text import Pieces
from visprompt.models.lvlm.vision_tower import vision_tower
from visprompt.models.preprocessing import ImageReader, Processed, pixels_of
from visprompt.utils.renamed import renamed_parameters
from visprompt.visual_prompt import Fit, Rows, VisualPrompt, block_number

Size = tuple[int, int]


class LVLM(Model):
    """A vision-language model that visual prompts can be run on, made by `load_model` or `wrap`.

    Its towers are `"decoder"`, and `"vision"` if that can be edited. Patches are the image tokens that the decoder
    gets; `geometry(wh, tower="vision")` gives the vision tower's own patches.
    """

    generates = True

    def __init__(self, module: nn.Module, processor: Any, tokenizer: Any, name: str) -> None:
        self.processor = processor
        self.tokenizer: Any = tokenizer if tokenizer is not None else getattr(processor, "tokenizer", None)
        image_processor = getattr(processor, "image_processor", None)
        if image_processor is None or self.tokenizer is None:
            raise InvalidInputError(
                f"{type(module).__name__} needs its processor, which holds the image processor and the tokenizer: "
                "vp.wrap(module, transformers.AutoProcessor.from_pretrained(…))."
            )
        inner: Any = getattr(module, "_orig_mod", module)
        self.config: Any = inner.config
        self.family: LvlmFamily = FAMILIES[str(self.config.model_type)]
        self.vision_tower, self.vision_prefix, patch = vision_tower(inner, self.family)
        decoder = decoder_tower(inner, self.vision_tower)  # may raise, so it comes before the module is changed
        restore: list[Callable[[], None]] = []
        for owner, implementation in install_shim(module):
            restore.append(lambda o=owner, i=implementation: setattr(o, "_attn_implementation_internal", i))  # type: ignore[misc]

        reader = ImageReader(image_processor, Processed(image_processor), pixels_of, patch)
        parts = Parts(self._no_embeddings, reader, decoder, None, None, "transformers", restore)
        super().__init__(module, parts, name)
        self._layouts: LRUCache[tuple[Size, Fit, int], Layout] = LRUCache(maxsize=4096)
        self._verified_parts: set[str] = set()

    # -- description --------------------------------------------------------------------------------------------------

    @property
    def reader(self) -> ImageReader:
        """The reader with its image processor."""
        return self.parts.reader

    @property
    def supports(self) -> frozenset[str]:
        """Pixels, text and attention; prompt tokens if the vision tower takes them."""
        takes = self.vision_tower is not None and not self.vision_tower.no_tokens
        return frozenset({"pixels", "text", "attention", *(("tokens",) if takes else ())})

    def has_tower(self, name: str) -> bool:
        """Whether the model has a tower whose attention can be edited.

        Args:
            name: `"decoder"` or `"vision"`.

        Returns:
            True for the decoder, and for a known vision tower.
        """
        return name == "decoder" or (name == "vision" and self.vision_tower is not None)

    def _towers(self) -> Sequence[Tower]:
        return (self.tower,) if self.vision_tower is None else (self.tower, self.vision_tower)

    def tower_named(self, name: str) -> Tower:
        """Looks up a tower.

        Args:
            name: `"decoder"` or `"vision"`.

        Returns:
            The tower.

        Raises:
            UnsupportedError: for another name, and for a vision tower that cannot be edited.
        """
        if name == "decoder":
            return self.tower
        if name == "vision" and self.vision_tower is not None:
            return self.vision_tower
        hint = " (its vision tower is not known; edit the decoder)" if name == "vision" else ""
        raise UnsupportedError(f"{self.name} has no tower {name!r} that can be edited{hint}.", model=self)

    def geometry(self, image_wh: Size, fit: Fit = "model", tower: str = "decoder") -> Geometry:
        """The map between original pixels, tiles and image tokens for an image size.

        Args:
            image_wh: width and height of the image, pixels.
            fit: `"model"`: fitted by the processor; `"pad"` and `"squash"` make the image square first.
            tower: `"decoder"`: the tokens that the language model gets; `"vision"`: the vision tower's patches.

        Returns:
            The geometry.
        """
        return self._seen_by(tower, self.layout(image_wh, fit))

    def geometry_of(self, prompt: VisualPrompt, tower: str | None = None) -> Geometry:
        """The geometry of a prompt's image in its chat: several images, or the frames of a video, may be tiled and
        pooled differently from a single one.

        Args:
            prompt: the prompt, with its image, fit and index in the request.
            tower: `"decoder"` (None) or `"vision"`.

        Returns:
            The geometry.
        """
        number, count = prompt.place
        size, video = prompt.image.size, self.family.video_layout
        if video is not None and prompt.request is not None and prompt.request.video:
            found = video(self, size, count)[number // self.family.frames_per_group]
        else:
            found = self.layout(size, prompt.fit, count)
        return self._seen_by(tower or "decoder", found)

    def _seen_by(self, tower: str, layout: Layout) -> Geometry:
        if tower == "decoder":
            return layout.geometry
        self.tower_named(tower)
        if layout.vision is None:
            raise UnsupportedError(f"{self.name}: its vision tower cannot be edited for such an image.")
        return layout.vision

    @renamed_parameters(pictures="images")
    def layout(self, image_wh: Size, fit: Fit = "model", images: int = 1) -> Layout:
        """The layout of an image's tokens, cached.

        Args:
            image_wh: width and height of the image, pixels.
            fit: as in `geometry`.
            images: number of images in the chat.

        Returns:
            The layout.

        Raises:
            InvalidInputError: for an image that is too small or too long.
        """
        image_wh = (int(image_wh[0]), int(image_wh[1]))
        key = (image_wh, fit, min(images, 2))
        with self._lock:
            found = self._layouts.get(key)
        if found is None:
            check_processable(image_wh)
            if fit == "model":
                found = self.family.layout(self, image_wh, images)
            else:
                canvas, scale, offset = self.on_canvas(Image.new("RGB", image_wh), fit)
                found = self.family.layout(self, canvas.size, images).moved(image_wh, scale, offset)
            with self._lock:
                self._layouts[key] = found
        return found

    @renamed_parameters(picture="image")
    def on_canvas(self, image: Image.Image, fit: Fit) -> tuple[Image.Image, tuple[float, float], tuple[float, float]]:
        """Makes an image square, padded or squashed.

        Args:
            image: the image.
            fit: `"model"` leaves it unchanged.

        Returns:
            The square image, and scale and offset of the map from the image to it.
        """
        if fit == "model":
            return image, (1.0, 1.0), (0.0, 0.0)
        side = max(image.size)
        return fit_image(image, fit, (side, side), mean_rgb(self.reader.processor))

    # -- running it ---------------------------------------------------------------------------------------------------

    def generate(
        self,
        chats: Sequence[Chat],
        *,
        max_new_tokens: int = 64,
        read: Sequence[int] = (),
        read_rows: Rows = "answer",
        stream: Callable[[int, str], None] | None = None,
        **options: Any,
    ) -> list[Generation]:
        """Answers several chats in one batch, greedily unless the options set something else.

        Args:
            chats: n questions with their images and edits.
            max_new_tokens: longest answer, in tokens.
            read: decoder blocks whose attention over the image tokens is kept, for every token of the answer.
            read_rows: `"answer"`: the position that writes each token; `"readout"`: the mean over the question's tokens
                for the first step.
            stream: called with (index of the chat, new text) while the answers are generated.
            **options: arguments of the model's own `generate` (`do_sample`, `temperature`, `num_beams`, …).

        Returns:
            n answers, in order.

        Raises:
            InvalidInputError: for edits that do not fit the images or the model, or options that visprompt sets.
            UnsupportedError: for towers that cannot be edited, or take no prompt tokens.
            SiteNotReachedError: if a block with an edit never ran, or the processor makes another number of image
                tokens than expected.
        """
        self._check_open()
        chats = list(chats)
        if not chats:
            raise InvalidInputError("nothing to answer: the list of chats is empty.")
        settings = settings_of(self.module, self.tokenizer, max_new_tokens, bool(read), stream is not None, options)
        blocks = tuple(block_number(block, self.num_blocks) for block in read)
        found: dict[int, Generation] = {}
        for members in alike(chats):
            part = [chats[number] for number in members]
            inputs = prepare(self, part)
            own = dict(settings)
            if stream is not None:
                own["streamer"] = Pieces(self.tokenizer, len(part), inputs.length, _renumbered(stream, members))
            with torch.no_grad(), self._evaluating(), self.editing(part, inputs, blocks, read_rows) as decoder:
                output = self.module.generate(**inputs.tensors, **own)  # type: ignore[operator]
            found.update(zip(members, answers_of(self, part, inputs, output, decoder, blocks, own), strict=True))
        return [found[number] for number in range(len(chats))]

    def score(self, chats: Sequence[Chat], texts: Sequence[str]) -> Tensor:
        """The log-likelihood of texts as answers: the sum over a text's tokens, without the token that ends an answer.

        Args:
            chats: n questions, as in `generate`.
            texts: t answers to compare. Longer answers are less likely: compare answers of similar length.

        Returns:
            `[n, t]`, natural logarithm.

        Raises:
            InvalidInputError: for a text without a token; else as in `generate`.
        """
        self._check_open()
        chats = list(chats)
        if not chats:
            raise InvalidInputError("nothing to score: the list of chats is empty.")
        if not texts or not all(texts):
            raise InvalidInputError(f"texts is a list of one or more answers, none of them empty; got {list(texts)!r}.")
        answers = [answer_ids(self, text, ended=False) for text in texts]
        found: dict[int, Tensor] = {}
        for members in alike(chats):
            part = [chats[number] for number in members]
            inputs = prepare(self, part)
            with torch.no_grad():
                rows = [self._score_one(part, inputs, answer) for answer in answers]
            found.update(zip(members, torch.stack(rows, dim=1), strict=True))
        return torch.stack([found[number] for number in range(len(chats))])

    def _score_one(self, chats: Sequence[Chat], inputs: ChatInputs, answer: list[int]) -> Tensor:
        with self._evaluating(), self.editing(chats, inputs):
            return answer_log_probs(self, inputs, [answer] * len(chats)).log_likelihood.sum(-1)

    @contextmanager
    def editing(
        self, chats: Sequence[Chat], inputs: ChatInputs, read: tuple[int, ...] = (), read_rows: Rows = "answer"
    ) -> Iterator[Scope | None]:
        """Opens the scopes of a batch's edits, for `generate` or for your own forward and backward.

        Args:
            chats: the batch.
            inputs: its inputs, from `prepare`.
            read: decoder blocks whose attention is kept.
            read_rows: as in `generate`.

        Yields:
            The decoder's scope, which keeps what is read; None if the decoder is neither edited nor read.

        Raises:
            InvalidInputError: inside another such scope of this model, and for prompt tokens of several kinds, which
                must run one after the other.
            UnsupportedError: for prompt tokens in a compiled model.
        """
        with editing(self, chats, inputs, read, read_rows) as decoder:
            yield decoder

    # -- verification -------------------------------------------------------------------------------------------------

    def verify_sites(self, prompt: VisualPrompt | None = None) -> None:
        """Verifies the decoder's sites once, as `Model.verify_sites`, on a few tokens without an image.

        Args:
            prompt: not used.

        Raises:
            SiteNotReachedError: naming the sites without an effect.
        """
        verify_decoder_once(self)

    def once(self, what: str, check: Callable[[], None]) -> None:
        """Runs a check unless it has passed before.

        Args:
            what: name of the check.
            check: raises if there is no effect.
        """
        with self._lock:
            if what not in self._verified_parts:
                with torch.inference_mode(False), torch.enable_grad(), self._evaluating():
                    check()
                self._verified_parts.add(what)

    # -- not available ------------------------------------------------------------------------------------------------

    def _no_embeddings(self, inputs: dict[str, Tensor]) -> Tensor:
        raise UnsupportedError(
            f"{self.name} writes text and gives no image embedding: use generate, answer or attention. For embeddings "
            'load an encoder, e.g. "openai/clip-vit-base-patch16".'
        )

    def encode(self, prompts: Sequence[VisualPrompt], **options: Any) -> Any:
        """Not available: an LVLM has no embedding of an image.

        Raises:
            UnsupportedError: always.
        """
        return self._no_embeddings({})

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Not available: an LVLM has no embedding of a text.

        Raises:
            UnsupportedError: always.
        """
        return self._no_embeddings({})


def _renumbered(stream: Callable[[int, str], None], members: Sequence[int]) -> Callable[[int, str], None]:
    """A stream for some of the chats that gets their indices among all chats."""
    return lambda number, text: stream(members[number], text)
