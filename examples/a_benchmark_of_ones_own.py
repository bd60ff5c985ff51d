"""Writes a suite, a YAML file that says which models, tasks and strategies make a table, and runs it.

    python examples/a_benchmark_of_ones_own.py
    python examples/a_benchmark_of_ones_own.py --model openai/clip-vit-base-patch16

The task is made of generated scenes, so nothing is downloaded. docs/benchmarks.md has the sources that read data of
your own. When it is started again, existing rows are reused.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from visprompt.bench import run_suite

STRATEGIES = ("none", "circle", "blur", "falip")
SUITE = """\
title: A benchmark of one's own
description: Which of the objects in a generated scene is marked?
models: [{model}]
tasks:
  which:
    title: Which text names the marked object?
    task: referring
    template: "{{}}"
    data: {{source: scenes, kind: hard, split: test, n: 60, seed: 5}}
strategies: [{strategies}]
examples: 1
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled:scenes-clip", help="what visprompt.load_model takes")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/a_benchmark_of_ones_own"))
    given = parser.parse_args()

    given.out.mkdir(parents=True, exist_ok=True)
    suite = given.out / "suite.yaml"
    suite.write_text(SUITE.format(model=given.model, strategies=", ".join(STRATEGIES)), encoding="utf-8")
    result = run_suite(suite, out=given.out / "results")
    for strategy, row in zip(STRATEGIES, result.rows, strict=True):
        print(f"{strategy:8} {row['value']:6.1%} right of {row['n']}")

    # The command makes the report from the rows that are there, with intervals, a chart and example images.
    command = [sys.executable, "-m", "visprompt", "bench", str(suite), "--out", str(given.out / "results")]
    subprocess.run(command, check=True)
    for path in sorted((given.out / "results").glob("report.*")):
        print(path)


if __name__ == "__main__":
    main()
