"""Tables as plain aligned text: readable in a terminal, in a pipe and in a log. Wide ones are cut
between columns; where not even one column fits, each number has a line of its own.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence

from harness.report.axes import Header
from harness.report.table import TableCell, TextTable

GAP = "  "


def render(table: TextTable, width: int = 100) -> str:
    """Return the table, in lines of at most `width` characters; only a word that is longer than
    that sticks out.
    """
    lines = []
    if table.title:
        lines += [*_wrapped(table.title, width), ""]
    if table.rows:
        lines += _body(table, width)
    else:
        lines.append("(nothing to show)")
    below = list(table.caption)
    for sign, text in table.notes:
        below.append(f"{sign} {text}")
    below += [f"Warning: {warning}" for warning in table.warnings]
    if below:
        lines.append("")
    for text in below:
        lines += _wrapped(text, width)
    return "\n".join(lines) + "\n"


class _Column:
    """One column: numbers to the right, what comes with them after that; as wide as the end of its
    header needs.
    """

    def __init__(self, table: TextTable, column: Header) -> None:
        numbers = []
        tails = []
        for row in table.rows:
            cell = table.cell(row, column)
            numbers.append(cell.text)
            tails.append(_tail(cell))
        self.lines = []
        for number, tail in zip(_right_aligned(numbers), _left_aligned(tails), strict=True):
            self.lines.append(number + tail)
        self.header = headed(table, table.column_axes, column)
        self.width = _widest([self.header[-1], *self.lines])

    def aligned(self, text: str) -> str:
        """Return `text` at the right of the column."""
        return _blanks(self.width - _width(text)) + text


def headed(table: TextTable, axes: Sequence[str], header: Header) -> Header:
    """Return a header with the units of its metrics."""
    texts = []
    for axis, text in zip(axes, header, strict=True):
        if axis == "metric" and text in table.units:
            texts.append(f"{text} [{table.units[text]}]")
        else:
            texts.append(text)
    return tuple(texts)


def _tail(cell: TableCell) -> str:
    """Return what stands after a number: the paper's, and footnotes."""
    tail = "".join(cell.signs)
    if cell.reference:
        tail = f" ({cell.reference}){tail}"
    return tail


def _body(table: TextTable, width: int) -> list[str]:
    """Return the lines of the table, in as many blocks as needed, below one another."""
    stub = _stub(table)
    lines: list[str] = []
    for columns in _blocks(table, width - _width(stub[0])):
        if lines:
            lines.append("")
        lines += _block(table, stub, columns)
    if _widest(lines) > width:
        return _listed(table, width)
    return lines


def _listed(table: TextTable, width: int) -> list[str]:
    """Return the lines of a table of which not even one column fits beside the row headers: below
    each of these, a line for each number.
    """
    lines: list[str] = []
    for row in table.rows:
        if lines:
            lines.append("")
        named = [text for text in headed(table, table.row_axes, row) if text]
        lines += _wrapped(", ".join(named), width)
        for column in table.columns:
            name = " ".join(headed(table, table.column_axes, column))
            cell = table.cell(row, column)
            lines += _wrapped(f"{name}: {cell.text}{_tail(cell)}", width, indent="  ")
    return lines


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Break a text between words. Paths stay in one piece, to be copied."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _stub(table: TextTable) -> list[str]:
    """Return the row headers, below the names of their axes."""
    lines = [""] * (1 + len(table.rows))
    headers = [headed(table, table.row_axes, row) for row in table.rows]
    for level, axis in enumerate(table.row_axes):
        texts = _left_aligned([axis, *(header[level] for header in headers)])
        gap = GAP if level > 0 else ""
        for number, text in enumerate(texts):
            lines[number] += gap + text
    return lines


def _blocks(table: TextTable, room: int) -> list[list[_Column]]:
    """Return the columns in as many blocks as needed; what the first level of headers holds
    together stays so if it can.
    """
    groups: dict[str, list[_Column]] = {}
    for header in table.columns:
        groups.setdefault(header[0], []).append(_Column(table, header))
    blocks: list[list[_Column]] = [[]]
    for group in groups.values():
        if not _fits(blocks[-1], group, room):
            blocks.append([])
        for column in group:
            if not _fits(blocks[-1], [column], room):
                blocks.append([])
            blocks[-1].append(column)
    return blocks


def _fits(block: Sequence[_Column], more: Sequence[_Column], room: int) -> bool:
    """Return True if a block has room for more columns. An empty one takes what it gets."""
    return not block or _total_width(block) + _total_width(more) <= room


def _block(table: TextTable, stub: Sequence[str], columns: Sequence[_Column]) -> list[str]:
    """Return the lines of one block: headers, a rule, and the rows; a second rule goes before the
    average.
    """
    levels = [_spans(columns, level) for level in range(len(table.column_axes) - 1)]
    for spans in levels:
        for text, members in spans:
            # A long title of several columns widens the last of them.
            lacking = _width(text) - _total_width(members) + len(GAP)
            members[-1].width += max(0, lacking)
    lines = []
    for spans in levels:
        line = _blanks(_width(stub[0]))
        for text, members in spans:
            line += GAP + _with_dashes(f"{text} ", _total_width(members) - len(GAP))
        lines.append(line)
    header = stub[0]
    rule = "-" * _width(stub[0])
    for column in columns:
        header += GAP + column.aligned(column.header[-1])
        rule += GAP + "-" * column.width
    lines += [header, rule]
    for number, row in enumerate(table.rows):
        if table.averaged and row == table.rows[-1]:
            lines.append(rule)
        line = stub[1 + number]
        for column in columns:
            line += GAP + column.aligned(column.lines[number])
        lines.append(line)
    return [line.rstrip() for line in lines]


def _spans(columns: Sequence[_Column], level: int) -> list[tuple[str, list[_Column]]]:
    """Return neighbouring columns that share a header down to a level, with its text there."""
    spans: list[tuple[str, list[_Column]]] = []
    header_before: Header = ()
    for column in columns:
        header = column.header[: level + 1]
        if header != header_before:
            spans.append((header[-1], []))
            header_before = header
        _, members = spans[-1]
        members.append(column)
    return spans


# --- widths ---------------------------------------------------------------------------------------


def _total_width(columns: Sequence[_Column]) -> int:
    """Return the characters that columns take, with a gap before each."""
    total = 0
    for column in columns:
        total += len(GAP) + column.width
    return total


def _widest(texts: Sequence[str]) -> int:
    return max(map(_width, texts), default=0)


def _width(text: str) -> int:
    """Return the cells that a terminal needs for a text."""
    if text.isascii():
        return len(text)
    width = 0
    for character in text:
        width += 1
        if unicodedata.east_asian_width(character) in "WF":
            width += 1
        if unicodedata.combining(character) > 0:
            width -= 1
    return width


def _left_aligned(texts: Sequence[str]) -> list[str]:
    """Return texts all as wide as the widest, filled on the right."""
    width = _widest(texts)
    return [text + _blanks(width - _width(text)) for text in texts]


def _right_aligned(texts: Sequence[str]) -> list[str]:
    """Return texts all as wide as the widest, filled on the left."""
    width = _widest(texts)
    return [_blanks(width - _width(text)) + text for text in texts]


def _blanks(count: int) -> str:
    return " " * count


def _with_dashes(text: str, width: int) -> str:
    return text + "-" * (width - _width(text))
