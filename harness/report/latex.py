"""Tables in LaTeX, with the rules of booktabs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.report.axes import Header
from harness.report.table import TableCell, TextTable
from harness.report.terminal import headed

SIGNS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\textquotedbl{}",
    # Behind the end of a line, these two would be read as its options.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "\n": " ",
    "\0": "{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "→": r"$\to$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "·": r"$\cdot$",
    "…": r"\ldots{}",
    "–": "--",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "§": r"\S{}",
    "¶": r"\P{}",
    "◊": r"$\diamond$",
    "‖": r"$\Vert$",
}
"""What stands for a character that means something else in LaTeX, or that not every font has."""


def render(table: TextTable, best: bool = False) -> str:
    """Return a `table` with caption, and footnotes below; with `best`, the best numbers bold."""
    lines = [r"% needs \usepackage[T1]{fontenc} and \usepackage{booktabs}", r"\begin{table}"]
    lines.append(r"  \centering")
    caption = ". ".join(text for text in (table.title, "; ".join(table.caption)) if text)
    if caption:
        lines.append(rf"  \caption{{{escaped(caption)}}}")
    if table.rows:
        lines += [f"  {line}" for line in _tabular(table, best)]
    else:
        lines.append("  (nothing to show)")
    notes = [f"{_raised([sign])} {escaped(text)}" for sign, text in table.notes]
    notes += [f"Warning: {escaped(warning)}" for warning in table.warnings]
    if notes:
        lines += ["", r"  \medskip", r"  \begin{minipage}{\linewidth}\footnotesize\raggedright"]
        lines += [rf"    {note}\par" for note in notes]
        lines.append(r"  \end{minipage}")
    lines.append(r"\end{table}")
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return plain text as LaTeX."""
    # Two hyphens would become a dash.
    apart = text.replace("--", "-\0-").replace("--", "-\0-")
    return "".join(SIGNS.get(character, character) for character in apart)


def _tabular(table: TextTable, best: bool) -> Iterator[str]:
    sides = "l" * len(table.row_axes) + "r" * len(table.columns)
    yield rf"\begin{{tabular}}{{{sides}}}"
    yield r"\toprule"
    for level in range(len(table.column_axes) - 1):
        yield from _spanned(table, level)
    heads = [escaped(axis) for axis in table.row_axes]
    for column in table.columns:
        heads.append(escaped(headed(table, table.column_axes, column)[-1]))
    yield _line(heads)
    yield r"\midrule"
    for row in table.rows:
        if table.averaged and row == table.rows[-1]:
            yield r"\midrule"
        texts = [escaped(text) for text in headed(table, table.row_axes, row)]
        texts += [_cell(table.cell(row, column), best) for column in table.columns]
        yield _line(texts)
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _spanned(table: TextTable, level: int) -> Iterator[str]:
    """Yield a line of headers that each stand above neighbouring columns, and the rules below."""
    spans = _spans(table.columns, level)
    texts = [""] * len(table.row_axes)
    rules = []
    first = len(table.row_axes) + 1
    for header, count in spans:
        text = escaped(headed(table, table.column_axes, header)[level])
        texts.append(rf"\multicolumn{{{count}}}{{c}}{{{text}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + count - 1}}}")
        first += count
    yield _line(texts)
    yield " ".join(rules)


def _spans(columns: Sequence[Header], level: int) -> list[tuple[Header, int]]:
    """Return how many neighbouring columns share a header down to a level, with the first one."""
    spans: list[tuple[Header, int]] = []
    for column in columns:
        if spans and spans[-1][0][: level + 1] == column[: level + 1]:
            header, count = spans[-1]
            spans[-1] = header, count + 1
        else:
            spans.append((column, 1))
    return spans


def _cell(cell: TableCell, best: bool) -> str:
    text = escaped(cell.text)
    if best and cell.best:
        text = rf"\textbf{{{text}}}"
    if cell.reference:
        text += f" ({escaped(cell.reference)})"
    return text + _raised(cell.signs)


def _raised(signs: Sequence[str]) -> str:
    """Return signs of footnotes; several are set apart by a small space."""
    if not signs:
        return ""
    raised = r"\,".join(escaped(sign) for sign in signs)
    return rf"\textsuperscript{{{raised}}}"


def _line(texts: Sequence[str]) -> str:
    return rf"{' & '.join(texts)} \\"
