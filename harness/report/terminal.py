"""Tables as plain aligned text: readable in a terminal, in a pipe and in a log. Wide ones are cut
between columns.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from harness.report.axes import Header
from harness.report.table import Sheet, Shown

GAP = "  "


def render(sheet: Sheet, width: int = 100) -> str:
    """The table, in lines of at most `width` characters where a column beside the row headers fits
    into that.
    """
    lines = [sheet.title, ""] if sheet.title else []
    if sheet.rows:
        stub = _stub(sheet)
        for number, columns in enumerate(_cut(sheet, width - _length(stub[0]))):
            lines += [""] * (number > 0) + [line.rstrip() for line in _block(sheet, stub, columns)]
    else:
        lines.append("(nothing to show)")
    tail = [*sheet.caption, *(f"{sign} {text}" for sign, text in sheet.notes)]
    tail += [f"Warning: {warning}" for warning in sheet.warnings]
    lines += [""] * bool(tail) + [line for text in tail for line in _wrapped(text, width)]
    return "\n".join(lines) + "\n"


class _Column:
    """One column: numbers to the right, what comes with them after that; as wide as the end of its
    header needs.
    """

    def __init__(self, sheet: Sheet, column: Header) -> None:
        shown = [sheet.cells.get((row, column), Shown()) for row in sheet.rows]
        numbers = _padded([one.text for one in shown], left=True)
        tails = _padded(
            [(f" ({one.reference})" if one.reference else "") + "".join(one.signs) for one in shown]
        )
        self.lines = [number + tail for number, tail in zip(numbers, tails, strict=True)]
        self.header = headed(sheet, sheet.column_axes, column)
        self.width = max(map(_length, (self.header[-1], *self.lines)))


def headed(sheet: Sheet, axes: Sequence[str], header: Header) -> Header:
    """A header with the units of its metrics."""
    return tuple(
        f"{text} [{sheet.units[text]}]" if axis == "metric" and text in sheet.units else text
        for axis, text in zip(axes, header, strict=True)
    )


def _stub(sheet: Sheet) -> list[str]:
    """The row headers, below the names of their axes."""
    table = [sheet.row_axes, *(headed(sheet, sheet.row_axes, row) for row in sheet.rows)]
    columns = [_padded(texts) for texts in zip(*table, strict=True)]
    return [GAP.join(texts) for texts in zip(*columns, strict=True)]


def _cut(sheet: Sheet, room: int) -> Iterator[list[_Column]]:
    """The columns in as many blocks as needed; what the first level of headers holds together stays
    so if it can.
    """
    groups: dict[str, list[_Column]] = {}
    for header in sheet.columns:
        groups.setdefault(header[0], []).append(_Column(sheet, header))
    block: list[_Column] = []
    for group in groups.values():
        if block and _width([*block, *group]) > room:
            yield block
            block = []
        for column in group:
            if block and _width([*block, column]) > room:
                yield block
                block = []
            block.append(column)
    if block:
        yield block


def _block(sheet: Sheet, stub: Sequence[str], columns: Sequence[_Column]) -> Iterator[str]:
    spans = [_spans(columns, level) for level in range(len(sheet.column_axes) - 1)]
    for level in spans:  # a long title of several columns widens the last of them
        for text, members in level:
            members[-1].width += max(0, _length(text) - _width(members) + len(GAP))
    for level in spans:
        titles = (_filled(f"{text} ", _width(members) - len(GAP)) for text, members in level)
        yield " " * _length(stub[0]) + GAP + GAP.join(titles)
    yield GAP.join([stub[0], *(_aligned(column.header[-1], column) for column in columns)])
    rule = GAP.join(["-" * _length(stub[0]), *("-" * column.width for column in columns)])
    yield rule
    for number, (row, head) in enumerate(zip(sheet.rows, stub[1:], strict=True)):
        if sheet.averaged and row == sheet.rows[-1]:
            yield rule
        yield GAP.join([head, *(_aligned(column.lines[number], column) for column in columns)])


def _aligned(text: str, column: _Column) -> str:
    return " " * (column.width - _length(text)) + text


def _filled(text: str, width: int) -> str:
    return text + "-" * (width - _length(text))


def _spans(columns: Sequence[_Column], level: int) -> list[tuple[str, list[_Column]]]:
    """Neighbouring columns that share a header down to a level, with its text there."""
    spans: list[tuple[Header, list[_Column]]] = []
    for column in columns:
        header = column.header[: level + 1]
        if not spans or spans[-1][0] != header:
            spans.append((header, []))
        spans[-1][1].append(column)
    return [(header[-1], members) for header, members in spans]


def _width(columns: Sequence[_Column]) -> int:
    """Characters that columns take, with a gap before each."""
    return sum(len(GAP) + column.width for column in columns)


def _padded(texts: Sequence[str], left: bool = False) -> list[str]:
    """All as wide as the widest, filled on the right or on the left."""
    width = max(map(_length, texts), default=0)
    filled = [" " * (width - _length(text)) for text in texts]
    return [fill + text if left else text + fill for text, fill in zip(texts, filled, strict=True)]


def _length(text: str) -> int:
    """Cells that a terminal needs."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)
    return len(text) + wide - sum(unicodedata.combining(sign) > 0 for sign in text)


def _wrapped(text: str, width: int) -> list[str]:
    # Paths in footnotes stay in one piece, to be copied.
    return textwrap.wrap(
        text, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
