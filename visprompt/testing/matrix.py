"""Writes the support matrix: which strategy runs on which model family, determined by running them.

```
python -m visprompt.testing.matrix docs/support-matrix.md
```
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from visprompt.registry import OWN_DISTRIBUTION, list_strategies
from visprompt.testing.conformance import check_support, wrapped
from visprompt.testing.tiny import tiny_names

_HEAD = """# Support matrix

Which strategy runs on which model family. `make support-matrix` writes this file by running every strategy on a tiny
random model of every family; the test suite fails when it is out of date.

- ✓: it runs, and the conformance checks hold it to the rest: off means the plain model bit for bit, no trace is left
  behind, the batch does not matter, threads do not mix.
- –: it is refused, with an error that names the strategies that work instead.

Learned strategies run with random parameters here: the matrix shows which models support them, not which have trained
ones. A patch is pasted into the image, so it runs everywhere; training one needs a model with readable attention.

*Readout* is how the model reads the image out, and gives the attention rows that a strategy edits.
"""

_LVLM_HEAD = """
## Vision-language models

They answer, score answers and show where their decoder looks; every family's image tokens are known to the pixel, in
every tile. *Tiles*: images are cut. *Video*: frames go in as a video; other families get them as several images.
*Vision tower*: its attention can be edited as well as the decoder's.
"""

_READOUT = {
    "cls": "CLS token",
    "probe": "attention-pooling probe",
    "mean": "mean of the patches",
    "pooler": "attention pooler",
    "none": "none over patches",
}


def support_matrix() -> str:
    """The matrix as Markdown, from running every strategy of this package on every tiny model."""
    strategies = [info.name for info in list_strategies() if info.origin.startswith(OWN_DISTRIBUTION)]
    lines = ["| model family | class | readout | text tower | " + " | ".join(f"`{name}`" for name in strategies) + " |"]
    lines.append("|---|---|---|---|" + ":-:|" * len(strategies))
    for model_name in tiny_names():
        made, _ = wrapped(model_name)
        marks = ["✓" if check_support(name, model_name) == "supported" else "–" for name in strategies]
        kind = type(made.module).__name__
        cells = [model_name, f"`{kind}`", _READOUT[made.readout], "yes" if made.has_text else "no", *marks]
        lines.append("| " + " | ".join(cells) + " |")
    return _HEAD + "\n" + "\n".join(lines) + "\n" + _LVLM_HEAD + "\n" + "\n".join(_lvlm_rows(strategies)) + "\n"


def _lvlm_rows(strategies: list[str]) -> list[str]:
    from visprompt.testing import conformance_lvlm
    from visprompt.testing.tiny_lvlm import tiny_lvlm_names

    names = " | ".join(f"`{name}`" for name in strategies)
    lines = [f"| model family | class | tiles | video | vision tower | {names} |"]
    lines.append("|---|---|:-:|:-:|:-:|" + ":-:|" * len(strategies))
    for model_name in tiny_lvlm_names():
        made, _ = conformance_lvlm.wrapped(model_name)
        facts = ["yes" if fact else "–" for fact in (made.tiled, made.video, made.vision_edits)]
        marks = ["✓" if conformance_lvlm.check_support(n, model_name) == "supported" else "–" for n in strategies]
        lines.append("| " + " | ".join([model_name, f"`{type(made.module).__name__}`", *facts, *marks]) + " |")
    return lines


def main() -> None:
    """Writes the matrix to the file named on the command line, or prints it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = support_matrix()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
