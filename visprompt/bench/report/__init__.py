"""Reports: one `Document`, shown in a terminal, as Markdown and as one HTML page."""

from __future__ import annotations

from pathlib import Path

from visprompt.bench.report.document import Document
from visprompt.bench.report.html import html
from visprompt.bench.report.images import png_of
from visprompt.bench.report.markdown import markdown
from visprompt.bench.report.terminal import terminal

__all__ = ["Document", "html", "markdown", "terminal", "write_report"]


def write_report(document: Document, out: Path) -> list[Path]:
    """Writes `report.html`, `report.md` and the named figures as PNG files into a folder, and gives their paths."""
    out.mkdir(parents=True, exist_ok=True)
    files = {"report.html": html(document).encode(), "report.md": markdown(document).encode()}
    files |= {f"{figure.name}.png": png_of(figure) for figure in document.figures()}
    for name, content in files.items():
        (out / name).write_bytes(content)
    return [out / name for name in files]
