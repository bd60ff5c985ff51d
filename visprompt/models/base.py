"""A wrapped model: it takes `VisualPrompt`s and gives embeddings, logits and attention.

Backends (transformers, open_clip, timm) supply the attention sites and the call of the model; everything that prompts
need (sharing, edits, checks, references) is independent of the backend.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from visprompt.attention.compiled import CompiledCheck
from visprompt.attention.prompt_tokens import Insertion
from visprompt.attention.sites import ReadRows, Tower
from visprompt.errors import UnsupportedError
from visprompt.models.chat import Chat, Generation
from visprompt.models.description import ModelDescription
from visprompt.models.encoder_run import Kept, check_prompts, prompting, run_in_order
from visprompt.models.encoding import Encoding
from visprompt.models.parts import Parts
from visprompt.models.preprocessing import ImagePixels
from visprompt.models.site_checks import verify_prompt_tokens, verify_sites
from visprompt.utils.renamed import renamed_attributes
from visprompt.visual_prompt import VisualPrompt

__all__ = ["Model", "Parts"]


@renamed_attributes(prove="verify_sites")
class Model(ModelDescription):
    """A model that visual prompts can be run on, made by `load_model` or `wrap`.

    The module's weights, buffers, mode and outputs stay unchanged; `unwrap()` returns it with its configs restored.
    """

    def __init__(self, module: nn.Module, parts: Parts, name: str) -> None:
        self.module, self.parts, self.name = module, parts, name
        self._verified = self._verified_tokens = False
        self._lock = threading.RLock()
        self._wrapped = True
        self._compiled = CompiledCheck()

    def unwrap(self) -> nn.Module:
        """Restores the module's configs and returns it; this wrapper cannot be used afterwards.

        Returns:
            The module.
        """
        with self._lock:
            while self.parts.restore:
                self.parts.restore.pop()()
            self._wrapped = False
        return self.module

    # -- running it ---------------------------------------------------------------------------------------------------

    def generate(
        self,
        chats: Sequence[Chat],
        *,
        max_new_tokens: int = 64,
        read: Sequence[int] = (),
        stream: Callable[[int, str], None] | None = None,
        **options: Any,
    ) -> list[Generation]:
        """Generates answers to questions about images; encoders cannot.

        Args:
            chats: n questions with their images.
            max_new_tokens: longest answer, in tokens.
            read: decoder blocks whose attention is kept.
            stream: called with (index of the chat, new text) while the answers are generated.
            **options: arguments of the model's own `generate`.

        Returns:
            n answers.

        Raises:
            UnsupportedError: if the model writes no text.
        """
        raise UnsupportedError(f"{self.name} is an encoder and writes no text: use encode, score or attention.")

    def score(self, chats: Sequence[Chat], texts: Sequence[str]) -> Tensor:
        """Scores answers to questions about images; encoders score with embeddings and `logits`.

        Args:
            chats: n questions with their images.
            texts: t answers.

        Returns:
            `[n, t]` log-likelihoods.

        Raises:
            UnsupportedError: if the model writes no text, or gives no likelihoods.
        """
        raise UnsupportedError(f"{self.name} does not tell how likely an answer is.")

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Embeds texts.

        Args:
            texts: t texts.

        Returns:
            `[t, d]` embeddings, not normalised.

        Raises:
            UnsupportedError: if it has no text tower.
        """
        if self.parts.embed_text is None:
            raise UnsupportedError(
                f"{self.name} has no text tower, so texts cannot be scored: use encode(), or a CLIP-like model."
            )
        self._check_open()
        return self.parts.embed_text(list(texts))

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """Scores image embeddings against text embeddings, as the model defines it (scale, bias).

        Args:
            images: `[n, d]`.
            texts: `[t, d]`.

        Returns:
            `[n, t]`.

        Raises:
            UnsupportedError: if it has no text tower.
        """
        if self.parts.logits is None:
            raise UnsupportedError(f"{self.name} has no text tower, so texts cannot be scored.")
        return self.parts.logits(images, texts)

    def encode(
        self,
        prompts: Sequence[VisualPrompt],
        *,
        read: Sequence[int] = (),
        decompose: Sequence[int] = (),
        share_prefix: bool = True,
        cache: ImagePixels | None = None,
        read_rows: ReadRows = "readout",
        features: bool = False,
    ) -> Encoding:
        """Runs prompts through the image tower.

        Args:
            prompts: n prompts; those on one image should follow one another. Those that differ only in attention edits
                share the blocks before the first edit.
            read: blocks whose attention is kept (after the edits).
            decompose: blocks whose readout row is decomposed into its keys' contributions.
            share_prefix: False: every prompt runs all blocks.
            cache: caches the inputs of images.
            read_rows: the rows whose attention `read` keeps: the mean of the `"readout"` or of the `"summary"`
                (`ReadRows`), or every row of other kinds.
            features: keep the patches' hidden states after the last block; prompts then do not share blocks.

        Returns:
            n rows, in the order of the prompts.

        Raises:
            UnsupportedError: for prompt tokens or attention edits that the model does not support, or features of a
                model without patches.
            InvalidInputError: for edits that do not fit the image or the model.
            SiteNotReachedError: if a block with an edit never ran.
        """
        self._check_open()
        kept = Kept(tuple(read), tuple(decompose), read_rows, features)
        check_prompts(self, prompts, kept)
        return run_in_order(self, prompts, kept, share_prefix, cache)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Puts modules in training mode into evaluation mode for a run: batch norms would update their statistics."""
        training = _in_training(self.module)
        for module in training:
            module.training = False
        try:
            yield
        finally:
            for module in training:
                module.training = True

    @contextmanager
    def prompting(
        self,
        prompts: Sequence[VisualPrompt],
        *,
        read: Sequence[int] = (),
        decompose: Sequence[int] = (),
        read_rows: ReadRows = "readout",
        features: bool = False,
        stop: bool = False,
    ) -> Iterator[Callable[[Tensor], Encoding]]:
        """Opens a scope for training, which gives a function from pixels to an `Encoding` with gradients.

        Call `backward()` inside the scope: gradient checkpointing runs blocks again and needs the edits.

        Args:
            prompts: n prompts; of their images only the size is used.
            read: as in `encode`.
            decompose: as in `encode`.
            read_rows: as in `encode`.
            features: as in `encode`.
            stop: with `read` alone: do not compute blocks after the last one that is read; the embeddings are `[n, 0]`.
                Not together with gradient checkpointing.

        Yields:
            `encode(pixels)` with pixels `[n, 3, h, w]`, normalised, already in the model's input size.

        Raises:
            UnsupportedError: for padded images, and as in `encode`.
        """
        self._check_open()
        kept = Kept(tuple(read), tuple(decompose), read_rows, features)
        check_prompts(self, prompts, kept)
        with prompting(self, prompts, kept, stop) as encode:
            yield encode

    def embed_pixels(self, pixels: Tensor, prompts: Sequence[VisualPrompt], **options: Any) -> Encoding:
        """Runs one forward in a `prompting` scope; its gradients are right only without gradient checkpointing.

        Args:
            pixels: `[n, 3, h, w]`, normalised, in the model's input size.
            prompts: n prompts.
            **options: as in `prompting`.

        Returns:
            The encoding, with gradients.
        """
        with self.prompting(prompts, **options) as encode:
            return encode(pixels)

    def insertion(self, prompts: Sequence[VisualPrompt]) -> Insertion | None:
        """Collects the prompts' tokens.

        Args:
            prompts: prompts whose tokens have the same shape and blocks.

        Returns:
            The tokens for a scope, or None without any.

        Raises:
            InvalidInputError: if the tokens do not fit the tower.
            UnsupportedError: if the tower takes no prompt tokens.
        """
        tokens = [prompt.tokens for prompt in prompts if prompt.tokens is not None and prompt.tokens.count]
        return Insertion(self.tower, tokens) if tokens else None

    def _check_open(self) -> None:
        if not self._wrapped:
            raise UnsupportedError(
                f"{self.name} was unwrapped: wrap the module again with vp.wrap(module, processor, tokenizer)."
            )

    def is_compiled(self) -> bool:
        """Whether compiled code runs on the path to an attention that can be edited: hooks are ignored there, only the
        transformers shim works. A later `torch.compile` is noticed too.

        Returns:
            True if there is compiled code.
        """
        return self._compiled(self.module, self._reached())

    def _reached(self) -> Iterator[nn.Module]:
        """The modules inside `module` that edits and hooks reach."""
        for tower in self._towers():
            yield from (site.module for site in tower.sites)
            yield from tower.blocks
            yield from tower.norms

    def _towers(self) -> Sequence[Tower]:
        return () if self.parts.tower is None else (self.parts.tower,)

    def verify_sites(self, prompt: VisualPrompt) -> None:
        """Verifies once that every site has an effect: a change at the readout's row must change the embedding.

        Hooks can run without any effect (a model wrapped in another, a head that reads other rows). So one forward adds
        a zero at every site, and one backward must give each zero a gradient.

        Args:
            prompt: the prompt whose image and fit are used.

        Raises:
            SiteNotReachedError: naming the sites without an effect.
            UnsupportedError: for weights that were made in inference mode.
        """
        tokens = prompt.tokens is not None and prompt.tokens.count > 0
        with self._lock:
            if (self._verified and (self._verified_tokens or not tokens)) or self.parts.tower is None:
                return
            if any(item.is_inference() for item in self.module.parameters()):
                raise UnsupportedError(
                    f"{self.name} was loaded inside torch.inference_mode(), so its effect cannot be verified with "
                    "gradients: load it outside, and run inside if you like."
                )
            with torch.inference_mode(False), torch.enable_grad(), self._evaluating():
                if not self._verified:
                    verify_sites(self.name, self.parts, prompt, self)
                if tokens:
                    verify_prompt_tokens(self.name, self.parts, prompt, self)
            self._verified, self._verified_tokens = True, tokens

    def __repr__(self) -> str:
        kind = type(self.module).__name__
        takes = ", ".join(sorted(self.supports))
        return f"<Model {self.name} ({kind}, {self.parts.backend}), takes {takes}>"


def _in_training(root: nn.Module) -> list[nn.Module]:
    """The modules in training mode. Same as filtering `root.modules()`, but in one loop, because every run calls it."""
    found: list[nn.Module] = []
    seen: set[nn.Module] = set()
    left: list[nn.Module | None] = [root]
    while left:
        module = left.pop()
        if module is None or module in seen:
            continue
        seen.add(module)
        if module.training:
            found.append(module)
        left += module._modules.values()
    return found
