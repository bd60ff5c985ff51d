"""The model card of a learned prompt: `README.md` with data, metrics, settings and how to load it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprompt.persistence.card_figures import (
    Metric,
    add_gains,
    escaped,
    figures_of,
    gains_table,
    is_number,
    is_shown,
    mapping_of,
    of_split,
)
from visprompt.utils.renamed import renamed_names

if TYPE_CHECKING:
    from visprompt.learned.strategy import Learned
    from visprompt.prompter import Prompter
    from visprompt.training.result import Fitted

__all__ = ["Metric", "add_gains", "base_name", "card", "figures_of", "is_shown", "trained_text"]

#: the hub's task names by kind of data
TASKS = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "answers": "visual-question-answering",
}
#: settings that the card leaves out
_QUIET = ("workers", "tensorboard", "checkpoint_every")


def card(prompter: Prompter, fitted: Fitted | None = None) -> str:
    """The model card as Markdown, with the hub's metadata in front.

    No licence is named; unknown values are left out.

    Args:
        prompter: a learned strategy, or a composition with learned parts.
        fitted: the result of `fit`, for its sweep; None: that of the prompter's record.
    """
    parts = prompter.learned_parts()
    lines = [f"# {escaped(_title(prompter, parts))}", "", _what(prompter, parts), "", *_looks(parts)]
    lines += _loading(prompter, parts)
    for part in parts:
        heading = f"## {part.name}: " if len(parts) > 1 else "## "
        for title, body in _sections(part, fitted if len(parts) == 1 else None):
            if body:
                lines += ["", f"{heading}{title if len(parts) > 1 else title[0].upper() + title[1:]}", "", *body]
    lines += ["", "## Limits", "", *_limits(parts)]
    return f"---\n{_metadata(prompter, parts)}\n---\n\n" + "\n".join(lines) + "\n"


def _sections(part: Learned, fitted: Fitted | None) -> list[tuple[str, list[str]]]:
    record = part.record
    return [
        ("figures", _figures(record)),
        ("attention gain", gains_table(record)),
        ("backbone", _backbone(part)),
        ("data and protocol", _data(record)),
        ("settings", _settings(part)),
        ("what else was tried", _sweep(record, fitted)),
    ]


# -- metadata ---------------------------------------------------------------------------------------------------------


def _metadata(prompter: Prompter, parts: Sequence[Learned]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results, datasets, bases, metrics = [], [], [], []
    for part in parts:
        data = mapping_of(part.record.get("data"))
        name = _dataset(data)
        kind = _kind(part.record)
        base = str((part.backbone or {}).get("name") or "")
        # The hub links to these names; local paths and bundled names would be dead links.
        if base.count("/") == 1 and ":" not in base and not _is_local(base):
            bases.append(base)
        if name.startswith("hf:"):
            datasets.append(name.removeprefix("hf:").partition(":")[0])
        for figure in figures_of(part.record):
            if not figure.chosen or not name:
                continue
            metrics.append(figure.metric)
            results.append(
                EvalResult(
                    task_type=TASKS.get(kind, "other"),
                    dataset_type=name.removeprefix("hf:"),
                    dataset_name=name,
                    dataset_split=figure.split,
                    metric_type=figure.metric,
                    metric_value=round(figure.value, 6),
                    metric_name=f"{figure.metric} (n = {figure.n})" if figure.n else figure.metric,
                )
            )
    found = ModelCardData(
        library_name="visprompt",
        base_model=_one(bases),
        datasets=_unique(datasets) or None,
        metrics=_unique(metrics) or None,
        tags=["visual-prompting", *_tags(parts), *_unique(part.name for part in parts)],
        model_name=_title(prompter, parts) if results else None,
        eval_results=results or None,
    )
    return str(found.to_yaml())


def _tags(parts: Sequence[Learned]) -> list[str]:
    return ["prompt-tuning"] if any("tokens" in part.acts_on for part in parts) else []


def _one(names: Sequence[str]) -> Any:
    found = _unique(names)
    return found[0] if len(found) == 1 else found or None


# -- sections ---------------------------------------------------------------------------------------------------------


def _title(prompter: Prompter, parts: Sequence[Learned]) -> str:
    base = base_name(parts, "")
    data = _dataset(mapping_of(parts[0].record.get("data"))) if parts else ""
    if data and _kind(parts[0].record) == "images":
        data = f"learned from {data}"
        return prompter.name + (f" for {base}" if base else "") + f", {data}"
    return prompter.name + (f" on {base}" if base else "") + (f" for {data}" if data else "")


def _what(prompter: Prompter, parts: Sequence[Learned]) -> str:
    head = any(part.head is not None or _has_head(part.record) for part in parts)
    learned = "a visual prompt and a head" if head else "a visual prompt"
    doc = (type(parts[0]).__doc__ or "").strip().splitlines() if parts else []
    about = f" Strategy `{prompter.name}`: {doc[0].strip()}" if doc else f" Strategy `{prompter.name}`."
    return (
        f"This is {learned} for a frozen model, made with visprompt; the model's own weights are not in here and stay "
        f"as they are.{about}"
    )


def _looks(parts: Sequence[Learned]) -> list[str]:
    """The image of each learned part that has one, and its description."""
    lines: list[str] = []
    for number, part in enumerate(parts):
        if name := part.sketch_name(number):
            # HTML, since Markdown cannot enlarge an image and a patch is about 24 pixels wide.
            lines += [f'<img src="{name}" alt="the patch" width="192" style="image-rendering: pixelated">', ""]
        lines += [about, ""] if (about := part.about()) else []
    return lines


def _loading(prompter: Prompter, parts: Sequence[Learned]) -> list[str]:
    base = base_name(parts, "MODEL")
    head = any(part.head is not None or part.record.get("head") for part in parts)
    request = 'vp.Request("photo.jpg")'
    if "region" in prompter.needs:
        request = 'vp.Request("photo.jpg", region=vp.Box(40, 30, 200, 180))'
    asked = any(_kind(part.record) == "answers" for part in parts)
    use = f"predict({request})" if head else f"encode({request})"
    if asked:
        use = f'generate({request[:-1]}, query="What is this?"))'
    return [
        "```python",
        "import visprompt as vp",
        "",
        f'model = vp.load_model("{base}")',
        'prompter = vp.Prompter.from_pretrained("FOLDER_OR_HUB_ID")',
        f"print(vp.Runner(model, prompter).{use})",
        "```",
        *(
            [
                "",
                "It is pasted into the image, so `model` may also be another one, e.g. a vision-language model.",
            ]
            if parts and all(part.transferable for part in parts)
            else []
        ),
    ]


def _figures(record: Mapping[str, Any]) -> list[str]:
    found = figures_of(record)
    if not found:
        return []
    lines = ["| split | figure | value | 95 % interval | n |", "|---|---|---|---|---|"]
    lines += [
        f"| {one.split} | {one.metric} | {one.text()} | {one.interval_text()} | {one.n or '–'} |" for one in found
    ]
    controls = record.get("controls")
    for name, figures in mapping_of(controls).items():
        for one in of_split(figures, "test", str(record.get("metric") or ""), record):
            lines.append(f"| control: {name} | {one.metric} | {one.text()} | {one.interval_text()} | {one.n or '–'} |")
    notes = []
    if any(one.interval for one in found):
        how = "" if any(one.metric == "gain" for one in found) else " Wilson's"
        notes.append(f"Intervals are{how} over the images; they do not include the variation between trainings.")
    if any(one.metric == "gain" for one in found):
        notes.append(
            "Gain is (mass − mass without) / mass without; mass is the fraction of the attention on the tokens under "
            "the patch, at one random position in every image, the border included."
        )
    if any(one.split == "validation" for one in found):
        notes.append("Validation chose the epoch (and the settings of a sweep), so its figures are optimistic.")
    classes = record.get("classes")
    if isinstance(classes, list) and len(classes) > 1 and any(one.metric == "accuracy" for one in found):
        notes.append(f"Guessing one of the {len(classes)} classes at random is right {100 / len(classes):.1f} %.")
    if not controls and not record.get("gains"):
        without = (
            "a head alone on the same frozen model" if _has_head(record) else "the frozen model without the prompt"
        )
        without = "a red circle, a patch of random colours" if record.get("task") == "attention" else without
        notes.append(f"No control ({without}) is recorded here.")
    return [*lines, "", " ".join(notes)]


def _backbone(part: Learned) -> list[str]:
    from visprompt.models.identity import describe

    if not part.backbone:
        return []
    called = describe({**part.backbone, "name": base_name([part], "a model")})
    found = [f"{called}, tower {part.backbone.get('tower', 'vision')}, frozen."]
    blocks, width = part.backbone.get("blocks"), part.backbone.get("width")
    if blocks and width:
        found.append(f"{blocks} blocks of width {width}.")
    # A transferable prompt may be used on other models too.
    if part.transferable:
        found.append("It was learned on this model; other models may be tried.")
    else:
        found.append("Another model, even one of the same shape, is refused.")
    trained = trained_text(part.record)
    return [*found, *([f"Trained: {trained}."] if trained else [])]


def trained_text(record: Mapping[str, Any]) -> str:
    """The number of trained parameters, and their fraction of the backbone's.

    >>> trained_text({"parameters": {"prompt": 1000, "head": 500}, "backbone_parameters": 100000})
    'prompt 1,000, head 500 numbers: 1.50 % of the backbone'

    Args:
        record: `Learned.record`.

    Returns:
        A text; empty if the numbers are unknown.
    """
    if record.get("task") == "attention":
        drawn = sum(int(n) for n in mapping_of(record.get("parameters")).values() if is_number(n))
        return f"{drawn:,} numbers that drew it, of which the patch alone is kept" if drawn else ""
    counts = {str(name): int(n) for name, n in mapping_of(record.get("parameters")).items() if is_number(n)}
    if not counts:
        return ""
    text = ", ".join(f"{name} {count:,}" for name, count in counts.items()) + " numbers"
    whole = record.get("backbone_parameters")
    return f"{text}: {sum(counts.values()) / whole:.2%} of the backbone".replace("%", " %") if whole else text


def _data(record: Mapping[str, Any]) -> list[str]:
    data = mapping_of(record.get("data"))
    rows = [
        f"| {split} | {escaped(str(item.get('name') or '–'))} | {item.get('kind', '–')} | {item.get('n', '–')} "
        f"| {item.get('classes') or '–'} | `{str(item.get('sha256', '–'))[:12]}` |"
        for split in ("train", "validation", "test")
        if (item := mapping_of(data.get(split)))
    ]
    table = ["| split | data set | kind | n | classes | sha256 |", "|---|---|---|---|---|---|", *rows] if rows else []
    protocol = str(record.get("protocol") or data.get("protocol") or "")
    lines = [*table, *(["", escaped(protocol)] if protocol else [])]
    train = mapping_of(data.get("train"))
    if train.get("kind") == "images":
        lines = [f"Learned from {int(train.get('n') or 0):,} images without labels.", "", *lines]
    classes = record.get("classes")
    if isinstance(classes, list) and classes:
        shown = ", ".join(escaped(str(name)) for name in classes[:20])
        more = f" and {len(classes) - 20} more" if len(classes) > 20 else ""
        lines += ["", f"Classes: {shown}{more}."]
    return lines


def _settings(part: Learned) -> list[str]:
    import dataclasses

    given = {f"{part.name}: {name}": value for name, value in dataclasses.asdict(part.options).items()}
    settings = mapping_of(part.record.get("settings"))
    # `lr` replaces `base_lr`; only a zero-shot head uses templates.
    unused = {"base_lr"} if settings.get("lr") is not None else set()
    unused |= {"templates"} if settings.get("head") != "zero-shot" else set()
    given |= {
        name: value
        for name, value in settings.items()
        if value is not None and name not in _QUIET and name not in unused
    }
    run = {"epochs run": part.record.get("epochs"), "epoch whose weights were kept": part.record.get("best_epoch")}
    given |= {name: value for name, value in run.items() if value is not None}
    if "visprompt_version" in part.record:
        given["visprompt"] = part.record["visprompt_version"]
    rows = [f"| {name} | {_cell(value)} |" for name, value in given.items()]
    return ["| setting | |", "|---|---|", *rows]


def _sweep(record: Mapping[str, Any], fitted: Fitted | None) -> list[str]:
    """Table of the settings that were tried, best on validation first."""
    tried = fitted.sweep if fitted is not None and fitted.sweep else record.get("sweep")
    entries = [row for row in tried if isinstance(row, Mapping)] if isinstance(tried, list) else []
    if not entries:
        return []
    names = _unique(name for row in entries for name in row if is_shown(str(name), row))
    rows = ["| " + " | ".join(_cell(row.get(name, "–")) for name in names) + " |" for row in entries]
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *rows]


def _limits(parts: Sequence[Learned]) -> list[str]:
    lines = [
        *(
            ["- The prompt belongs to the weights that it was trained on; visprompt compares them when it is used."]
            if not all(part.transferable for part in parts)
            else [
                "- On another model than the one it was learned on it may do little: measure it there.",
                "- It was trained to attract attention, and only attention was measured, not the quality of answers.",
                "- It hides the pixels under it: placed on the object in question, it does harm.",
            ]
        ),
        "- On images of another kind than its training images it may have less effect."
        if all(_kind(part.record) == "images" for part in parts)
        else "- It was trained on these data: do not expect it to work on other kinds of images or classes.",
    ]
    if any(part.head is not None or part.record.get("head") for part in parts):
        lines.append("- The head always answers with one of its classes, even where none fits.")
    return [
        *lines,
        "- No licence is named here: those of the backbone and of the data may apply to the prompt.",
    ]


# -- helpers ----------------------------------------------------------------------------------------------------------


def base_name(parts: Sequence[Learned], otherwise: str) -> str:
    """The backbone's name; of a local folder only the last part, since cards are published.

    Args:
        parts: the learned parts; the first one's backbone counts.
        otherwise: result if the name is unknown.
    """
    name = str((parts[0].backbone or {}).get("name") or otherwise) if parts else otherwise
    return Path(name).name or name if _is_local(name) else name


def _is_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or Path(name).exists()


def _dataset(data: Mapping[str, Any]) -> str:
    """The common part of the splits' names: "count" of "count-train" and "count-test"."""
    names = [
        str(name) for split in ("train", "validation", "test") if (name := mapping_of(data.get(split)).get("name"))
    ]
    same = [letters[0] for letters in itertools.takewhile(lambda each: len(set(each)) == 1, zip(*names, strict=False))]
    common = "".join(same)
    if any(len(name) > len(common) and name[len(common)].isalnum() for name in names):
        common = common.rstrip("".join(filter(str.isalnum, common)))  # back to where a word ends
    return common.rstrip(" -_,(:/.") or next(iter(names), "")


def _kind(record: Mapping[str, Any]) -> str:
    data = mapping_of(record.get("data"))
    return next((str(mapping_of(item).get("kind")) for item in data.values() if mapping_of(item).get("kind")), "")


def _has_head(record: Mapping[str, Any]) -> bool:
    return bool(record.get("head"))


def _unique(names: Any) -> list[str]:
    return list(dict.fromkeys(str(name) for name in names))


def _cell(value: Any) -> str:
    return escaped(f"{value:.6g}" if isinstance(value, float) else str(value))


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"Figure": "Metric"}, globals())
