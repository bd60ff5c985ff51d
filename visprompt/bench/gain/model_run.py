"""One model of a suite of markers: its markers made, and their attention measured on the suite's pictures."""

from __future__ import annotations

import copy
import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visprompt.bench.gain.spec import MarkerSpec
from visprompt.errors import InvalidInputError, UnsupportedError, VispromptError
from visprompt.tasks.gain import GainMeter, Masses, random_patch
from visprompt.utils.hashing import digest
from visprompt.utils.provenance import provenance

if TYPE_CHECKING:
    from visprompt.bench.gain.run import Bench
    from visprompt.data.labelled.dataset import Labelled
    from visprompt.models.base import Model
    from visprompt.prompter import Prompter

Row = dict[str, Any]
PATCHES = "patches"
#: side of the marked square, tokens, where neither suite nor patch says one
USUAL_SIZE = 3.0
#: digits of a mass that are kept; a resumed run gives the same figures as an uninterrupted one
_DIGITS = 7


class Pictures(Sequence[Any]):
    """Pictures to measure on, by number, and what they are known by.

    Args:
        data: the pictures.
        identity: ready for JSON.
        keep: hold them in memory: they are small, and made rather than read.
    """

    def __init__(self, data: Labelled, identity: Row, keep: bool) -> None:
        self.data, self.identity = data, identity
        self._kept: dict[int, Any] | None = {} if keep else None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, number: Any) -> Any:
        if self._kept is None:
            return self.data.picture(number)
        if number not in self._kept:
            self._kept[number] = self.data.picture(number)
        return self._kept[number]


def load_pictures(spec: Mapping[str, Any], n: int) -> Pictures:
    """The pictures of a suite: generated scenes, or those of a folder, of its part `test` if it has one.

    Raises:
        InvalidInputError: if there are none.
    """
    from visprompt.data.labelled.unlabelled import read_pictures
    from visprompt.data.scenes.unlabelled import generated

    if spec["source"] == "scenes":
        width, height = spec["size_wh"]
        data = generated((width, height), seed=spec["seed"], sizes={"train": 1, "validation": 0, "test": n}).test
        assert data is not None
        return Pictures(data, {**spec, "n": n}, keep=width * height <= 256 * 256)
    splits = read_pictures(spec["folder"], validation=0)
    data = (splits.test or splits.train).limited(n, spec["seed"])
    files = [Path(str(item)) for item, _ in data.items]
    known = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return Pictures(data, {**spec, "n": len(data), "files": digest(known)}, keep=False)


@dataclass(frozen=True, eq=False)
class Marker:
    """A marker as it is on one model.

    Attributes:
        label, control: as in the suite.
        prompters: what marks the first picture, the second, …, in turn.
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


@dataclass(frozen=True, eq=False)
class Measured:
    """A marker on a model.

    Attributes:
        part: "gain" or "transfer".
        masses, without, compared: `[n, B]` with it, without any, and with the marker it is compared with, at the same
            places; None where nothing is compared.
        about: what the figures depend on, as in result rows.
    """

    part: str
    model: str
    marker: Marker
    blocks: tuple[int, ...]
    masses: Masses
    without: Masses
    compared: Masses | None
    about: Row


class _NotMeasurable(VispromptError):
    """No marker can be measured."""


def centred(patch: Any, given: Mapping[str, Any]) -> Any:
    """A copy that goes where attention is measured: on the square and as large as it, unless something else is given.

    Args:
        patch: a learned patch.
        given: options that were asked for.
    """
    usual = {"place": "centre", "scale": 1.0}
    known = {item.name for item in dataclasses.fields(patch.options)}
    wanted = {name: value for name, value in usual.items() if name in known and name not in given}
    made = copy.copy(patch)
    made.options = dataclasses.replace(patch.options, **wanted)
    return made


class GainModel:
    """One model: makes its markers, measures them, and knows them again in what earlier runs left.

    Args:
        bench: the run.
        spec: for `load_model`, or a model.
        taken: names that other models of the run have.

    Raises:
        VispromptError: if it cannot be loaded, or has no attention to measure.
    """

    def __init__(self, bench: Bench, spec: Any, taken: set[str]) -> None:
        from visprompt.models import load_model
        from visprompt.models.lvlm.vision_encoder import encoder_of

        self.bench, self.suite = bench, bench.suite
        loaded: Model = load_model(spec, device=bench.device) if isinstance(spec, str) else spec
        self.model = encoder_of(loaded)
        self.identity = self.model.describe()
        name = loaded.name
        self.name = name if name not in taken else f"{name}-{self.identity['weights'][:6]}"
        self.pictures = bench.pictures
        self._meters: dict[float, GainMeter] = {}
        self._markers: dict[str, Marker] = {}
        self.meter(USUAL_SIZE).read_blocks()

    # -- markers ------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def own_size(self) -> float:
        """Side of the square for markers that have no size in tokens: that of the model's own patch."""
        if self.suite.size_tokens is not None:
            return self.suite.size_tokens
        for spec in self.bench.whole.markers:
            if spec.strategy == "patch":
                try:
                    return self.marker(spec).size_tokens
                except VispromptError:  # said where it is measured
                    continue
        return USUAL_SIZE

    def marker(self, spec: MarkerSpec) -> Marker:
        """A marker of the suite, made for this model.

        Raises:
            VispromptError: if it cannot be used on it.
        """
        if spec.label not in self._markers:
            self._markers[spec.label] = self._random(spec) if spec.random is not None else self._made(spec)
        return self._markers[spec.label]

    def saved(self, label: str, path: str) -> Marker:
        """A saved strategy as a marker."""
        return self._made(MarkerSpec(label, saved=path))

    def _random(self, spec: MarkerSpec) -> Marker:
        assert spec.random is not None
        base = self.marker(self.bench.whole.marker(spec.random))
        if base.patch is None:
            raise InvalidInputError(f"marker {spec.label!r}: {spec.random!r} is no learned patch.")
        prompters = [random_patch(base.patch, seed) for seed in range(spec.draws)]
        identity = {"random": base.patch.describe(), "draws": spec.draws}
        return Marker(spec.label, spec.control, prompters, base.size_tokens, identity)

    def _made(self, spec: MarkerSpec) -> Marker:
        from visprompt.learned.strategy import learned_parts
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
        patches = [one for one in parts if one.name == "patch"]
        size = self.suite.size_tokens
        if size is None and patches:
            size = float(patches[0].options.size * getattr(patches[0].options, "scale", 1.0))
        identity = [prompter.describe(), *(one.describe() for one in parts)]
        return Marker(
            spec.label,
            spec.control,
            [prompter],
            self.own_size if size is None else size,
            identity,
            patch,
            None if not patches else self._is_own(patches[0]),
        )

    def _is_own(self, patch: Any) -> bool:
        from visprompt.models.identity import is_tower_of

        return patch.backbone is not None and is_tower_of(patch.backbone, self.model)

    def _learn(self, spec: MarkerSpec, patch: Any) -> Any:
        """A patch for a model for which none is bundled, learned once and kept beside the results."""
        from visprompt.prompter import Prompter

        if spec.learn is None:
            raise UnsupportedError(
                f"no patch is bundled for {self.name}: give the marker learn: {{}}, or saved: a folder with one."
            )
        settings = dict(spec.learn)
        data = settings.pop("data", None)
        what = [self.identity["weights"], patch.describe()["options"], spec.learn]
        folder = self.bench.out / PATCHES / digest(what)
        if not (folder / "config.json").exists():
            self.bench.listener.row(f"{self.name} · learning a patch")
            patch.fit(self.model, data, progress=False, **settings)
            patch.save_pretrained(folder)
        return Prompter.from_pretrained(folder)

    # -- measuring ----------------------------------------------------------------------------------------------------

    def measure(self) -> list[Measured]:
        """All that the suite asks for; what cannot be measured is a problem, and left out."""
        found, seen = [], set()
        for spec in self.suite.markers:
            one = self._measured("gain", spec.label, functools.partial(self.marker, spec))
            # A patch "of another model" on that model is the model's own, which is there already.
            if one is not None and digest([one.marker.identity, one.marker.size_tokens]) not in seen:
                seen.add(digest([one.marker.identity, one.marker.size_tokens]))
                found.append(one)
        for label, path in self.suite.transfer.items():
            one = self._measured("transfer", label, functools.partial(self.saved, label, path))
            found += [one] if one is not None else []
        return found

    def _measured(self, part: str, label: str, make: Any) -> Measured | None:
        self.bench.listener.row(f"{self.name} · {label}")
        whole = self.bench.whole
        try:
            marker = make()
            if marker.size_tokens == self.own_size:
                self._require_pictures()
            masses, about = self.masses(marker, tell=True)
            without, _ = self.plain(marker.size_tokens)
            other = None
            if whole.compare_with is not None and (part != "gain" or label != whole.compare_with):
                beside = self.marker(whole.marker(whole.compare_with))
                other, _ = self.masses(beside, marker.size_tokens)
        except _NotMeasurable as error:
            raise InvalidInputError(str(error)) from error
        except VispromptError as error:
            self.bench.problems.append(f"{self.name}, {label}: left out, because {error}")
            self.bench.done(len(self.pictures))
            return None
        meter = self.meter(marker.size_tokens)
        return Measured(part, self.name, marker, meter.read_blocks(), masses, without, other, about)

    def _require_pictures(self) -> None:
        """Looks at the pictures without a marker, which every figure needs: what fails there fails for all markers."""
        try:
            self.plain(self.own_size)
        except VispromptError as error:
            raise _NotMeasurable(str(error)) from error

    def meter(self, size: float) -> GainMeter:
        """What measures on squares of a size."""
        if size not in self._meters:
            self._meters[size] = GainMeter(
                self.model,
                self.pictures,
                size_tokens=size,
                blocks=self.suite.blocks,
                seed=self.suite.seed,
                fit=self.suite.fit,
            )
        return self._meters[size]

    def plain(self, size: float) -> tuple[Masses, Row]:
        """Masses without a marker."""
        return self._known("no marker", None, size, [])

    def masses(self, marker: Marker, size: float | None = None, tell: bool = False) -> tuple[Masses, Row]:
        """Masses with a marker, on squares of its own size or another, and what they depend on; `tell`: how it goes."""
        return self._known(marker.label, marker.identity, size or marker.size_tokens, marker.prompters, tell)

    def _known(
        self, label: str, identity: Any, size: float, prompters: list[Prompter], tell: bool = False
    ) -> tuple[Masses, Row]:
        suite, bench, meter = self.suite, self.bench, self.meter(size)
        told = provenance()
        model = {key: value for key, value in self.identity.items() if key != "name"}
        depends = {"identity": identity, "size_tokens": size, "pictures": self.pictures.identity}
        depends |= {"blocks": meter.read_blocks(), "seed": suite.seed, "fit": suite.fit}
        key = digest([model, depends, told["code"], told["versions"]])
        row = bench.known(key)
        if row is None:
            started = time.monotonic()
            masses = np.round(meter.masses(prompters or None, bench.listener.done if tell else None), _DIGITS)
            row = {
                "id": key,
                "run": "gain",
                "model": self.name,
                "marker": label,
                "masses": masses,
                "seconds": round(time.monotonic() - started, 2),
                "model_identity": self.identity,
                "limit": bench.limit,
                **depends,
                **told,
                "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            bench.log(self.name).append([row])
        elif tell:
            bench.done(len(self.pictures))
        about = {name: value for name, value in row.items() if name not in ("id", "run", "masses", "marker", "model")}
        return np.asarray(row["masses"], dtype=np.float64), about
