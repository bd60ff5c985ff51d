"""A `Document` as Markdown: findings, tables and figures; single answers are on the page only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from visprompt.bench.report.document import Block, Cell, Document, Fields, Figure, Fold, Prose, Table, flat


def markdown(document: Document) -> str:
    """The report as Markdown. Figures with a name are linked as files that lie beside it."""
    lines, figures = [f"# {document.title}", ""], list(document.figures())
    lines += [f"- {sentence}" for sentence in document.findings]
    lines += [part for text in document.description for part in ("", text)]
    for section in document.sections:
        # Of images and answers that only the page shows, the words beside them would say nothing.
        if any(isinstance(block, Table | Fields) or block in figures for block in flat(section.blocks)):
            lines += ["", f"## {section.title}", *_blocks(section.blocks, level=3)]
    if document.problems:
        lines += ["", "## Problems", "", *(f"- {problem}" for problem in document.problems)]
    return "\n".join(lines) + "\n"


def _blocks(blocks: Iterable[Block], level: int) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, Table):
            if block.where != "terminal":
                yield from _table(block, level)
        elif isinstance(block, Prose):
            yield from ("", block.text)
        elif isinstance(block, Fields):
            yield from ("", *(f"- **{name}**: {text}" for name, text in block.items))
        elif isinstance(block, Figure):
            if block.name:
                yield from ("", f"![{block.alt}]({block.name}.png)")
                yield from ("", block.caption) if block.caption else ()
        elif isinstance(block, Fold):
            found = list(_blocks(block.blocks, level + 1))
            yield from ("", f"{'#' * level} {block.summary}", *found) if found else ()


def _table(table: Table, level: int) -> Iterator[str]:
    if table.title:
        yield from ("", f"{'#' * level} {table.title}")
    if table.caption:
        yield from ("", table.caption)
    heads = []
    for column in table.columns:
        head = f"{column.group}: {column.label}" if column.group else column.label
        heads.append(f"{head} ({column.note})" if column.note else head)
    yield ""
    yield _line([table.head, *heads])
    yield "|---|" + "".join("---|" if column.text else "---:|" for column in table.columns)
    for row in table.rows:
        label = f"*{row.label}*" if row.control else row.label
        yield _line([label, *(_cell(cell) for cell in row.cells)])


def _cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    if cell.interval:
        text += f" {cell.interval}" if cell.interval.startswith("±") else f" ({cell.interval})"
    return f"{text}; {cell.more}" if cell.more else text


def _line(texts: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"
