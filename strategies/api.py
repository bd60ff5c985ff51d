"""API: attention prompting on image. Dims the parts of the image that a model finds irrelevant to the question."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from visprompt.strategies import _draw
from visprompt.strategies._heatmap import INTERPOLATIONS, Heatmap, mask_of, overlay
from visprompt.strategies._views import ALIGNMENTS

from visprompt.errors import InvalidInputError
from visprompt.prompter import Options, Prompter
from visprompt.visual_prompt import AttentionEdit, VisualPrompt, check_blocks, is_number

if TYPE_CHECKING:
    from visprompt.models.base import Model


@dataclasses.dataclass(frozen=True)
class ApiOptions(Options):
    """Options of `api`.

    Args:
        auxiliary: the model that computes the heatmap: from `load_model` or `wrap`, or a name for `load_model`. None:
            the prompted model itself.
        block: block ℓ whose attention is read; a float is a fraction of the depth. None: the second-last one of an
            encoder, or its pooling head; the middle of an LVLM's decoder, where a tuple names several.
        maps: `"cls"`: contribution of the patches to the readout; `"comp"`: the complement of their similarity with the
            text; `"both"`: their soft OR. An LVLM has `"cls"` only.
        enhance: coefficient of the sigmoid, larger is more contrast; None: no sigmoid.
        kernel_size: side of the mean filter in patches, odd; 1: none.
        interpolation: from patches to pixels: `"lanczos"`, `"bicubic"`, `"bilinear"` or `"nearest"`.
        grey: grey level that the image is dimmed towards, 0 (black) to 255.
        floor: smallest weight of a pixel, 0 (paper) to 1 (nothing is dimmed). On the bundled LVLM's
            validation questions 0.7 costs nothing where 0.5 costs 3 to 5 points of colours and shapes.
        align: input of the model that computes the heatmap. `"auto"`: the whole image; where its processor would crop,
            squashed for an encoder, padded for an LVLM; `"pad"`, `"squash"`: always; `"slide"`: windows of its aspect
            ratio, side by side; `"crop"`: as its processor crops, without dimming the rest; `"paper"`: the same crop,
            with the mask stretched over the whole image.
        relative: compare the map with that of a generic question, to remove what is attended to for any question.
        generic: that question; None: "a photo", or "Write a general description of the image." for an LVLM.
        max_new_tokens: longest answer over which an LVLM's attention is averaged, in tokens.
        apply: `"pixels"` dims the image; `"attention"` raises the readout's attention by the map instead.
        strength: with `apply="attention"`: logits that the attention rises where the map is 1.
        first_block: with `apply="attention"`: first block that is edited; a float is a fraction of the depth. None: the
            middle of an image tower, the first block of a decoder.
    """

    auxiliary: Any = None
    block: int | float | tuple[int | float, ...] | None = None
    maps: Literal["both", "cls", "comp"] = "both"
    enhance: float | None = 1.0
    kernel_size: int = 3
    interpolation: str = "lanczos"
    grey: float = 0.0
    floor: float = 0.7
    align: Literal["auto", "pad", "slide", "squash", "crop", "paper"] = "auto"
    relative: bool = False
    generic: str | None = None
    max_new_tokens: int = 20
    apply: Literal["pixels", "attention"] = "pixels"
    strength: float = 2.0
    first_block: int | float | None = None

    def __post_init__(self) -> None:
        if not (self.auxiliary is None or isinstance(self.auxiliary, str) or hasattr(self.auxiliary, "geometry")):
            raise InvalidInputError(
                f"auxiliary is a model from vp.load_model or vp.wrap, its name, or None; got {self.auxiliary!r:.60}."
            )
        object.__setattr__(self, "interpolation", str(self.interpolation).lower())
        _draw.check_choice("interpolation", self.interpolation, tuple(INTERPOLATIONS))
        _draw.check_choice("maps", self.maps, ("both", "cls", "comp"))
        _draw.check_choice("align", self.align, ALIGNMENTS)
        _draw.check_choice("apply", self.apply, ("pixels", "attention"))
        if self.enhance is not None and not (is_number(self.enhance) and self.enhance > 0):
            raise InvalidInputError(f"enhance is a positive number, or None for no sigmoid; got {self.enhance!r}.")
        if not isinstance(self.kernel_size, int) or self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise InvalidInputError(f"kernel_size is an odd number of patches, 1 or more; got {self.kernel_size!r}.")
        _draw.check_number("grey", self.grey, 0, 255)
        _draw.check_number("floor", self.floor, 0, 1)
        if not is_number(self.strength):
            raise InvalidInputError(f"strength is a finite number of logits; got {self.strength!r}.")
        if self.generic is not None and not isinstance(self.generic, str):
            raise InvalidInputError(f"generic is a question, or None; got {self.generic!r}.")
        if not isinstance(self.max_new_tokens, int) or self.max_new_tokens < 1:
            raise InvalidInputError(f"max_new_tokens is a positive number; got {self.max_new_tokens!r}.")
        if isinstance(self.block, list):
            object.__setattr__(self, "block", tuple(self.block))
        if self.block == ():
            raise InvalidInputError("block is a block, several, or None; got none of them: ().")
        check_blocks(*(self.block if isinstance(self.block, tuple) else (self.block,)), self.first_block)


class Api(Prompter):
    """API (Yu et al., ECCV 2024, https://arxiv.org/abs/2409.17143): dims the image by a heatmap of the question.

    Ψ_cls is the contribution of every patch to `cos(image, question)` through block ℓ, S its own similarity:
    `A = sigmoid(enhance · z(minmax(Ψ_cls)))`, `B = (max S − S)/(max S − min S)`, both mean-filtered, mask
    `m = minmax(A + B − A·B)`, image `x · m + grey · (1 − m)` with `m ← floor + (1 − floor) · m`. With an LVLM Ψ is
    its decoder's attention over the image tokens while it answers, and `m = minmax(A)`.

    >>> import visprompt as vp
    >>> from PIL import Image
    >>> model = vp.load_model("bundled:scenes-clip")
    >>> request = vp.Request(Image.new("RGB", (96, 64), "teal"), query="a red star")
    >>> [prompt] = vp.Prompter.from_name("api").prompt(request, model)
    >>> prompt.image.size
    (96, 64)

    Shapes: Ψ and S are `[P]`, one number per patch that shows the image. Units: parts of a cosine; the mask 0 to 1.

    Raises:
        InvalidInputError: without a query, or for a block that the image is not read through.
        UnsupportedError: if the model that computes the heatmap has no text tower and generates no text (name an
            `auxiliary`).
    """

    Options = ApiOptions
    acts_on = frozenset({"pixels"})
    needs = frozenset({"query", "map"})
    neutral: ClassVar[dict[str, Any]] = {"floor": 1.0}

    def __init__(self, options: ApiOptions | None = None) -> None:
        super().__init__(options)
        if self.options.apply == "attention":
            self.acts_on = frozenset({"attention"})  # type: ignore[misc]
        self._loaded: Model | None = None
        self._lock = threading.Lock()

    def edit_all(self, prompts: Sequence[VisualPrompt], model: Any) -> list[VisualPrompt]:
        """Computes the heatmaps of all queries in batches, then dims the images or adds attention edits."""
        self.check(prompts, model)
        options: ApiOptions = self.options
        if options.strength == 0 if options.apply == "attention" else options.floor == 1:
            return [self._labelled(prompt) for prompt in prompts]
        done: dict[tuple[int, int], Any] = {}
        result = []
        for prompt, heatmap in zip(prompts, self.heatmaps(prompts, model), strict=True):
            if options.apply == "attention":
                edited = prompt.adding(self._soft_region(heatmap, prompt, model))
            else:
                key = (id(prompt.image), id(heatmap.raw))
                if key not in done:  # one image object for all regions of a request, which then share its forward
                    mask = heatmap.over_image(options.interpolation)
                    done[key] = overlay(prompt.image, mask, options.grey, options.floor)
                edited = prompt.with_(image=done[key])
            result.append(self._labelled(edited))
        return result

    def _soft_region(self, heatmap: Heatmap, prompt: VisualPrompt, model: Any) -> AttentionEdit:
        """The heatmap as an attention bias on the tower of the readout, as FALIP does with a box."""
        tower, first = model.tower.name, self.options.first_block
        values = heatmap.per_patch(model.geometry_of(prompt, tower))
        first = (0 if tower == "decoder" else 0.5) if first is None else first
        return AttentionEdit(tower=tower, bias=self.options.strength * values, first_block=first)

    def edit(self, prompt: VisualPrompt, model: Any) -> VisualPrompt:
        """Edits one prompt; `edit_all` computes several heatmaps in one forward."""
        return self.edit_all([prompt], model)[0].with_(label=prompt.label)

    def heatmaps(self, prompts: Sequence[VisualPrompt], model: Any) -> list[Heatmap]:
        """The heatmap of every prompt's query, computed before images are edited.

        Args:
            prompts: images and queries.
            model: the prompted model.
        """
        from visprompt.strategies import _sources  # torch comes with it, and listing strategies needs none

        options: ApiOptions = self.options
        if options.auxiliary is not None:  # the edits are for the prompted model
            prompts = [prompt.with_(attention=()) for prompt in prompts]
        raw = _sources.raw_maps(self.looking(model), prompts, options)
        masks = [mask_of(item, options.maps, options.enhance, options.kernel_size) for item in raw]
        return [Heatmap(mask, item.geometry, item) for mask, item in zip(masks, raw, strict=True)]

    def looking(self, model: Any) -> Any:
        """The model that computes the heatmap: the auxiliary, or the prompted model itself.

        Raises:
            UnsupportedError: if it provides no heatmap.
        """
        from visprompt.strategies import _sources

        looking = self.options.auxiliary
        if looking is None:
            looking = model
        elif isinstance(looking, str):
            with self._lock:
                if self._loaded is None:
                    from visprompt.models.loading import load_model

                    self._loaded = load_model(looking)
            looking = self._loaded
        if not _sources.can_look(looking):
            raise _sources.refuse(looking, self.name or "api")
        return looking

    def check(self, prompts: Sequence[VisualPrompt], model: Any) -> None:
        """As `Prompter.check`, and checks that the model that computes the heatmap can do so."""
        super().check(prompts, model)
        self.looking(model)

    def describe(self) -> dict[str, Any]:
        """Name and options; an auxiliary model by its name."""
        options = {item.name: getattr(self.options, item.name) for item in dataclasses.fields(self.options)}
        auxiliary = options["auxiliary"]
        options["auxiliary"] = getattr(auxiliary, "name", auxiliary)
        return {"name": self.name, "options": options}

    def __repr__(self) -> str:
        return f"<Prompter {self.name} {self.describe()['options']}>"
