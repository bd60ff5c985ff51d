"""Tints the region with a colour and names the colour in the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from visprompt.strategies import _draw

from visprompt.errors import InvalidInputError
from visprompt.prompter import Options, Prompter
from visprompt.visual_prompt import VisualPrompt

#: tints that go with a colour name; the red one is the paper's
TINTS: dict[str, tuple[int, int, int]] = {
    "red": (240, 0, 30),
    "green": (0, 255, 0),
    "blue": (0, 10, 255),
    "yellow": (255, 255, 25),
    "pink": (255, 170, 230),
    "purple": (155, 50, 210),
}


@dataclass(frozen=True)
class ShadeOptions(Options):
    """Options of `shade`.

    Args:
        colour: name (red, green, blue, yellow, pink, purple, or any other), `#rrggbb` or RGB triple.
        alpha: opacity of the tint, 0 to 1 (paper: 127/255). 0: neither tint nor text.
        shape: `"box"` tints the box around the region, `"mask"` the region's own shape.
        text: add the suffix to texts.
        suffix: the suffix; `{colour}` stands for the colour's name.
        colour_name: name of the colour in the text; None: `colour` itself, which then must be a name.
    """

    colour: str | tuple[int, int, int] = "red"
    alpha: float = 127 / 255
    shape: str = "box"
    text: bool = True
    suffix: str = " is in {colour} color."
    colour_name: str | None = None

    def __post_init__(self) -> None:
        _draw.frozen_colour(self, "colour", TINTS)
        _draw.check_number("alpha", self.alpha, 0, 1)
        _draw.check_choice("shape", self.shape, _draw.SHAPES)
        if not isinstance(self.suffix, str):
            raise InvalidInputError(f"suffix is a text such as ' is in {{colour}} color.'; got {self.suffix!r}.")
        try:
            self.suffix.format(colour="red")
        except (KeyError, IndexError, ValueError):
            raise InvalidInputError(f"suffix may hold {{colour}} and no other braces; got {self.suffix!r}.") from None
        nameless = not isinstance(self.colour, str) or self.colour.startswith("#")
        if self.text and "{colour}" in self.suffix and self.colour_name is None and nameless:
            raise InvalidInputError(
                f"the text needs a name for the colour {self.colour!r}: give colour_name='…', or text=False."
            )


class Shade(Prompter):
    """CPT colour shade (Yao et al., 2021, https://arxiv.org/abs/2109.11797): tints the region, names the colour.

    Inside the box `(1 − α) · image + α · tint`, with tint (240, 0, 30) and α = 127/255; a text "the dog" becomes "the
    dog is in red color.", so that the text refers to the region by its colour.

    >>> from PIL import Image
    >>> from visprompt import Box, VisualPrompt
    >>> prompt = VisualPrompt(Image.new("RGB", (64, 64)), regions=(Box(16, 16, 48, 48),))
    >>> edited = Shade().edit(prompt, model=None)
    >>> edited.image.getpixel((32, 32)), edited.text("the dog")
    ((120, 0, 15), 'the dog is in red color.')

    Units: α is an opacity, 0 to 1.

    Raises:
        InvalidInputError: without a region, or for an option out of range.
    """

    Options = ShadeOptions
    acts_on = frozenset({"pixels", "text"})
    needs = frozenset({"region"})
    neutral: ClassVar[dict[str, Any]] = {"alpha": 0.0}

    def __init__(self, options: ShadeOptions | None = None) -> None:
        super().__init__(options)
        if not self.options.text:
            self.acts_on = frozenset({"pixels"})  # type: ignore[misc]  # texts stay unchanged

    def edit(self, prompt: VisualPrompt, model: Any) -> VisualPrompt:
        """Tints the regions and adds the suffix to texts."""
        options: ShadeOptions = self.options
        regions, image = _draw.placed(prompt), prompt.image
        if options.alpha == 0:
            return prompt
        share = options.alpha * _draw.inside_share(regions, image.size, options.shape)
        edited = prompt.with_(image=_draw.lay_over(image, _draw.parse_colour(options.colour, TINTS), share))
        if not options.text:
            return edited
        ending = options.suffix.format(colour=options.colour_name or options.colour)
        return edited.with_text(lambda text: text.rstrip().removesuffix(".") + ending)
