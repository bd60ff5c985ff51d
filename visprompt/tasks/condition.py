"""One way of pointing, as a row of a table: a strategy or an ensemble of them, or a control.

It knows runners and regions; it does not know what the scores are used for.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from visprompt.data.referring.image import Boxes, ReferringImage, iou
from visprompt.data.referring.keypoints import PointedImage
from visprompt.errors import InvalidInputError, RegionNotVisibleError, UnsupportedError, unknown_name
from visprompt.tasks.prototypes import copy_of, saved_files
from visprompt.utils.renamed import renamed_attributes, renamed_names, renamed_parameters
from visprompt.visual_prompt import Fit

if TYPE_CHECKING:
    from visprompt.prompter import Prompter
    from visprompt.request import Request

Scores = NDArray[np.float64]
#: what regions are pointed at in
Sample = ReferringImage | PointedImage
Aggregate = Literal["sum", "max"]
RegionChoice = Literal["own", "mask", "all", "random", "other", "everywhere"]
#: choices of a region that no strategy should lose to
CONTROLS = ("random", "other", "everywhere")


class NotFiniteError(InvalidInputError):
    """A model's scores are NaN or infinite: the image is not to blame, but nothing can be said about it."""


class RunnerLike(Protocol):
    """What is needed of a `visprompt.Runner`."""

    def score(self, requests: Any, texts: Sequence[str]) -> Any: ...


RunnerFactory = Callable[[Any, "Prompter | None", Fit], RunnerLike]


def default_runner(model: Any, prompter: Prompter | None, fit: Fit) -> RunnerLike:
    """A `visprompt.Runner` with its own settings; the progress bar is the caller's."""
    from visprompt.runner.runner import Runner

    return Runner(model, prompter, fit=fit, progress=False)


@dataclass(frozen=True)
class Condition:
    """How the region is pointed out to the model.

    Args:
        strategy: a strategy's name, compositions (`circle+falip`) and ensembles (`circle|falip`) included; `"none"` is
            the model without a prompt, `"random"` answers by chance, without a model. Parts may be folders of saved
            strategies, and what ships (`bundled:patch-scenes-clip`).
        options: its options.
        preset: named settings of the strategy.
        label: the row's name; by default the strategy with what differs from its defaults.
        aggregate: how the scores of an ensemble's members are joined.
        region: `"own"`: the region that is meant; `"mask"`: its outline, where the data have one (questions only);
            `"all"`: every object, without a hint which is meant (questions only). The controls: `"random"`: a box of
            the same size somewhere else in the image; `"other"`: another object's box; `"everywhere"`: no place, but
            the whole image as much darker or brighter as the strategy makes it on average.
        seed: of the random places and choices.
        fit: how images are brought into the model, unless the strategy says otherwise. `"model"` keeps the model's
            own centre crop, so candidates at the edge of a photograph can be cropped away; they are then never chosen.
        control: it stands in the table to be beaten, whatever its region is.

    Raises:
        InvalidInputError: for a value that does not exist.
    """

    strategy: str = "none"
    options: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None
    label: str = ""
    aggregate: Aggregate = "sum"
    region: RegionChoice = "own"
    seed: int = 0
    fit: Fit = "model"
    control: bool = False

    def __post_init__(self) -> None:
        for name, kind in (("aggregate", Aggregate), ("region", RegionChoice), ("fit", Fit)):
            if getattr(self, name) not in get_args(kind):
                raise unknown_name(name, getattr(self, name), get_args(kind))
        if self.is_plain and (self.options or self.preset or self.region != "own"):
            raise InvalidInputError(f"{self.strategy!r} has no options, preset or region: it does not point anywhere.")
        object.__setattr__(self, "label", self.label or self._default_label())

    @property
    def is_plain(self) -> bool:
        """True for `none` and `random`, which do not point."""
        return self.strategy in ("none", "random")

    @property
    def is_control(self) -> bool:
        """True for rows that no method should lose to."""
        return self.control or self.is_plain or self.region in CONTROLS

    def members(self) -> list[Prompter | None]:
        """The prompters whose scores are joined: one, or an ensemble's; `[None]` is the plain model.

        They are made once (again, if the files of a saved strategy have changed); every call gives copies of its own,
        so that what a prompter remembers of one run does not reach another one.
        """
        made = self._prototypes()
        try:
            return [copy_of(member) for member in made]
        except Exception:  # a plug-in may hold what cannot be copied
            return self._make()

    def _prototypes(self) -> list[Prompter | None]:
        """The members, to be described and copied, never run."""
        stamp = saved_files(self.strategy)
        made: tuple[Any, list[Prompter | None]] | None = vars(self).get("_made")
        if made is None or made[0] != stamp:
            made = (stamp, self._make())
            object.__setattr__(self, "_made", made)
        return made[1]

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes make their own.
        return {name: value for name, value in vars(self).items() if name != "_made"}

    def _make(self) -> list[Prompter | None]:
        if self.strategy == "none":
            return [None]
        if self.strategy == "random":
            return []
        from visprompt.prompter import prompter_named

        made = prompter_named(self.strategy, self.preset, **self.options)
        members = list(getattr(made, "members", None) or [made])
        if self.region == "everywhere":
            from visprompt.tasks.even_dimming import UniformDimming

            return [UniformDimming(member) for member in members]
        return members

    def describe(self) -> dict[str, Any]:
        """Everything that decides the row's figures, defaults filled in; ready for JSON."""
        members = [None if member is None else member.describe() for member in self._prototypes()]
        described: dict[str, Any] = {"strategy": self.strategy, "preset": self.preset, "members": members}
        if len(members) > 1:
            described["aggregate"] = self.aggregate
        if self.region in ("random", "other") or self.strategy in ("none", "random"):
            described["seed"] = self.seed
        described["region"], described["fit"] = self.region, self.fit
        return described

    def rng(self, key: str) -> np.random.Generator:
        """Random numbers that depend on the item only, not on what was asked before it."""
        return np.random.default_rng([self.seed, zlib.crc32(key.encode())])

    def _default_label(self) -> str:
        parts = [self.strategy]
        if self.preset:
            parts.append(f"({self.preset})")
        if self.aggregate != "sum":
            parts.append(self.aggregate)
        if self.region != "own":
            parts.append("evenly" if self.region == "everywhere" else f"@ {_PLACES.get(self.region, self.region)}")
        return " ".join(parts)


_PLACES = {"random": "random region", "other": "other region", "all": "all objects"}


@renamed_attributes(pointing="condition", score_apart="score_per_region")
class Scorer:
    """A way of pointing, joined to a model: scores regions against texts.

    Args:
        model: as `load_model` gives it; unused by `"random"`.
        pointing: how to point.
        make_runner: makes the runner of one member; a seam for tests and for runners with other settings.
    """

    def __init__(self, model: Any, condition: Condition, make_runner: RunnerFactory = default_runner) -> None:
        self.condition, self.dtype = condition, getattr(model, "dtype", None)
        self.runners = [make_runner(model, member, condition.fit) for member in condition.members()]

    @renamed_parameters(pictures="samples")
    def score(self, samples: Sequence[Sample], boxes: Sequence[Boxes], texts: Sequence[str]) -> list[Scores]:
        """Logits of every region against every text, all images in one call so that the runner can batch them.

        Args:
            images: the images.
            boxes: for every image `[k, 4]` regions.
            texts: the texts, complete with their template.

        Returns:
            for every image `[k, len(texts)]`.

        Raises:
            RegionNotVisibleError: if one of the regions cannot be pointed at; `score_per_region` then tells which.
            NotFiniteError: if a score is NaN or infinite.
            InvalidInputError: if an image cannot be read.
        """
        counts = [len(one) for one in boxes]
        used = [number for number, count in enumerate(counts) if count]
        if self.condition.strategy == "random":
            for number in used:
                _require_readable(samples[number])
            return [
                self.condition.rng(sample.id).random((count, len(texts)))
                for sample, count in zip(samples, counts, strict=True)
            ]
        if not used:
            return [np.zeros((0, len(texts))) for _ in samples]
        plain = self.condition.strategy == "none"
        requests = [self.request(samples[number], None if plain else boxes[number]) for number in used]
        joined = self._joined(requests, texts)
        if plain:
            # One score per image, the same for all of its regions: ties are then exact, and broken by chance.
            found = {
                number: np.repeat(row[None], counts[number], axis=0) for number, row in zip(used, joined, strict=True)
            }
        else:
            pieces = np.split(joined, np.cumsum([counts[number] for number in used])[:-1])
            found = dict(zip(used, pieces, strict=True))
        return [found.get(number, np.zeros((0, len(texts)))) for number in range(len(samples))]

    def score_per_region(self, sample: Sample, boxes: Boxes, texts: Sequence[str]) -> tuple[Scores, str]:
        """As `score` for one image, every region on its own: −inf for those that cannot be pointed at.

        Returns:
            `[k, len(texts)]`, and what is wrong with the first of those regions ("" if there is none).
        """
        scores, why = np.full((len(boxes), len(texts)), -np.inf), ""
        request = self.request(sample, boxes)
        for number, region in enumerate(request.region):
            try:
                scores[number] = self._joined([dataclasses.replace(request, region=[region])], texts)[0]
            except RegionNotVisibleError as error:
                why = why or str(error)
        return scores, why

    @renamed_parameters(picture="sample")
    def request(self, sample: Sample, boxes: Boxes | None) -> Request:
        """The request for the regions of one image; `None`: for the image alone."""
        from visprompt.request import Request

        if boxes is None:
            return Request(_source(sample), id=sample.id)
        if self.condition.region in ("mask", "all"):
            raise UnsupportedError(
                f"region: {self.condition.region} is for questions; here every candidate is pointed at with its own "
                "box."
            )
        request = Request(_source(sample), id=sample.id)
        if self.condition.region == "random":
            boxes = elsewhere(boxes, request.pil_image.size, self.condition.rng(sample.id))
        elif self.condition.region == "other":
            boxes = swapped(boxes, sample.candidates_xyxy, self.condition.rng(sample.id))
        return Request(_source(sample), region=[sample.region(box) for box in boxes.tolist()], id=sample.id)

    def _joined(self, requests: Sequence[Request], texts: Sequence[str]) -> Scores:
        members = [self._finite(runner.score(requests, texts), requests) for runner in self.runners]
        return np.asarray(np.sum(members, axis=0) if self.condition.aggregate == "sum" else np.max(members, axis=0))

    def _finite(self, value: Any, requests: Sequence[Request]) -> Scores:
        array = _array(value)
        if np.isfinite(array).all():
            return array
        names = ", ".join(str(request.id) for request in requests[:3]) + (", …" if len(requests) > 3 else "")
        # The model's, if it says so: runners may give float32 of what was computed in half of that.
        dtype = str(self.dtype or getattr(value, "dtype", array.dtype)).removeprefix("torch.")
        bad = int((~np.isfinite(array)).sum())
        advice = "Load the model with dtype float32" if "16" in dtype else "Check the model's weights"
        raise NotFiniteError(
            f"image {names}: {self.condition.label} gives {bad} of {array.size} scores that are not finite (NaN or "
            f"infinite), computed as {dtype}. {advice}, or take weaker options."
        )


def elsewhere(boxes: Boxes, size_wh: tuple[int, int], rng: np.random.Generator) -> Boxes:
    """Boxes of the same sizes at random places, overlapping the original as little as 30 draws allow."""
    wh = boxes[:, 2:] - boxes[:, :2]
    room = np.maximum(np.asarray(size_wh) - wh, 0.0)
    corners = rng.random((30, len(boxes), 2)) * room
    drawn = np.concatenate([corners, corners + wh], axis=-1)
    overlap = np.stack(
        [[iou(box[None], own[None])[0, 0] for box, own in zip(row, boxes, strict=True)] for row in drawn]
    )
    # The first draw that stays clear of the original; always taking the least overlap would favour the far corners.
    clear = overlap < 0.05
    first = np.where(clear.any(axis=0), clear.argmax(axis=0), overlap.argmin(axis=0))
    return np.asarray(drawn[first, np.arange(len(boxes))])


def swapped(boxes: Boxes, candidates: Boxes, rng: np.random.Generator) -> Boxes:
    """For every box another candidate of the image; an image with one candidate keeps it."""
    chosen = []
    for box in boxes:
        others = [one for one in candidates if not np.array_equal(one, box)]
        chosen.append(others[int(rng.integers(len(others)))] if others else box)
    return np.stack(chosen)


def _require_readable(sample: Sample) -> None:
    """Chance needs no image, but should answer the same items as the rows it stands beside."""
    if isinstance(sample.image, Path):
        from visprompt.request import Request

        _ = Request(sample.image, id=sample.id).pil_image


def _source(sample: Sample) -> Any:
    return sample.image


def _array(value: Any) -> Scores:
    if hasattr(value, "detach"):
        value = value.detach().float().cpu().numpy()
    return np.asarray(value, dtype=np.float64)


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"Pointing": "Condition", "Pointer": "Scorer", "Pictured": "Sample"}, globals())
