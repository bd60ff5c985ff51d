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

from visprompt.attention.backends import is_compiled, refuse_compiled
from visprompt.attention.prefix_sharing import sharing_of
from visprompt.attention.program import SiteProgram, compile_programs
from visprompt.attention.prompt_tokens import Insertion, groups_of
from visprompt.attention.scope import Enough, Scope
from visprompt.attention.sites import ReadRows, Site, Tower
from visprompt.errors import InvalidInputError, SiteNotReachedError, UnsupportedError
from visprompt.geometry.geometry import Geometry
from visprompt.models.chat import Chat, Generation
from visprompt.models.encoding import Encoding, collect
from visprompt.models.gain_reference import with_references
from visprompt.models.parts import Parts
from visprompt.models.patch_features import Features, run_with
from visprompt.models.preprocessing import PicturePixels
from visprompt.models.site_checks import check_gradient, prove, prove_tokens
from visprompt.visual_prompt import Fit, VisualPrompt

__all__ = ["Model", "Parts"]


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
        """Where the pixels of a picture of this size go: original pixels ↔ model input ↔ patch grid.

        Args:
            image_wh: width and height in pixels.
            fit: `"model"` as its processor does it, `"pad"`, `"squash"`.
            tower: whose patches; encoders have one tower.
        """
        if self.parts.tower is not None:
            self.tower_named(tower)
        return self.parts.reader.geometry(image_wh, fit)

    def geometry_of(self, prompt: VisualPrompt, tower: str | None = None) -> Geometry:
        """`geometry` of a prompt's picture, in the company in which the model gets it.

        Args:
            prompt: with its picture, fit and place in a request.
            tower: whose patches; None: the tower through which the model reads pictures.
        """
        return self.geometry(prompt.picture.size, prompt.fit, **({} if tower is None else {"tower": tower}))

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
        """Answers questions about pictures; encoders cannot.

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
        cache: PicturePixels | None = None,
        read_rows: ReadRows = "readout",
        features: bool = False,
    ) -> Encoding:
        """Runs prompts through the image tower, in order.

        Args:
            prompts: prompts on one picture should stand together; those that differ only in attention edits share the
                blocks before the first edit.
            read: blocks whose readout attention is kept (after the edits).
            decompose: blocks whose readout row is decomposed into its keys' contributions.
            share_prefix: False runs every prompt on its own.
            cache: inputs of pictures that were prepared before.
            read_rows: whose attention `read` keeps: the mean of the `"readout"`, or what `"summary"` is (`ReadRows`),
                or every row of others.
            features: keep the patches' hidden states behind the last block; prompts then run on their own.

        Raises:
            UnsupportedError: for prompt tokens or attention edits on a model that cannot take them, or features of a
                model without patches.
            InvalidInputError: for edits that do not fit the picture or the model.
            SiteNotReachedError: if a block with an edit never ran.
        """
        self._check_open()
        self._check(prompts, bool(read or decompose), features)
        options: dict[str, Any] = {"share_prefix": share_prefix, "read_rows": read_rows, "features": features}
        alike = groups_of(prompts)
        if len(alike) > 1:
            cache = PicturePixels() if cache is None else cache
            return self._in_groups(alike, prompts, read=read, decompose=decompose, cache=cache, **options)
        pictures: dict[tuple[int, Fit], int] = {}
        stream_of = [pictures.setdefault((id(p.picture), p.fit), len(pictures)) for p in prompts]
        firsts = {place: p for p, place in reversed(list(zip(prompts, stream_of, strict=True)))}
        wanted = [(firsts[i].picture, firsts[i].fit) for i in range(len(pictures))]
        cache = PicturePixels() if cache is None else cache  # looked at for their size, then batched: prepared once
        groups = self.parts.reader.same_shape(wanted, cache)
        if len(groups) > 1:
            alike = [[i for i, place in enumerate(stream_of) if place in group] for group in groups]
            return self._in_groups(alike, prompts, read=read, decompose=decompose, cache=cache, **options)
        inputs = self.parts.reader.inputs(wanted, self, cache)
        order = sorted(range(len(prompts)), key=stream_of.__getitem__)
        index = torch.tensor([stream_of[i] for i in order], device=self.device)
        chosen = [prompts[i] for i in order]
        with self._evaluating():
            result = self._encode_sorted(chosen, inputs, index, tuple(read), tuple(decompose), **options)
        if order == list(range(len(order))):
            return result
        return result.take(torch.argsort(torch.tensor(order, device=self.device)))

    def _in_groups(self, groups: list[list[int]], prompts: Sequence[VisualPrompt], **options: Any) -> Encoding:
        """Prompts whose inputs differ in size, or in their tokens' places, run in a forward of their own each."""
        found = [self.encode([prompts[i] for i in members], **options) for members in groups]
        order = [i for members in groups for i in members]
        return Encoding.joined(found, torch.argsort(torch.tensor(order, device=self.device)))

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Puts modules that are in training mode into evaluation mode for a run: batch norms would learn from it."""
        training = [module for module in self.module.modules() if module.training]
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
            prompts: n prompts; their pictures are only looked at for geometry.
            read: with `decompose`, `read_rows` and `features` as in `encode`.
            decompose: see there.
            read_rows: see there.
            features: see there.
            stop: with `read` alone: compute nothing after the last block that is read; the embeddings are `[n, 0]`. Not
                together with gradient checkpointing.

        Yields:
            `encode(pixels)` with pixels `[n, 3, h, w]`, normalised, already in the model's input size.

        Raises:
            UnsupportedError: for padded pictures, and as `encode`.
        """
        self._check_open()
        self._check(prompts, bool(read or decompose), features)
        prompts = list(prompts)
        if self.parts.tower is not None and self.parts.tower.padded:
            raise UnsupportedError(
                f"{self.name} takes packed pictures, padded in a layout of its own: pixels cannot be given directly."
            )
        if len(groups_of(prompts)) > 1:
            raise InvalidInputError(
                "prompts of one batch with different numbers of tokens, or at different places: train one kind at a "
                "time."
            )
        edits, tokens = [prompt.attention for prompt in prompts], self.insertion(prompts)
        plain = not (read or decompose or any(edits) or tokens)
        if plain and not features:
            yield lambda pixels: Encoding(self.parts.embed({"pixel_values": pixels}))
            return
        tower = self.tower if tokens is None else tokens.tower
        patches = self._most_patches(prompts)
        programs = {} if plain else self._programs(prompts, read, decompose, read_rows, tokens)
        learned = any(isinstance(e.temperature, Tensor) and e.temperature.requires_grad for g in edits for e in g)
        learned = learned or (tokens is not None and bool(tokens.learned()))
        kept = Features(tower, patches) if features else None
        order = self.parts.timeline(len(prompts), self.device)
        with Scope(tower, programs, None, self.device, order, tokens, stop) as scope:
            if kept is not None:
                kept.install(scope)

            def encode(pixels: Tensor) -> Encoding:
                if len(pixels) != len(prompts):
                    raise InvalidInputError(
                        f"{len(pixels)} pictures' pixels for {len(prompts)} prompts: give one each."
                    )
                scope.begin()
                try:
                    found = run_with(kept, lambda: self.parts.embed({"pixel_values": pixels}))
                except Enough:
                    return collect(scope, pixels.new_empty(len(pixels), 0), patches)
                if learned and torch.is_grad_enabled():
                    check_gradient(found[0])
                return collect(scope, found[0], patches, found[1])

            yield encode

    def embed_pixels(self, pixels: Tensor, prompts: Sequence[VisualPrompt], **options: Any) -> Encoding:
        """`prompting` for one forward; without gradient checkpointing its gradients are right as well."""
        with self.prompting(prompts, **options) as encode:
            return encode(pixels)

    def _check(self, prompts: Sequence[VisualPrompt], reads: bool, features: bool) -> None:
        if not prompts:
            raise InvalidInputError("nothing to encode: the list of prompts is empty.")
        if features and (self.parts.tower is None or self.parts.packing is not None):
            why = "packs its pictures" if self.parts.tower else "has no blocks that visprompt knows"
            raise UnsupportedError(f"{self.name} {why}, so no features of patches.")
        if features and self._is_compiled():
            raise refuse_compiled(self.name)
        learned = [prompt for prompt in prompts if prompt.tokens is not None]
        if learned:
            self.require(frozenset({"tokens"}), learned[0].label)
        if self.parts.tower is None and (reads or any(prompt.attention for prompt in prompts)):
            self.require(frozenset({"attention"}), prompts[0].label)
        for prompt in prompts:
            for edit in prompt.attention:
                self.tower_named(edit.tower)

    def insertion(self, prompts: Sequence[VisualPrompt]) -> Insertion | None:
        """The prompts' tokens, all of one kind, or None."""
        tokens = [prompt.tokens for prompt in prompts if prompt.tokens is not None and prompt.tokens.count]
        return Insertion(self.tower, tokens) if tokens else None

    def _check_open(self) -> None:
        if not self._wrapped:
            raise UnsupportedError(
                f"{self.name} was unwrapped: wrap the module again with vp.wrap(module, processor, tokenizer)."
            )

    def _encode_sorted(
        self,
        prompts: Sequence[VisualPrompt],
        inputs: dict[str, Tensor],
        index: Tensor,
        read: tuple[int, ...],
        decompose: tuple[int, ...],
        share_prefix: bool,
        read_rows: ReadRows = "readout",
        features: bool = False,
    ) -> Encoding:
        edits, tokens = [prompt.attention for prompt in prompts], self.insertion(prompts)
        plain = not (read or decompose or any(edits) or tokens)
        if plain and not features:
            return Encoding(self.parts.embed(inputs).index_select(0, index))
        tower, count = self.tower if tokens is None else tokens.tower, len(prompts)
        patches = self._most_patches(prompts)
        programs = {} if plain else self._programs(prompts, read, decompose, read_rows, tokens)
        kept = Features(tower, patches) if features else None
        share_prefix = share_prefix and not features  # shared blocks leave out rows that no embedding needs
        gains = any(item.gain is not None for item in programs.values())
        repeated = count > len(next(iter(inputs.values())))
        sharing = None
        if repeated and share_prefix and tokens is None and not gains and tower.shareable and not self._is_compiled():
            sharing = sharing_of(tower, index, programs)
        if repeated and sharing is None:
            inputs = {name: item.index_select(0, index) for name, item in inputs.items()}
        with Scope(tower, programs, sharing, self.device, self.parts.timeline(count, self.device), tokens) as scope:
            if kept is not None:
                kept.install(scope)
            embeddings, states = run_with(kept, lambda: self.parts.embed(inputs))
        first = sharing.first_block if sharing is not None else None
        if first is not None and len(embeddings) != count:
            raise SiteNotReachedError(
                f"{self.name}: sharing from block {first} on gave {len(embeddings)} results for {count} prompts."
            )
        return collect(scope, embeddings, patches, states)

    def _most_patches(self, prompts: Sequence[VisualPrompt]) -> int:
        return max(self.geometry(prompt.picture.size, prompt.fit).num_patches for prompt in prompts)

    def _programs(
        self,
        prompts: Sequence[VisualPrompt],
        read: Sequence[int],
        decompose: Sequence[int],
        read_rows: ReadRows,
        tokens: Insertion | None = None,
    ) -> dict[Site, SiteProgram]:
        """What happens at every site, ready to run."""
        patches = [self.geometry(prompt.picture.size, prompt.fit).num_patches for prompt in prompts]
        edits = [prompt.attention for prompt in prompts]
        tower = self.tower if tokens is None else tokens.tower
        programs = compile_programs(tower, edits, patches, read, decompose, read_rows)
        # Compiled code ignores hooks, and the proof would go through the same ones: this comes first.
        if self._is_compiled() and (tokens or any(site.backend != "transformers" for site in programs)):
            raise refuse_compiled(self.name)
        self.prove(prompts[0])
        gains = {site: item for site, item in programs.items() if item.gain is not None}
        if gains:
            programs.update(with_references(self, prompts, gains, tower))
        return programs

    def _is_compiled(self) -> bool:
        """Where only the transformers shim still works."""
        return any(is_compiled(module) for module in self.module.modules())

    def prove(self, prompt: VisualPrompt) -> None:
        """Proves every site by an effect, once: a change at the readout's row must move the embedding.

        Hooks can fire without any effect (a model wrapped in another, a head that reads elsewhere), so firing alone is
        no proof. One forward with a zero added at every site, and one backward: each zero must get a gradient.

        Args:
            prompt: whose picture and fit it is proved on.

        Raises:
            SiteNotReachedError: naming the sites without an effect.
        """
        tokens = prompt.tokens is not None and prompt.tokens.count > 0
        with self._lock:
            if (self._proved and (self._proved_tokens or not tokens)) or self.parts.tower is None:
                return
            if any(item.is_inference() for item in self.module.parameters()):
                raise UnsupportedError(
                    f"{self.name} was loaded inside torch.inference_mode(), so its effect cannot be proved with "
                    "gradients: load it outside, and run inside if you like."
                )
            with torch.inference_mode(False), torch.enable_grad(), self._evaluating():
                if not self._proved:
                    prove(self.name, self.parts, prompt, self)
                if tokens:
                    prove_tokens(self.name, self.parts, prompt, self)
            self._proved, self._proved_tokens = True, tokens

    def __repr__(self) -> str:
        kind = type(self.module).__name__
        takes = ", ".join(sorted(self.supports))
        return f"<Model {self.name} ({kind}, {self.parts.backend}), takes {takes}>"
