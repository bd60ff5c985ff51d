"""Draws which package imports which, read from the sources: `docs/images/layers.png` (`make layers`).

A box is a package or module below `visprompt`, with the first line of its docstring; `strategies` is the top folder. An
arrow says that something in the upper box imports something from the lower one when it runs; imports for type checkers
do not count. An arrow is left out where a way over other arrows leads to the same box, so `cli`, which imports nearly
everything, has few. Boxes stand as deep as the longest chain of imports above them allows.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from matplotlib.path import Path as MplPath

ROOT = Path(__file__).parents[1]
LEFT_OUT = ("__init__", "__main__", "testing")  # `testing` imports from everywhere and nothing imports it
BOX_WH = (2.5, 0.96)  # inches
ROW, COLUMN = 1.3, 2.7
COLOURS = {
    "what people call": ("#fde7d6", ("cli", "bench", "tasks", "runner", "prompter", "request", "plots", "registry")),
    "what learns": ("#e3f1dd", ("strategies", "learned", "training", "persistence")),
    "models": ("#dfe9f7", ("models", "attention", "visual_prompt")),
    "data and helpers": ("#eeeeee", ()),
}
Edges = dict[str, set[str]]


def boxes() -> dict[str, Path]:
    """Packages and modules directly below `visprompt`, and the folder `strategies`, by their names."""
    found = {path.stem: path for path in sorted((ROOT / "visprompt").iterdir()) if path.suffix == ".py"}
    found |= {path.name: path for path in sorted((ROOT / "visprompt").iterdir()) if (path / "__init__.py").exists()}
    found["strategies"] = ROOT / "strategies"
    return {name: path for name, path in found.items() if name not in LEFT_OUT}


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names that a module imports when it runs, wherever in it the import stands."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (item.name for item in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{item.name}" for item in node.names)
        yield from imports(node)


def edges(paths: dict[str, Path]) -> Edges:
    """For every box the boxes that it imports from."""
    found: Edges = {}
    for name, path in paths.items():
        files = [path] if path.is_file() else sorted(path.rglob("*.py"))
        names = [one.split(".") for file in files for one in imports(ast.parse(file.read_text(encoding="utf-8")))]
        # `visprompt.strategies` alone is asked for its folder, to hash the files in it: no code of it is used.
        used = [parts for parts in names if parts[0] == "visprompt" and parts[1:] not in ([], ["strategies"])]
        found[name] = {parts[1] for parts in used} & set(paths) - {name}
    return found


def below(graph: Edges) -> Edges:
    """For every box all boxes that can be reached from it.

    Raises:
        ValueError: if boxes import each other in a circle.
    """
    done: Edges = {}

    def reach(name: str, way: tuple[str, ...]) -> set[str]:
        if name in way:
            raise ValueError(f"a circle of imports: {' → '.join((*way[way.index(name) :], name))}.")
        if name not in done:
            done[name] = set().union(graph[name], *(reach(other, (*way, name)) for other in graph[name]))
        return done[name]

    for name in graph:
        reach(name, ())
    return done


def reduced(graph: Edges) -> Edges:
    """The graph without the arrows that a way over other arrows makes needless."""
    reach = below(graph)
    return {name: {x for x in to if not any(x in reach[other] for other in to)} for name, to in graph.items()}


def rows(graph: Edges) -> tuple[list[list[str]], list[list[str]]]:
    """Boxes by row from the bottom, and every arrow as the chain of places that it passes.

    An arrow over several rows has a place, named `from>to>row`, in each row between.
    """
    reach, height = below(graph), dict[str, int]()
    for name in sorted(graph, key=lambda one: (len(reach[one]), one)):
        height[name] = max((height[other] + 1 for other in graph[name]), default=0)
    for name in sorted(graph, key=lambda one: -height[one]):
        above = [height[other] for other, to in graph.items() if name in to]
        if len(above) >= len(graph[name]) and above:  # shorter arrows to it are worth longer ones from it
            height[name] = min(above) - 1
    found: list[list[str]] = [[] for _ in range(max(height.values()) + 1)]
    chains = []
    for name, to in graph.items():
        found[height[name]].append(name)
        for other in sorted(to):
            passed = range(height[name] - 1, height[other], -1)
            chains.append([name, *(f"{name}>{other}>{row}" for row in passed), other])
            for row, place in zip(passed, chains[-1][1:-1], strict=True):
                found[row].append(place)
    return found, chains


def columns(found: list[list[str]], chains: list[list[str]]) -> dict[str, float]:
    """Where every place stands in its row, in inches: near what it is joined to, and apart from its neighbours."""
    near = defaultdict(set)
    for chain in chains:
        for upper, lower in itertools.pairwise(chain):
            near[upper].add(lower)
            near[lower].add(upper)
    wide = {place: 0.5 if ">" in place else BOX_WH[0] + 0.2 for row in found for place in row}
    x = {place: COLUMN * (number - len(row) / 2) for row in found for number, place in enumerate(row)}
    for turn in range(200):
        for row in found if turn % 2 else reversed(found):
            wanted = {place: 0.9 * sum(x[other] for other in near[place]) / max(len(near[place]), 1) for place in row}
            if turn < 120:
                row.sort(key=lambda place: wanted[place])
            for number, place in enumerate(row):
                left = row[number - 1] if number else None
                at_least = x[left] + (wide[left] + wide[place]) / 2 if left else -100.0
                x[place] = max(wanted[place], at_least)
            # What was pushed to the right is moved back, so that the row stands in the middle of where it wants to be.
            shift = sum(x[place] - wanted[place] for place in row) / len(row)
            for place in row:
                x[place] -= shift
    return x


def draw(paths: dict[str, Path]) -> Figure:
    """The figure: boxes, arrows, and what the colours mean."""
    found, chains = rows(reduced(edges(paths)))
    x = columns(found, chains)
    y = {place: ROW * number for number, row in enumerate(found) for place in row}
    left, right = min(x.values()) - BOX_WH[0], max(x.values()) + BOX_WH[0]
    figure = Figure(figsize=(right - left, ROW * len(found) + 0.7), layout="constrained")
    axes = figure.subplots()
    for chain in chains:
        points = [(x[chain[0]], y[chain[0]] - BOX_WH[1] / 2)]
        for place in chain[1:-1]:
            points += [(x[place], y[place] + BOX_WH[1] / 2), (x[place], y[place] - BOX_WH[1] / 2)]
        points.append((x[chain[-1]], y[chain[-1]] + BOX_WH[1] / 2 + 0.03))
        _arrow(axes, points)
    for name, path in paths.items():
        _box(axes, (x[name], y[name]), name, path)
    axes.set_xlim(left + 0.6, right - 0.6)
    axes.set_ylim(-0.6, ROW * (len(found) - 1) + 0.6)
    axes.set_aspect("equal")
    axes.axis("off")
    handles = [Patch(facecolor=colour, edgecolor="#888888", label=label) for label, (colour, _) in COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=12)
    return figure


def _arrow(axes: Axes, points: list[tuple[float, float]]) -> None:
    """A line through points from top to bottom, bent between two rows and straight beside a box, with a head."""
    steps, codes = [points[0]], [MplPath.MOVETO]
    for number, (start, end) in enumerate(itertools.pairwise(points)):
        middle = (start[1] + end[1]) / 2
        beside = number % 2 == 1
        steps += [end] if beside else [(start[0], middle), (end[0], middle), end]
        codes += [MplPath.LINETO] if beside else [MplPath.CURVE4] * 3
    path = MplPath(steps, codes)
    axes.add_patch(FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=11, lw=1.1, color="#667085"))


def _box(axes: Axes, middle: tuple[float, float], name: str, path: Path) -> None:
    (x, y), (wide, high) = middle, BOX_WH
    colour = next((colour for colour, names in COLOURS.values() if name in names), COLOURS["data and helpers"][0])
    corner = (x - wide / 2, y - high / 2)
    axes.add_patch(
        FancyBboxPatch(corner, wide, high, "round,pad=0,rounding_size=0.08", fc=colour, ec="#888888", lw=0.9)
    )
    title = f"{name}/" if path.is_dir() else f"{name}.py"
    axes.text(x, y + 0.29, title, ha="center", va="center", fontsize=12.5, fontweight="bold", color="#1d2939")
    axes.text(x, y - 0.13, purpose(name, path), ha="center", va="center", fontsize=8.6, color="#344054")


def purpose(name: str, path: Path) -> str:
    """The first sentence of a docstring, short enough for a box."""
    if name == "strategies":
        text = "Ways of prompting, a module each; found through entry points."
    else:
        source = (path / "__init__.py" if path.is_dir() else path).read_text(encoding="utf-8")
        text = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].replace("\n", " ").replace("`", "")
    return "\n".join(textwrap.wrap(text.split(". ")[0], 37, max_lines=3, placeholder=" …"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "layers.png")
    out = parser.parse_args().out
    out.parent.mkdir(parents=True, exist_ok=True)
    draw(boxes()).savefig(out, dpi=110, facecolor="white")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
