"""Large vision-language models of transformers: a vision tower, a projector, and a decoder that writes.

What edits and maps need of a family is in `lvlm_layout`; what is asked and answered in `chat`. Here the two meet: a
batch of chats becomes one call of the model's own `generate`, inside the scopes of its edits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from visprompt.attention.backends import install_shim, is_compiled, refuse_compiled
from visprompt.attention.decoder_positions import Timeline
from visprompt.attention.program import SiteProgram, compile_programs
from visprompt.attention.scope import Scope, is_open_on
from visprompt.attention.sites import Site, Tower
from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.geometry.geometry import Geometry, check_processable, fit_picture, mean_rgb
from visprompt.models.base import Model, Parts
from visprompt.models.chat import Chat, Generation
from visprompt.models.lvlm.answer_likelihood import answer_ids, tell
from visprompt.models.lvlm.edits import decoder_edits, vision_edits
from visprompt.models.lvlm.families import FAMILIES, Layout, LvlmFamily
from visprompt.models.lvlm.generation import answer_in, end_ids, pad_id, settings_of
from visprompt.models.lvlm.inputs import ChatInputs, media_of, prepare
from visprompt.models.lvlm.prompt_tokens import TileInsertion, alike, tile_tokens
from visprompt.models.lvlm.text import Pieces, pieces_of
from visprompt.models.lvlm.vision_tower import packing_of, vision_tower
from visprompt.models.preprocessing import PictureReader, Processed, pixels_of
from visprompt.models.site_checks import features_of, prove_decoder, prove_vision, prove_vision_tokens
from visprompt.visual_prompt import AttentionEdit, Fit, Rows, VisualPrompt, block_number

Size = tuple[int, int]


class LVLM(Model):
    """A vision-language model that visual prompts can be run on. Made by `load_model` and `wrap`.

    Its towers are `"decoder"`, through which it reads, and `"vision"` where that can be edited. Pictures are counted in
    the image tokens that the decoder gets; `geometry(wh, tower="vision")` counts the vision tower's own patches.
    """

    generates = True

    def __init__(self, module: nn.Module, processor: Any, tokenizer: Any, name: str) -> None:
        self.processor = processor
        self.tokenizer: Any = tokenizer if tokenizer is not None else getattr(processor, "tokenizer", None)
        image_processor = getattr(processor, "image_processor", None)
        if image_processor is None or self.tokenizer is None:
            raise InvalidInputError(
                f"{type(module).__name__} needs its processor, which holds the picture processor and the tokenizer: "
                "vp.wrap(module, transformers.AutoProcessor.from_pretrained(…))."
            )
        inner: Any = getattr(module, "_orig_mod", module)
        self.config: Any = inner.config
        self.family: LvlmFamily = FAMILIES[str(self.config.model_type)]
        self.vision_tower, self.vision_prefix, patch = vision_tower(inner, self.family)
        decoder = _decoder(inner, self.vision_tower)  # refuses before anything is changed
        restore: list[Callable[[], None]] = []
        for owner, implementation in install_shim(module):
            restore.append(lambda o=owner, i=implementation: setattr(o, "_attn_implementation_internal", i))  # type: ignore[misc]

        reader = PictureReader(image_processor, Processed(image_processor), pixels_of, patch)
        parts = Parts(self._no_embeddings, reader, decoder, None, None, "transformers", restore)
        super().__init__(module, parts, name)
        self._layouts: dict[tuple[Size, Fit, int], Layout] = {}
        self._proved_towers: set[str] = set()

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def reader(self) -> PictureReader:
        """Its picture processor."""
        return self.parts.reader

    @property
    def supports(self) -> frozenset[str]:
        """Pixels, text and attention; prompt tokens where the vision tower takes them."""
        takes = self.vision_tower is not None and not self.vision_tower.no_tokens
        return frozenset({"pixels", "text", "attention", *(("tokens",) if takes else ())})

    def has_tower(self, name: str) -> bool:
        """True for the decoder, and for a vision tower whose attention can be edited."""
        return name == "decoder" or (name == "vision" and self.vision_tower is not None)

    def tower_named(self, name: str) -> Tower:
        """`"decoder"` or `"vision"`.

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
        """Where the pixels of a picture of this size go: original pixels ↔ tiles ↔ image tokens.

        Args:
            image_wh: width and height in pixels.
            fit: `"model"` as its processor does it; `"pad"` and `"squash"` make the picture square first.
            tower: `"decoder"`: the tokens that the language model gets; `"vision"`: the vision tower's patches.
        """
        return self._seen_by(tower, self.layout(image_wh, fit))

    def geometry_of(self, prompt: VisualPrompt, tower: str | None = None) -> Geometry:
        """`geometry` of a prompt's picture in its chat: several pictures, or the frames of a video, may be tiled and
        pooled in another way than a lone one.

        Args:
            prompt: with its picture, fit and place in a request.
            tower: `"decoder"` (None) or `"vision"`.
        """
        number, count = prompt.place
        size, video = prompt.picture.size, self.family.video_layout
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
            raise UnsupportedError(f"{self.name}: its vision tower cannot be edited for such a picture.")
        return layout.vision

    def layout(self, image_wh: Size, fit: Fit = "model", pictures: int = 1) -> Layout:
        """Which image token shows which part of a picture, in a chat with so many pictures."""
        image_wh = (int(image_wh[0]), int(image_wh[1]))
        key = (image_wh, fit, min(pictures, 2))
        if key not in self._layouts:
            check_processable(image_wh)
            if fit == "model":
                found = self.family.layout(self, image_wh, pictures)
            else:
                canvas, scale, offset = self.on_canvas(Image.new("RGB", image_wh), fit)
                found = self.family.layout(self, canvas.size, pictures).moved(image_wh, scale, offset)
            while len(self._layouts) >= 4096:
                self._layouts.pop(next(iter(self._layouts)))
            self._layouts[key] = found
        return self._layouts[key]

    def on_canvas(self, picture: Image.Image, fit: Fit) -> tuple[Image.Image, tuple[float, float], tuple[float, float]]:
        """The picture made square, padded or squashed, and the map from the picture onto it."""
        if fit == "model":
            return picture, (1.0, 1.0), (0.0, 0.0)
        side = max(picture.size)
        return fit_picture(picture, fit, (side, side), mean_rgb(self.reader.processor))

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
        """Answers several chats in one batch, greedily unless the options say otherwise.

        Args:
            chats: pictures with their edits, and a question each.
            max_new_tokens: longest answer, in tokens.
            read: decoder blocks whose attention over the image tokens is kept, for every token of the answer.
            read_rows: whose attention: `"answer"`, the position that writes each token; or `"readout"`, the mean over
                the question's tokens for the first step.
            stream: called with (number of the chat, new text) as the answers grow.
            **options: for the model's own `generate` (`do_sample`, `temperature`, `num_beams`, …).

        Raises:
            InvalidInputError: for edits that do not fit the pictures or the model, or options that visprompt sets.
            UnsupportedError: for towers that cannot be edited, or take no prompt tokens.
            SiteNotReachedError: if a block with an edit never ran, or pictures' tokens are not where they should be.
        """
        self._check_open()
        chats = list(chats)
        if not chats:
            raise InvalidInputError("nothing to answer: the list of chats is empty.")
        settings = settings_of(self.module, self.tokenizer, max_new_tokens, bool(read), stream is not None, options)
        blocks = tuple(block_number(block, self.num_blocks) for block in read)
        found: dict[int, Generation] = {}
        for members in alike(chats):
            part = [chats[place] for place in members]
            inputs = prepare(self, part)
            own = dict(settings)
            if stream is not None:
                own["streamer"] = Pieces(self.tokenizer, len(part), inputs.length, _renumbered(stream, members))
            with torch.no_grad(), self._evaluating(), self.editing(part, inputs, blocks, read_rows) as decoder:
                output = self.module.generate(**inputs.tensors, **own)  # type: ignore[operator]
            found.update(zip(members, self._answers(part, inputs, output, decoder, blocks, own), strict=True))
        return [found[place] for place in range(len(chats))]

    def score(self, chats: Sequence[Chat], texts: Sequence[str]) -> Tensor:
        """`[n, len(texts)]` log-likelihood of every text as the answer to every chat: the sum over its tokens, natural
        logarithm, without the token that ends an answer.

        Args:
            chats: as in `generate`.
            texts: answers to compare. Longer ones are less likely: compare answers of about one length.

        Raises:
            InvalidInputError: for a text without a token; else as `generate`.
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
            part = [chats[place] for place in members]
            inputs = prepare(self, part)
            with torch.no_grad():
                rows = [self._score_one(part, inputs, answer) for answer in answers]
            found.update(zip(members, torch.stack(rows, dim=1), strict=True))
        return torch.stack([found[place] for place in range(len(chats))])

    def _score_one(self, chats: Sequence[Chat], inputs: ChatInputs, answer: list[int]) -> Tensor:
        with self._evaluating(), self.editing(chats, inputs):
            return tell(self, inputs, [answer] * len(chats)).log_likelihood.sum(-1)

    @contextmanager
    def editing(
        self, chats: Sequence[Chat], inputs: ChatInputs, read: tuple[int, ...] = (), read_rows: Rows = "answer"
    ) -> Iterator[Scope | None]:
        """The scope of a batch's edits, for `generate` or a forward and backward of your own.

        Yields:
            The decoder's scope, which keeps what is read; None if the decoder is neither edited nor read.

        Raises:
            InvalidInputError: inside another such scope of this model, whose rows and columns are other prompts', and
                for prompt tokens of several kinds, which have to run one after the other.
            UnsupportedError: for prompt tokens in a compiled model.
        """
        if any(is_open_on(tower) for tower in (self.tower, self.vision_tower) if tower is not None):
            raise InvalidInputError(
                f"{self.name} is being run inside model.editing(…) of other chats, whose edits would reach into this "
                "run: leave that scope first."
            )
        edits = [decoder_edits(self, chat, layouts) for chat, layouts in zip(chats, inputs.layouts, strict=True)]
        vision, tokens = vision_edits(self, chats, inputs), tile_tokens(self.vision_tower, chats, inputs)
        with ExitStack() as stack:
            if any(vision) or tokens is not None:
                stack.enter_context(self._editing_vision(chats, inputs, vision, tokens))
            if not (read or any(edits)):
                yield None
                return
            counts = [sum(item.geometry.num_patches for item in layouts) for layouts in inputs.layouts]
            programs = compile_programs(self.tower, edits, counts, read, None, read_rows)
            self._prove_decoder()
            timeline = Timeline(inputs.columns, inputs.pictures, inputs.padding).to(self.device)
            yield stack.enter_context(Scope(self.tower, programs, None, self.device, timeline))

    def _editing_vision(
        self,
        chats: Sequence[Chat],
        inputs: ChatInputs,
        edits: Sequence[Sequence[AttentionEdit]],
        tokens: TileInsertion | None,
    ) -> Scope:
        """The scope of the vision tower's edits, proved and ready to be entered."""
        assert self.vision_tower is not None
        if tokens is not None and any(is_compiled(module) for module in self.module.modules()):
            raise refuse_compiled(self.name)
        tower = self.vision_tower if tokens is None else tokens.tower
        patches = [count for group in inputs.vision_patches for count in group]
        programs = compile_programs(tower, edits, patches)
        self._prove_vision(chats[0], tokens)
        programs.update(self._with_plain_runs(chats, programs, tower))
        return Scope(tower, programs, None, self.device, packing_of(self, inputs), tokens)

    def _with_plain_runs(
        self, chats: Sequence[Chat], programs: dict[Site, SiteProgram], tower: Tower
    ) -> dict[Site, SiteProgram]:
        """Runs the vision tower on the pictures without the prompt (but for its tokens: they are part of the tower that
        is edited) and hands its row outputs to the gain edits.
        """
        gains = {site: item for site, item in programs.items() if item.gain is not None}
        if not gains:
            return {}
        plain = [
            replace(
                chat,
                prompts=tuple(
                    item.with_(picture=item.reference or item.picture, attention=()) for item in chat.prompts
                ),
            )
            for chat in chats
        ]
        watch = {
            site: SiteProgram(rows=item.rows, edited=torch.zeros_like(item.edited), capture_output=True)
            for site, item in gains.items()
        }
        inputs = prepare(self, plain)
        tokens = tile_tokens(self.vision_tower, plain, inputs)
        with torch.no_grad(), Scope(tower, watch, None, self.device, packing_of(self, inputs), tokens) as scope:
            features_of(self.module, media_of(inputs))
        for site, item in gains.items():
            if scope.outputs[site].shape[:2] != item.edited.shape[:2] or len(item.rows) != scope.outputs[site].shape[2]:
                raise InvalidInputError("the picture without the prompt has another size: unleash cannot compare them.")
        return {site: replace(item, reference=scope.outputs[site]) for site, item in gains.items()}

    def _answers(
        self,
        chats: Sequence[Chat],
        inputs: ChatInputs,
        output: Any,
        scope: Scope | None,
        blocks: tuple[int, ...],
        settings: dict[str, Any],
    ) -> list[Generation]:
        tokens = output if isinstance(output, Tensor) else output.sequences
        tokens = tokens[:, inputs.length :].cpu()
        ends, longest = end_ids(self.module, self.tokenizer, settings), settings["max_new_tokens"]
        pad = pad_id(self.module, settings)
        maps = self._maps(scope, blocks) if scope is not None and blocks else None
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
            text = self.tokenizer.decode(written, skip_special_tokens=True).strip()
            pieces, seen = pieces_of(self.tokenizer, written), tuple(item.geometry for item in layouts)
            answers.append(Generation(text, pieces, blocks, tuple(attention), seen, ended))
        return answers

    def _maps(self, scope: Scope, blocks: tuple[int, ...]) -> Tensor:
        """`[n, T, B, H, P]` on the CPU; what several rows of one step read is averaged."""
        per_block = []
        for block in blocks:
            steps = [item.mean(dim=2) for item in scope.steps[self.tower.sites[block]]]
            per_block.append(torch.stack(steps, dim=1).float().cpu())
        return torch.stack(per_block, dim=2)

    # -- proof --------------------------------------------------------------------------------------------------------

    def prove(self, prompt: VisualPrompt | None = None) -> None:
        """Proves the decoder's sites, see `Model.prove`: a few words without a picture do, whatever its size."""
        self._prove_decoder()

    def _prove_decoder(self) -> None:
        self._once("decoder", lambda: prove_decoder(self))

    def _prove_vision(self, chat: Chat, tokens: TileInsertion | None) -> None:
        """Proves the vision tower's sites, and that prompt tokens in it have an effect, on the pictures of one chat."""
        tower = self.vision_tower
        assert tower is not None

        def prove_sites() -> None:
            inputs = prepare(self, [chat])
            streams = sum(map(len, inputs.vision_patches))
            prove_vision(self, tower, media_of(inputs), streams, packing_of(self, inputs))

        self._once("vision", prove_sites)
        if tokens is not None:
            width = tokens.tokens.shape[-1]
            self._once("tokens", lambda: prove_vision_tokens(self, tower, media_of(prepare(self, [chat])), width))

    def _once(self, what: str, proof: Callable[[], None]) -> None:
        with self._lock:
            if what not in self._proved_towers:
                with torch.inference_mode(False), torch.enable_grad(), self._evaluating():
                    proof()
                self._proved_towers.add(what)

    # -- what it does not do ------------------------------------------------------------------------------------------

    def _no_embeddings(self, inputs: dict[str, Tensor]) -> Tensor:
        raise UnsupportedError(
            f"{self.name} writes text and gives no image embedding: use generate, answer or attention. For embeddings "
            'load an encoder, e.g. "openai/clip-vit-base-patch16".'
        )

    def encode(self, prompts: Sequence[VisualPrompt], **options: Any) -> Any:
        """An LVLM has no embedding of a picture.

        Raises:
            UnsupportedError: always.
        """
        return self._no_embeddings({})

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """An LVLM has no embedding of a text.

        Raises:
            UnsupportedError: always.
        """
        return self._no_embeddings({})


# -- finding things ---------------------------------------------------------------------------------------------------


def _renumbered(stream: Callable[[int, str], None], members: Sequence[int]) -> Callable[[int, str], None]:
    """A stream for some of the chats, told by their places among all."""
    return lambda number, text: stream(members[number], text)


def _decoder(module: Any, vision: Tower | None) -> Tower:
    decoder: Any = module.get_decoder() if hasattr(module, "get_decoder") else None
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not hasattr(module, "generate") or not hasattr(module, "lm_head"):
        raise UnsupportedError(
            f"{type(module).__name__} writes no text: load it with a language head (…ForConditionalGeneration)."
        )
    sites = []
    for index, layer in enumerate(layers):
        attention = getattr(layer, "self_attn", None)
        if attention is None:
            raise UnsupportedError(
                f"{type(module).__name__}: decoder block {index} has no attention that can be edited."
            )
        heads = int(decoder.config.num_attention_heads)
        sites.append(Site("decoder", index, attention, "transformers", heads, 0, getattr(attention, "o_proj", None)))
    # What is said where prompt tokens are refused: they go into vision towers, and this one's may not take them.
    why = "its vision tower is not known" if vision is None else vision.no_tokens or "a decoder takes none"
    return Tower("decoder", tuple(sites), tuple(layers), "text", 0, shareable=False, no_tokens=why)
