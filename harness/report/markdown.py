"""Tables in Markdown: for pull requests, readmes and papers' supplements."""

from __future__ import annotations

from harness.report.table import Sheet, Shown
from harness.report.terminal import headed


def render(sheet: Sheet) -> str:
    """A heading, the table, its caption, footnotes as a list."""
    from tabulate import tabulate

    lines = [f"### {_escaped(sheet.title)}", ""] if sheet.title else []
    if sheet.rows:
        names = [
            *sheet.row_axes,
            *(" ".join(headed(sheet, sheet.column_axes, column)) for column in sheet.columns),
        ]
        body = [
            [_escaped(text) for text in headed(sheet, sheet.row_axes, row)]
            + [_escaped(_cell(sheet.cells.get((row, column), Shown()))) for column in sheet.columns]
            for row in sheet.rows
        ]
        sides = ["left"] * len(sheet.row_axes) + ["right"] * len(sheet.columns)
        lines.append(
            tabulate(body, [*map(_escaped, names)], "pipe", disable_numparse=True, colalign=sides)
        )
    else:
        lines.append("(nothing to show)")
    for number, text in enumerate(
        [*sheet.caption, *(f"**Warning:** {warning}" for warning in sheet.warnings)]
    ):
        lines += ([""] if number == 0 else []) + [_escaped(text) + "  "]
    lines += (
        ["", *(f"- {sign} {_escaped(text)}" for sign, text in sheet.notes)] if sheet.notes else []
    )
    return "\n".join(line.rstrip() if line.strip() == "" else line for line in lines) + "\n"


def _cell(shown: Shown) -> str:
    text = f"{shown.text} ({shown.reference})" if shown.reference else shown.text
    return f"{text} {''.join(shown.signs)}" if shown.signs else text


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
