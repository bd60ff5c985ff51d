"""One model of a suite of markers: its markers made, and learned where none is bundled."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprompt.bench.gain.spec import MarkerSpec
from visprompt.bench.kind import RunContext, loaded
from visprompt.bench.rows import Row
from visprompt.errors import InvalidInputError, UnsupportedError, VispromptError
from visprompt.tasks.gain import GainMeter, random_patch
from visprompt.utils.hashing import digest

if TYPE_CHECKING:
    from visprompt.data.labelled.dataset import Labelled
    from visprompt.prompter import Prompter

PATCHES = "patches"
#: side of the marked square, tokens, where neither suite nor patch says one
USUAL_SIZE = 3.0


class ImageDataset(Sequence[Any]):
    """Images to measure on, by number, and what they are known by.

    Args:
        data: the images.
        identity: ready for JSON.
        keep: hold them in memory: they are small, and made rather than read.
    """

    def __init__(self, data: Labelled, identity: Row, keep: bool) -> None:
        self.identity, self._count = identity, len(data)
        self._image = functools.cache(data.image) if keep else data.image

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: Any) -> Any:
        return self._image(number)


def load_images(spec: Mapping[str, Any], n: int) -> ImageDataset:
    """The images of a suite: generated scenes, or those of a folder, of its part `test` if it has one."""
    from visprompt.data.labelled.unlabelled import read_images
    from visprompt.data.scenes.unlabelled import generated

    if spec["source"] == "scenes":
        width, height = spec["size_wh"]
        data = generated((width, height), seed=spec["seed"], sizes={"train": 1, "validation": 0, "test": n}).test
        assert data is not None
        return ImageDataset(data, {**spec, "n": n}, keep=width * height <= 256 * 256)
    splits = read_images(spec["folder"], validation=0)
    data = (splits.test or splits.train).limited(n, spec["seed"])
    files = [Path(str(item)) for item, _ in data.items]
    known = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return ImageDataset(data, {**spec, "n": len(data), "files": digest(known)}, keep=False)


@dataclass(frozen=True, eq=False)
class Marker:
    """A marker as it is on one model.

    Attributes:
        label, control: as in the suite.
        prompters: what marks the first image, the second, …, in turn.
        size_tokens: side of the square that it is measured on.
        identity: what it is known by, ready for JSON.
        patch: the learned patch in it, if it is one.
        own: whether that was learned on this model; None for markers without a patch.
    """

    label: str
    control: bool
    prompters: list[Prompter]
    size_tokens: float
    identity: Any
    patch: Any = None
    own: bool | None = None


def centred(patch: Any, given: Mapping[str, Any]) -> Any:
    """A copy of a learned patch that goes on the square and is as large as it, unless other options were `given`."""
    usual, made = {"place": "centre", "scale": 1.0}, copy.copy(patch)
    wanted = {name: usual[name] for name in usual if hasattr(patch.options, name) and name not in given}
    made.options = dataclasses.replace(patch.options, **wanted)
    return made


def marked_model(context: RunContext, spec: Any) -> MarkedModel:
    """A model of the run with its markers, made once as long as it is held."""
    return context.held(spec, lambda: MarkedModel(context, spec))


def images_of(context: RunContext) -> ImageDataset:
    """The images of the suite."""
    spec = context.suite.images
    return context.cached("images", lambda: load_images(spec, context.settings.limited(spec["n"])))


class MarkedModel:
    """One model and its markers.

    Args:
        context: the run.
        spec: for `load_model`, or a model.

    Raises:
        VispromptError: if it cannot be loaded, or has no attention to measure.
    """

    def __init__(self, context: RunContext, spec: Any) -> None:
        from visprompt.models.lvlm.vision_encoder import encoder_of

        self.context, self.suite, self.whole = context, context.suite, context.settings.whole
        made = loaded(spec, context.settings.device)
        self.spec, self.model = spec, encoder_of(made)
        self.identity = self.model.describe()
        self.name = context.name(made.name, str(self.identity["weights"]))
        self.images = images_of(context)
        self._meters: dict[float, GainMeter] = {}
        self._markers: dict[str, Marker] = {}
        self.meter(USUAL_SIZE).read_blocks()

    # -- markers ------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def own_size(self) -> float:
        """Side of the square for markers that have no size in tokens: that of the model's own patch."""
        if self.suite.size_tokens is not None:
            return self.suite.size_tokens
        for spec in (one for one in self.whole.markers if one.strategy == "patch"):
            with contextlib.suppress(VispromptError):  # said where it is measured
                return self.marker(spec).size_tokens
        return USUAL_SIZE

    def marker(self, spec: MarkerSpec) -> Marker:
        """A marker of the suite, made for this model; a VispromptError if it cannot be used on it."""
        if spec.label not in self._markers:
            self._markers[spec.label] = self._random(spec) if spec.random is not None else self._made(spec)
        return self._markers[spec.label]

    def saved(self, label: str, path: str) -> Marker:
        """A saved strategy as a marker."""
        return self._made(MarkerSpec(label, saved=path))

    def _random(self, spec: MarkerSpec) -> Marker:
        assert spec.random is not None
        base = self.marker(self.whole.marker(spec.random))
        if base.patch is None:
            raise InvalidInputError(f"marker {spec.label!r}: {spec.random!r} is no learned patch.")
        prompters = [random_patch(base.patch, seed) for seed in range(spec.draws)]
        identity = {"random": base.patch.describe(), "draws": spec.draws}
        return Marker(spec.label, spec.control, prompters, base.size_tokens, identity)

    def _made(self, spec: MarkerSpec) -> Marker:
        from visprompt.learned.strategy import learned_parts
        from visprompt.models.identity import is_tower_of
        from visprompt.prompter import Prompter

        if spec.saved is not None:
            prompter = Prompter.from_pretrained(spec.saved, **spec.options)
        else:
            assert spec.strategy is not None
            prompter = Prompter.from_name(spec.strategy, preset=spec.preset, **spec.options)
        parts: list[Any] = [one.on(self.model) for one in learned_parts(prompter)]
        patch = None
        if prompter.name == "patch":
            patch = parts[0] if parts[0].parameters is not None else self._learn(spec, parts[0])
            prompter = patch = parts[0] = centred(patch, spec.options)
        size, own = self.suite.size_tokens, None
        first = next((one for one in parts if one.name == "patch"), None)
        if first is not None:
            own = first.backbone is not None and is_tower_of(first.backbone, self.model)
            if size is None:
                size = float(first.options.size * getattr(first.options, "scale", 1.0))
        identity = [prompter.describe(), *(one.describe() for one in parts)]
        size = self.own_size if size is None else size
        return Marker(spec.label, spec.control, [prompter], size, identity, patch, own)

    def _learn(self, spec: MarkerSpec, patch: Any) -> Any:
        """A patch for a model for which none is bundled, learned once and kept beside the results."""
        from visprompt.prompter import Prompter

        if spec.learn is None:
            raise UnsupportedError(
                f"no patch is bundled for {self.name}: give the marker learn: {{}}, or saved: a folder with one."
            )
        settings, folder = {"data": None, **spec.learn}, self._folder(spec, patch)
        if not (folder / "config.json").exists():
            self.context.progress.starts(f"{self.name} · learning a patch")
            patch.fit(self.model, settings.pop("data"), progress=False, **settings)
            patch.save_pretrained(folder)
        return Prompter.from_pretrained(folder)

    def has_to_learn(self, spec: MarkerSpec) -> bool:
        """Whether a marker that can be learned is a patch that is neither bundled with this model nor learned yet."""
        from visprompt.prompter import Prompter

        with contextlib.suppress(VispromptError):  # said where it is measured
            patch: Any = Prompter.from_name("patch", preset=spec.preset, **spec.options).on(self.model)  # type: ignore[attr-defined]
            return patch.parameters is None and not (self._folder(spec, patch) / "config.json").exists()
        return False

    def _folder(self, spec: MarkerSpec, patch: Any) -> Path:
        key = digest([self.identity["weights"], patch.describe()["options"], spec.learn])
        return self.context.store.out / PATCHES / key

    def meter(self, size: float) -> GainMeter:
        """What measures on squares of a size, in tokens."""
        if size not in self._meters:
            suite = self.suite
            self._meters[size] = GainMeter(
                self.model, self.images, size_tokens=size, blocks=suite.blocks, seed=suite.seed, fit=suite.fit
            )
        return self._meters[size]
