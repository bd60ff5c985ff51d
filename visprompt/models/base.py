"""A wrapped model: takes `VisualPrompt`s in, gives embeddings, logits and readout attention out.

Backends (transformers, open_clip, timm) fill in where the attention is and how the model is called; everything that
prompts need (sharing, edits, proofs, references) is here, once.
"""

from __future__ import annotations

import hashlib
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
from visprompt.geometry.geometry import Geometry
from visprompt.models.chat import Chat, Generation
from visprompt.models.encoder_run import Kept, check_prompts, prompting, run_in_order
from visprompt.models.encoding import Encoding
from visprompt.models.parts import Parts
from visprompt.models.preprocessing import ImagePixels
from visprompt.models.site_checks import verify_prompt_tokens, verify_sites
from visprompt.utils.renamed import renamed_attributes
from visprompt.visual_prompt import Fit, VisualPrompt

__all__ = ["Model", "Parts"]


@renamed_attributes(prove="verify_sites")
class Model:
    """A model that visual prompts can be run on. Made by `load_model` and `wrap`.

    The module's weights, buffers, mode and outputs stay as they were; `unwrap()` gives it back with its configs
    restored.
    """

    #: True for models that answer in words
    generates: bool = False

    def __init__(self, module: nn.Module, parts: Parts, name: str) -> None:
        self.module, self.parts, self.name = module, parts, name
        self._proved = self._proved_tokens = False
        self._lock = threading.RLock()
        self._wrapped = True
        self._compiled = CompiledCheck()

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def supports(self) -> frozenset[str]:
        """The places it can be touched: "pixels" always; "attention", "tokens" and "text" where it has them."""
        has = {"pixels"}
        if self.parts.tower is not None:
            has.add("attention")
            if not self.parts.tower.no_tokens:
                has.add("tokens")
        if self.parts.embed_text is not None:
            has.add("text")
        return frozenset(has)

    @property
    def tower(self) -> Tower:
        """Its attention sites.

        Raises:
            UnsupportedError: for a model without attention.
        """
        if self.parts.tower is None:
            raise UnsupportedError(f"{self.name} has no attention that can be read or edited.")
        return self.parts.tower

    @property
    def num_blocks(self) -> int:
        """Number of attention blocks, an attention pooling head counted as one."""
        return self.tower.num_blocks

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of its weights."""
        return next(item for item in self.module.parameters() if item.is_floating_point()).dtype

    def has_tower(self, name: str) -> bool:
        """True for a tower whose attention can be edited."""
        try:
            self.tower_named(name)
        except UnsupportedError:
            return False
        return True

    def tower_named(self, name: str) -> Tower:
        """The tower of that name; encoders have one, `"vision"`.

        Raises:
            UnsupportedError: for another name.
        """
        if self.tower.name != name:
            raise UnsupportedError(f"{self.name} has no tower {name!r}; it has {self.tower.name!r}.")
        return self.tower

    def geometry(self, image_wh: tuple[int, int], fit: Fit = "model", tower: str = "vision") -> Geometry:
        """Where the pixels of an image of this size go: original pixels ↔ model input ↔ patch grid.

        Args:
            image_wh: width and height in pixels.
            fit: `"model"` as its processor does it, `"pad"`, `"squash"`.
            tower: whose patches; encoders have one tower.
        """
        if self.parts.tower is not None:
            self.tower_named(tower)
        return self.parts.reader.geometry(image_wh, fit)

    def geometry_of(self, prompt: VisualPrompt, tower: str | None = None) -> Geometry:
        """`geometry` of a prompt's image, in the company in which the model gets it.

        Args:
            prompt: with its image, fit and place in a request.
            tower: whose patches; None: the tower through which the model reads images.
        """
        return self.geometry(prompt.image.size, prompt.fit, **({} if tower is None else {"tower": tower}))

    def require(self, acts_on: frozenset[str], strategy: str) -> None:
        """Checks that the model can take in what a strategy changes.

        Args:
            acts_on: "pixels", "text", "tokens", "attention".
            strategy: its name, for the message.

        Raises:
            UnsupportedError: if something of it is missing, with the model, so that others can say what works on it.
        """
        missing = acts_on - self.supports - {"text"}
        if not missing:
            return
        reason = self.parts.tower.no_tokens if "tokens" in missing and self.parts.tower is not None else ""
        raise UnsupportedError(
            f"strategy {strategy!r} acts on {' and '.join(sorted(missing))}, which {self.name} does not offer "
            f"{f'because {reason} ' if reason else ''}(it takes {', '.join(sorted(self.supports))}).",
            model=self,
        )

    def describe(self) -> dict[str, Any]:
        """Identity for result rows: name, class, backend, dtype, device, and a hash over all weights."""
        return {
            "name": self.name,
            "class": type(self.module).__name__,
            "backend": self.parts.backend,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "weights": self.weights_hash(),
        }

    def weights_hash(self) -> str:
        """First 16 hex digits of a SHA-256 over names, shapes and values of the state dict."""
        digest = hashlib.sha256()
        for name, item in sorted(self.module.state_dict().items()):
            digest.update(f"{name}{tuple(item.shape)}".encode())
            digest.update(item.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def unwrap(self) -> nn.Module:
        """Gives the module back as it was; this wrapper cannot be used afterwards."""
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
        """Answers questions about images; encoders cannot.

        Raises:
            UnsupportedError: if the model writes no text.
        """
        raise UnsupportedError(f"{self.name} is an encoder and writes no text: use encode, score or attention.")

    def score(self, chats: Sequence[Chat], texts: Sequence[str]) -> Tensor:
        """`[n, t]` log-likelihoods of answers; encoders score with embeddings and `logits`.

        Raises:
            UnsupportedError: if the model writes no text, or does not tell how likely it is.
        """
        raise UnsupportedError(f"{self.name} does not tell how likely an answer is.")

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """`[t, d]` text embeddings as the model gives them.

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
        """`[n, t]` scores from image and text embeddings, as the model defines them (scale, bias)."""
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
        """Runs prompts through the image tower, in order.

        Args:
            prompts: prompts on one image should stand together; those that differ only in attention edits share the
                blocks before the first edit.
            read: blocks whose readout attention is kept (after the edits).
            decompose: blocks whose readout row is decomposed into its keys' contributions.
            share_prefix: False runs every prompt on its own.
            cache: inputs of images that were prepared before.
            read_rows: whose attention `read` keeps: the mean of the `"readout"`, or what `"summary"` is (`ReadRows`),
                or every row of others.
            features: keep the patches' hidden states behind the last block; prompts then run on their own.

        Raises:
            UnsupportedError: for prompt tokens or attention edits on a model that cannot take them, or features of a
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
        """Puts modules that are in training mode into evaluation mode for a run: batch norms would learn from it."""
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
        """A scope for training: gives a function from pixels to an `Encoding`, with gradients.

        Call `backward()` inside the scope: gradient checkpointing runs blocks again, and the edits must still be there.

        Args:
            prompts: n prompts; their images are only looked at for geometry.
            read: with `decompose`, `read_rows` and `features` as in `encode`.
            decompose: see there.
            read_rows: see there.
            features: see there.
            stop: with `read` alone: compute nothing after the last block that is read; the embeddings are `[n, 0]`. Not
                together with gradient checkpointing.

        Yields:
            `encode(pixels)` with pixels `[n, 3, h, w]`, normalised, already in the model's input size.

        Raises:
            UnsupportedError: for padded images, and as `encode`.
        """
        self._check_open()
        kept = Kept(tuple(read), tuple(decompose), read_rows, features)
        check_prompts(self, prompts, kept)
        with prompting(self, prompts, kept, stop) as encode:
            yield encode

    def embed_pixels(self, pixels: Tensor, prompts: Sequence[VisualPrompt], **options: Any) -> Encoding:
        """`prompting` for one forward; without gradient checkpointing its gradients are right as well."""
        with self.prompting(prompts, **options) as encode:
            return encode(pixels)

    def insertion(self, prompts: Sequence[VisualPrompt]) -> Insertion | None:
        """The prompts' tokens, all of one kind, or None."""
        tokens = [prompt.tokens for prompt in prompts if prompt.tokens is not None and prompt.tokens.count]
        return Insertion(self.tower, tokens) if tokens else None

    def _check_open(self) -> None:
        if not self._wrapped:
            raise UnsupportedError(
                f"{self.name} was unwrapped: wrap the module again with vp.wrap(module, processor, tokenizer)."
            )

    def is_compiled(self) -> bool:
        """True if the way to an attention that can be edited is compiled: there only the transformers shim works, and
        hooks are ignored. `torch.compile` is noticed whenever it was called.
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
        """Verifies every site by an effect, once: a change at the readout's row must move the embedding.

        Hooks can fire without any effect (a model wrapped in another, a head that reads elsewhere), so firing alone is
        no proof. One forward with a zero added at every site, and one backward: each zero must get a gradient.

        Args:
            prompt: whose image and fit it is verified on.

        Raises:
            SiteNotReachedError: naming the sites without an effect.
        """
        tokens = prompt.tokens is not None and prompt.tokens.count > 0
        with self._lock:
            if (self._proved and (self._proved_tokens or not tokens)) or self.parts.tower is None:
                return
            if any(item.is_inference() for item in self.module.parameters()):
                raise UnsupportedError(
                    f"{self.name} was loaded inside torch.inference_mode(), so its effect cannot be verified with "
                    "gradients: load it outside, and run inside if you like."
                )
            with torch.inference_mode(False), torch.enable_grad(), self._evaluating():
                if not self._proved:
                    verify_sites(self.name, self.parts, prompt, self)
                if tokens:
                    verify_prompt_tokens(self.name, self.parts, prompt, self)
            self._proved, self._proved_tokens = True, tokens

    def __repr__(self) -> str:
        kind = type(self.module).__name__
        takes = ", ".join(sorted(self.supports))
        return f"<Model {self.name} ({kind}, {self.parts.backend}), takes {takes}>"


def _in_training(root: nn.Module) -> list[nn.Module]:
    """The modules that are in training mode. As `root.modules()`, but in one loop: it is asked at every run."""
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
