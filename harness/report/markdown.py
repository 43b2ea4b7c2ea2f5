"""Tables in Markdown: for pull requests, readmes and papers' supplements."""

from __future__ import annotations

from tabulate import tabulate

from harness.report.table import TableCell, TextTable
from harness.report.terminal import headed


def render(table: TextTable, best: bool = False) -> str:
    """Return a heading, the table, its caption, footnotes as a list; with `best`, the best numbers
    bold.
    """
    lines = []
    if table.title:
        lines += [f"### {_escaped(table.title)}", ""]
    if table.rows:
        lines.append(_body(table, best))
    else:
        lines.append("(nothing to show)")
    below = [*table.caption, *(f"**Warning:** {warning}" for warning in table.warnings)]
    if below:
        lines.append("")
    for text in below:
        lines.append(f"{_escaped(text)}  ")  # two blanks break the line
    if table.notes:
        lines.append("")
    for sign, text in table.notes:
        lines.append(f"- {sign} {_escaped(text)}")
    return "\n".join(lines) + "\n"


def _body(table: TextTable, best: bool) -> str:
    header = [_escaped(axis) for axis in table.row_axes]
    for column in table.columns:
        name = " ".join(headed(table, table.column_axes, column))
        header.append(_escaped(name))
    lines = []
    for row in table.rows:
        line = [_escaped(text) for text in headed(table, table.row_axes, row)]
        for column in table.columns:
            line.append(_text(table.cell(row, column), best))
        lines.append(line)
    sides = ["left"] * len(table.row_axes) + ["right"] * len(table.columns)
    return tabulate(lines, header, "pipe", disable_numparse=True, colalign=sides)


def _text(cell: TableCell, best: bool) -> str:
    text = _escaped(cell.text)
    if best and cell.best:
        text = f"**{text}**"
    if cell.reference:
        text += f" ({_escaped(cell.reference)})"
    if cell.signs:
        text += f" {_escaped(''.join(cell.signs))}"
    return text


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
