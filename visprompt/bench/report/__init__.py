"""Reports: one `Document`, shown in a terminal, as Markdown and as one HTML page."""

from __future__ import annotations

from pathlib import Path

from visprompt.bench.report.document import Document
from visprompt.bench.report.html import html
from visprompt.bench.report.images import png_of
from visprompt.bench.report.markdown import markdown
from visprompt.bench.report.terminal import terminal

__all__ = ["Document", "html", "markdown", "terminal", "write_report"]

HTML, MARKDOWN = "report.html", "report.md"


def write_report(document: Document, out: Path) -> list[Path]:
    """Writes `report.html`, `report.md` and the named figures as PNG files.

    Args:
        document: the report.
        out: the folder; it is made if it is not there.

    Returns:
        The paths of the files.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / HTML, out / MARKDOWN]
    paths[0].write_text(html(document), encoding="utf-8")
    paths[1].write_text(markdown(document), encoding="utf-8")
    for figure in document.figures():
        paths.append(out / f"{figure.name}.png")
        paths[-1].write_bytes(png_of(figure))
    return paths
