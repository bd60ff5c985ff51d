"""A condition is one row of a results table: a strategy, an ensemble of strategies, or a control.

This module uses runners and regions; it does not depend on how tasks use the scores.
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
#: image types that have regions
Sample = ReferringImage | PointedImage
Aggregate = Literal["sum", "max"]
RegionChoice = Literal["own", "mask", "all", "random", "other", "everywhere"]
#: choices of `region` that are controls
CONTROLS = ("random", "other", "everywhere")


class NotFiniteError(InvalidInputError):
    """A model's scores are NaN or infinite, so the item has no answer; the cause is not the image."""


class RunnerLike(Protocol):
    """The part of `visprompt.Runner` that a `Scorer` needs."""

    def score(self, requests: Any, texts: Sequence[str]) -> Any: ...


RunnerFactory = Callable[[Any, "Prompter | None", Fit], RunnerLike]


def default_runner(model: Any, prompter: Prompter | None, fit: Fit) -> RunnerLike:
    """Makes a `visprompt.Runner` with default settings and without a progress bar."""
    from visprompt.runner.runner import Runner

    return Runner(model, prompter, fit=fit, progress=False)


@dataclass(frozen=True)
class Condition:
    """How the region is pointed out to the model.

    Args:
        strategy: name of a strategy; compositions (`circle+falip`) and ensembles (`circle|falip`) are allowed. `"none"`
            is the model without a prompt, `"random"` answers at random without a model. Parts may be folders of saved
            strategies, and bundled ones (`bundled:patch-scenes-clip`).
        options: options of the strategy.
        preset: named settings of the strategy.
        label: name of the row; by default the strategy's name and the options that differ from its defaults.
        aggregate: how the scores of an ensemble's members are combined.
        region: the region to point at. `"own"`: the item's region; `"mask"`: its outline, if the data have one
            (questions only); `"all"`: every object, without telling which one is asked about (questions only).
            Controls: `"random"`: a box of the same size at a random position; `"other"`: another object's box;
            `"everywhere"`: no region; the whole image becomes as much darker or brighter as the strategy makes it on
            average.
        seed: seed of random positions and choices.
        fit: how images are resized for the model, unless the strategy determines it. `"model"` keeps the model's centre
            crop: candidates at the edge of a photograph can be cropped away and are then never chosen.
        control: True: the row is a control, whatever its region is.

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
        """True for the strategies `none` and `random`, which point at no region."""
        return self.strategy in ("none", "random")

    @property
    def is_control(self) -> bool:
        """True for baselines and controls, which a strategy should beat."""
        return self.control or self.is_plain or self.region in CONTROLS

    def members(self) -> list[Prompter | None]:
        """Returns the prompters whose scores are combined: one, or those of an ensemble; `[None]` is the plain model.

        They are built once (and again if the files of a saved strategy change). Every call returns new copies, so that
        state of one run does not reach another.
        """
        made = self._prototypes()
        try:
            return [copy_of(member) for member in made]
        except Exception:  # the attributes of a plug-in may not be copyable
            return self._make()

    def _prototypes(self) -> list[Prompter | None]:
        """Returns the members for description and copying; they are never run."""
        stamp = saved_files(self.strategy)
        made: tuple[Any, list[Prompter | None]] | None = vars(self).get("_made")
        if made is None or made[0] != stamp:
            made = (stamp, self._make())
            object.__setattr__(self, "_made", made)
        return made[1]

    def __getstate__(self) -> dict[str, Any]:
        # Worker processes build their own strategies.
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
        """Returns all settings that determine the row's figures, with defaults, ready for JSON."""
        members = [None if member is None else member.describe() for member in self._prototypes()]
        described: dict[str, Any] = {"strategy": self.strategy, "preset": self.preset, "members": members}
        if len(members) > 1:
            described["aggregate"] = self.aggregate
        if self.region in ("random", "other") or self.strategy in ("none", "random"):
            described["seed"] = self.seed
        described["region"], described["fit"] = self.region, self.fit
        return described

    def rng(self, key: str) -> np.random.Generator:
        """Returns a random generator that depends only on the item, not on the items evaluated before it.

        Args:
            key: id of the item.
        """
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
    """A condition joined with a model: scores regions against texts.

    Args:
        model: as `load_model` returns it; unused by the strategy `"random"`.
        condition: how regions are pointed out.
        make_runner: makes the runner of one member, from model, prompter and fit; tests and callers with other runner
            settings replace it.
    """

    def __init__(self, model: Any, condition: Condition, make_runner: RunnerFactory = default_runner) -> None:
        self.condition, self.dtype = condition, getattr(model, "dtype", None)
        self.runners = [make_runner(model, member, condition.fit) for member in condition.members()]

    @renamed_parameters(pictures="samples")
    def score(self, samples: Sequence[Sample], boxes: Sequence[Boxes], texts: Sequence[str]) -> list[Scores]:
        """Computes the logits of every region against every text; all images are passed in one call, for batching.

        Args:
            samples: n images.
            boxes: for every image `[k, 4]` regions, xyxy in pixels of the original image.
            texts: m texts, complete with their template.

        Returns:
            For every image an array `[k, m]` of logits.

        Raises:
            RegionNotVisibleError: if a region cannot be pointed at; `score_per_region` finds out which.
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
            # One score per image for all of its regions, so that ties are exact and are broken at random.
            found = {
                number: np.repeat(row[None], counts[number], axis=0) for number, row in zip(used, joined, strict=True)
            }
        else:
            pieces = np.split(joined, np.cumsum([counts[number] for number in used])[:-1])
            found = dict(zip(used, pieces, strict=True))
        return [found.get(number, np.zeros((0, len(texts)))) for number in range(len(samples))]

    def score_per_region(self, sample: Sample, boxes: Boxes, texts: Sequence[str]) -> tuple[Scores, str]:
        """Scores the regions of one image one by one; regions that cannot be pointed at get −inf.

        Args:
            sample: the image.
            boxes: `[k, 4]` regions, xyxy in pixels.
            texts: m texts.

        Returns:
            Logits `[k, m]`, and the error message of the first region that cannot be pointed at ("" if there is none).
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
        """Returns the request for the regions of one image.

        Args:
            sample: the image.
            boxes: `[k, 4]` regions, xyxy in pixels; None: the request has no region.

        Raises:
            UnsupportedError: for a choice of region that only questions have.
        """
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
        # The model's own dtype if known: a runner may return float32 for values computed in half precision.
        dtype = str(self.dtype or getattr(value, "dtype", array.dtype)).removeprefix("torch.")
        bad = int((~np.isfinite(array)).sum())
        advice = "Load the model with dtype float32" if "16" in dtype else "Check the model's weights"
        raise NotFiniteError(
            f"image {names}: {self.condition.label} gives {bad} of {array.size} scores that are not finite (NaN or "
            f"infinite), computed as {dtype}. {advice}, or take weaker options."
        )


def elsewhere(boxes: Boxes, size_wh: tuple[int, int], rng: np.random.Generator) -> Boxes:
    """Draws boxes of the same sizes at random positions, with as little overlap with the original as 30 draws allow.

    Args:
        boxes: `[k, 4]`, xyxy in pixels.
        size_wh: width and height of the image in pixels.
        rng: random generator.

    Returns:
        `[k, 4]`, xyxy in pixels.
    """
    wh = boxes[:, 2:] - boxes[:, :2]
    room = np.maximum(np.asarray(size_wh) - wh, 0.0)
    corners = rng.random((30, len(boxes), 2)) * room
    drawn = np.concatenate([corners, corners + wh], axis=-1)
    overlap = np.stack(
        [[iou(box[None], own[None])[0, 0] for box, own in zip(row, boxes, strict=True)] for row in drawn]
    )
    # The first draw without overlap; always taking the least overlap would favour the far corners.
    clear = overlap < 0.05
    first = np.where(clear.any(axis=0), clear.argmax(axis=0), overlap.argmin(axis=0))
    return np.asarray(drawn[first, np.arange(len(boxes))])


def swapped(boxes: Boxes, candidates: Boxes, rng: np.random.Generator) -> Boxes:
    """Replaces every box by another candidate of the image, drawn at random; a single candidate is kept.

    Args:
        boxes: `[k, 4]`, xyxy in pixels.
        candidates: `[n, 4]`, all candidates of the image.
        rng: random generator.

    Returns:
        `[k, 4]`.
    """
    chosen = []
    for box in boxes:
        others = [one for one in candidates if not np.array_equal(one, box)]
        chosen.append(others[int(rng.integers(len(others)))] if others else box)
    return np.stack(chosen)


def _require_readable(sample: Sample) -> None:
    """Raises an error if the image cannot be read, so that random answers cover the same items as the other rows."""
    if isinstance(sample.image, Path):
        from visprompt.request import Request

        _ = Request(sample.image, id=sample.id).pil_image


def _source(sample: Sample) -> Any:
    return sample.image


def _array(value: Any) -> Scores:
    if hasattr(value, "detach"):
        value = value.detach().float().cpu().numpy()
    return np.asarray(value, dtype=np.float64)


#: names of visprompt 0.4.0, which work with a DeprecationWarning
__getattr__ = renamed_names(__name__, {"Pointing": "Condition", "Pointer": "Scorer", "Pictured": "Sample"}, globals())
