"""Suites of the kind `gain`: which markers' attention gain is measured, on which models and pictures.

    kind: gain
    title: Attention gain
    models: [bundled:scenes-clip, bundled:scenes-mae]
    pictures: {source: scenes, n: 500, seed: 7}                  # or {source: folder, folder: photos/, n: 500}
    markers:
      - {strategy: patch, learn: {epochs: 2}}                    # the model's own patch; learned where none is bundled
      - {label: another's patch, saved: "bundled:patch-scenes-clip"}
      - circle
      - {label: wide circle, strategy: circle, options: {width: 2}}
    controls:
      - {label: random patch, random: patch, draws: 16}          # the same shape, other colours
    compare_with: circle
    transfer: {scenes-clip: "bundled:patch-scenes-clip"}         # every one of these patches on every model
    sweep:                                                       # patches learned anew, looked at on validation
      model: bundled:scenes-clip
      grid: {size: [2, 3], shape: [circle, full], ratio: [0.3, 0.6]}
      settings: {max_steps: 100}
      seeds: [0, 1]
      n: 200

Reading and checking only; nothing here imports torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visprompt.bench.schema import check_text, listed, mapping, texts, whole
from visprompt.bench.tuning.spec import known_settings
from visprompt.errors import InvalidInputError, VispromptError, unknown_name
from visprompt.utils.hashing import digest

KIND = "gain"
_TOP: tuple[str, ...] = ("kind", "title", "description", "models", "pictures", "size_tokens", "blocks", "seed", "fit")
_TOP += ("markers", "controls", "compare_with", "transfer", "sweep", "examples")
_MARKER = ("label", "strategy", "preset", "options", "saved", "random", "draws", "learn")
_SOURCES = {"scenes": ("n", "seed", "size_wh"), "folder": ("folder", "n", "seed")}


@dataclass(frozen=True)
class MarkerSpec:
    """One row of the table: a marker. One of `strategy`, `saved` and `random` says what it is.

    Attributes:
        label: its name in the table.
        strategy, preset, options: as in `Prompter.from_name`; of `patch` without anything learned, the one bundled with
            the model. A patch goes on the middle of the square unless `place` says otherwise.
        saved: a saved strategy: a folder, `bundled:patch-…` or a hub id; `options` are those of use.
        random: label of a marker that is a learned patch; this one has its shape, size and alpha, and random colours.
        draws: of those colours; pictures take them in turn.
        learn: how it is learned on a model for which none is bundled: `data` and settings of `fit`. None: it is not.
        control: a row that others have to beat.
    """

    label: str
    strategy: str | None = None
    preset: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    saved: str | None = None
    random: str | None = None
    draws: int = 16
    learn: dict[str, Any] | None = None
    control: bool = False

    @property
    def drawn(self) -> bool:
        """Whether it is the same on every model: nothing in it was learned."""
        return self.strategy is not None and "patch" not in self.strategy.replace("|", "+").split("+")


@dataclass(frozen=True)
class SweepSpec:
    """Patches learned anew at every point of a grid, and measured on validation pictures.

    Attributes:
        model: for `load_model`, or a model.
        grid: options of `patch` with their values.
        settings: of `FitSettings`, over the strategy's own.
        seeds: every point is learned once with each.
        n: validation pictures that gain is measured on.
    """

    model: Any
    grid: dict[str, list[Any]]
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    n: int

    def points(self) -> Iterator[dict[str, Any]]:
        """All different combinations of the grid: a full patch has no hole, and a frame without a hole is full."""
        seen = []
        for values in itertools.product(*self.grid.values()):
            point = dict(zip(self.grid, values, strict=True))
            if point.get("shape") == "square" and point.get("ratio") == 0:
                point["shape"] = "full"
            if point.get("shape") == "full":
                point.pop("ratio", None)
            if point not in seen:
                seen.append(point)
                yield point


@dataclass(frozen=True)
class GainSuite:
    """A checked suite of markers.

    Attributes:
        name: file name without `.yaml`.
        models: for `load_model`.
        pictures: `source` scenes (`n`, `seed`, `size_wh`) or folder (`folder`, `n`, `seed`).
        size_tokens: side of the marked square; None: that of the patch that is measured, for drawn markers of the
            model's own.
        blocks: whose attention; None: all.
        seed: of the places.
        fit: how pictures are brought into the model.
        compare_with: label of the marker that others are compared with on the same places, or None.
        transfer: patches by name that are tried on every model.
        examples: pictures per model in the report.
    """

    name: str
    title: str
    description: str
    models: tuple[str, ...]
    pictures: dict[str, Any]
    markers: tuple[MarkerSpec, ...]
    size_tokens: float | None = None
    blocks: tuple[int, ...] | None = None
    seed: int = 0
    fit: str = "model"
    compare_with: str | None = None
    transfer: dict[str, str] = field(default_factory=dict)
    sweep: SweepSpec | None = None
    examples: int = 3
    hash: str = field(default="", compare=False)

    @property
    def tasks(self) -> tuple[TaskName, ...]:
        """What is measured, under the name that columns have in other suites."""
        parts = {"gain": True, "transfer": bool(self.transfer), "sweep": self.sweep is not None}
        return tuple(TaskName(name) for name, there in parts.items() if there)

    def marker(self, label: str) -> MarkerSpec:
        """The marker with that label."""
        for one in self.markers:
            if one.label == label:
                return one
        raise unknown_name("marker", label, [one.label for one in self.markers])


@dataclass(frozen=True)
class TaskName:
    """A column of `visprompt list suites`."""

    key: str


def parse_gain(content: Mapping[str, Any], name: str) -> GainSuite:
    """Checks what a YAML file holds.

    Raises:
        UnknownNameError: for keys, strategies, settings or options that do not exist.
        InvalidInputError: for values that cannot be used.
    """
    where = f"suite {name}"
    top = mapping(content, where, _TOP)
    for key in ("title", "description", "fit", "compare_with"):
        check_text(top, key, where)
    markers = [_marker(value, control=False) for value in listed(top.get("markers"), "markers")]
    markers += [_marker(value, control=True) for value in listed(top.get("controls"), "controls")]
    if not markers:
        raise InvalidInputError(f"{where} has no markers.")
    labels = [one.label for one in markers]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise InvalidInputError(f"{where} has two markers called {', '.join(twice)}: give them a label of their own.")
    shaped = [one.label for one in markers if one.random is None]
    for marker in markers:
        if marker.random is not None and marker.random not in shaped:
            raise unknown_name(f"marker in random of {marker.label!r}", marker.random, shaped)
    compare = top.get("compare_with")
    if compare is not None and compare not in labels:
        raise unknown_name("marker in compare_with", compare, labels)
    suite = GainSuite(
        name=name,
        title=str(top.get("title", name)),
        description=str(top.get("description", "")).strip(),
        models=tuple(texts(top.get("models"), "models")),
        pictures=_pictures(top.get("pictures")),
        markers=tuple(markers),
        size_tokens=_size(top.get("size_tokens")),
        blocks=_blocks(top.get("blocks")),
        seed=whole(top.get("seed", 0), "seed", least=0),
        fit=_fit(top.get("fit", "model")),
        compare_with=compare,
        transfer=_transfer(top.get("transfer")),
        sweep=_sweep(top.get("sweep")),
        examples=whole(top.get("examples", 3), "examples", least=0),
        hash=digest(content),
    )
    require_unseen(suite)
    return suite


def _marker(content: Any, control: bool) -> MarkerSpec:
    from visprompt.prompter import Prompter

    if isinstance(content, str):
        content = {"strategy": content}
    values = mapping(content, "a marker", _MARKER)
    for key in ("label", "strategy", "preset", "saved", "random"):
        check_text(values, key, "a marker")
    kinds = [key for key in ("strategy", "saved", "random") if values.get(key)]
    if len(kinds) != 1:
        raise InvalidInputError(f"a marker has one of strategy, saved and random; got {values or 'nothing'}.")
    label = str(values.get("label") or values[kinds[0]])
    where = f"marker {label!r}"
    learn = _learn(values["learn"], where) if values.get("learn") is not None else None
    made = MarkerSpec(
        label=label,
        strategy=values.get("strategy"),
        preset=values.get("preset"),
        options=mapping(values.get("options"), f"options of {where}"),
        saved=values.get("saved"),
        random=values.get("random"),
        draws=whole(values.get("draws", MarkerSpec.draws), f"draws of {where}", least=1),
        learn=learn,
        control=control,
    )
    if made.strategy is None and (made.preset or learn is not None):
        raise InvalidInputError(f"{where}: preset and learn go with strategy alone.")
    if made.random is not None and made.options:
        raise InvalidInputError(f"{where}: its options are those of {made.random!r}.")
    if learn is not None and made.strategy != "patch":
        raise InvalidInputError(f"{where}: learn goes with strategy: patch, which needs no labels.")
    if made.random is None and "draws" in values:
        raise InvalidInputError(f"{where}: draws goes with random alone.")
    if made.strategy is not None:
        try:
            Prompter.from_name(made.strategy, preset=made.preset, **made.options)
        except VispromptError as error:
            raise type(error)(f"{where}: {error}") from error
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"{where}: {error}.") from error
    return made


def _learn(content: Any, where: str) -> dict[str, Any]:
    values = mapping(content, f"learn of {where}")
    data = values.pop("data", None)
    if data is not None and not isinstance(data, str):
        raise InvalidInputError(f"learn of {where}: data is a folder of pictures; got {data!r:.60}.")
    found = _settings(values, f"learn of {where}")
    return found if data is None else {"data": data, **found}


def _settings(content: Any, where: str) -> dict[str, Any]:
    from visprompt.training.settings import FitSettings

    values = known_settings(content, where)
    try:
        FitSettings(**values)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{where}: {error}.") from error
    except VispromptError as error:
        raise type(error)(f"{where}: {error}") from error
    return values


def _pictures(content: Any) -> dict[str, Any]:
    values = mapping(content if content is not None else {"source": "scenes"}, "pictures")
    source = values.get("source", "scenes")
    if source not in _SOURCES:
        raise unknown_name("source of pictures", source, _SOURCES)
    mapping(values, "pictures", ("source", *_SOURCES[source]))
    found: dict[str, Any] = {"source": source, "n": whole(values.get("n", 500), "n of pictures", least=1)}
    found["seed"] = whole(values.get("seed", 0), "seed of pictures", least=0)
    if source == "folder":
        if not isinstance(values.get("folder"), str):
            raise InvalidInputError("pictures from a folder need folder: where they are.")
        return {**found, "folder": values["folder"]}
    size = values.get("size_wh", [64, 64])
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise InvalidInputError(f"size_wh of pictures is [width, height] in pixels; got {size!r:.60}.")
    return {**found, "size_wh": [whole(side, "size_wh of pictures", least=24) for side in size]}


def _size(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.25 <= value <= 64:
        raise InvalidInputError(f"size_tokens is a number from 0.25 to 64; got {value!r:.60}.")
    return float(value)


def _blocks(content: Any) -> tuple[int, ...] | None:
    if content is None:
        return None
    blocks = listed(content, "blocks")
    if not blocks or any(isinstance(one, bool) or not isinstance(one, int) for one in blocks):
        raise InvalidInputError(f"blocks is a list of whole numbers, negative ones from the end; got {content!r:.60}.")
    return tuple(blocks)


def _fit(value: str) -> str:
    from visprompt.visual_prompt import FITS

    if value not in FITS:
        raise unknown_name("fit", value, FITS)
    return value


def _transfer(content: Any) -> dict[str, str]:
    found = mapping(content, "transfer")
    texts(list(found.values()), "transfer")
    return found


def _sweep(content: Any) -> SweepSpec | None:
    if content is None:
        return None
    values = mapping(content, "sweep", ("model", "grid", "settings", "seeds", "n"))
    if not isinstance(values.get("model"), str):
        raise InvalidInputError("sweep needs model: the name of one, e.g. bundled:scenes-clip.")
    grid = {key: listed(value, f"grid of {key}") for key, value in mapping(values.get("grid"), "grid").items()}
    if not grid or not all(grid.values()):
        raise InvalidInputError("sweep needs a grid: options of patch, each with a list of values.")
    seeds = tuple(whole(one, "seeds of sweep", least=0) for one in listed(values.get("seeds", [0]), "seeds of sweep"))
    if not seeds or len(set(seeds)) != len(seeds):
        raise InvalidInputError("seeds of sweep is a list of different whole numbers.")
    settings = _settings(values.get("settings"), "settings of sweep")
    made = SweepSpec(values["model"], grid, settings, seeds, whole(values.get("n", 200), "n of sweep", least=1))
    for point in made.points():
        _marker({"strategy": "patch", "options": point, "label": f"sweep, {point}"}, control=False)
    return made


def require_unseen(suite: GainSuite) -> None:
    """Refuses to measure on a folder that a patch is learned from; parts of a folder are told apart by their names.

    Raises:
        InvalidInputError: if that would happen.
    """
    if suite.pictures["source"] != "folder":
        return
    measured = Path(suite.pictures["folder"]).expanduser().resolve()
    for marker in suite.markers:
        data = (marker.learn or {}).get("data")
        if data is None:
            continue
        learned = Path(data).expanduser().resolve()
        within = learned == measured or learned in measured.parents or measured in learned.parents
        if within and not (learned == measured and _has_test(measured)):
            raise InvalidInputError(
                f"marker {marker.label!r} would be learned on {data} and measured on {suite.pictures['folder']}: give "
                "pictures of their own to measure on, or a folder with the parts train and test."
            )


def _has_test(folder: Path) -> bool:
    from visprompt.data.labelled.label_names import PARTS

    return folder.is_dir() and any(PARTS.get(one.name.casefold()) == "test" for one in folder.iterdir() if one.is_dir())
