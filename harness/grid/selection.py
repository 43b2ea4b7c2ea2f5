"""The expression of `-k`: words joined by `and`, `or`, `not` and parentheses choose cells.

A word matches a cell when it equals, ignoring case, a label, label before its sweep, or name of its
dataset, model, attack or defense; a seed (`0`: victim or defense; `0.1`: both; `victim-seed=0`); a
swept parameter (`delta=20`, `attack.delta=20`); an entry with its kind (`attack=badnets`); or the
cell's whole name. `*` stands for any characters. Quote words with spaces or parentheses:
`defense="Ours (GTSRB)"`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from harness.errors import BenchError, NothingSelected, suggest
from harness.grid.model import CELL_KINDS, Cell, text

_TOKEN = re.compile(
    r"""\s*(?:(?P<mark>[()])"""
    r"""|(?P<key>[^\s()"'=]+=)?(?:"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>(?:[^'\\]|\\.)*)')"""
    r"""|(?P<word>[^\s()"']+))"""
)
_WORDS = ("and", "or", "not")
_PLAIN = re.compile(r"""[^\s()"'\\*]+""")

Matcher = Callable[[frozenset[str]], bool]


def select(cells: Iterable[Cell], expression: str) -> list[Cell]:
    """The cells that `expression` chooses, in their order; maybe none. Raises `BenchError` where it
    cannot be read.
    """
    matches = _Parser(expression).parse()
    return [cell for cell in cells if matches(tags(cell))]


def tags(cell: Cell) -> frozenset[str]:
    """Everything that a word may equal to match the cell, in lower case."""
    pair = f"{cell.victim_seed}.{cell.defense_seed}"
    found = {cell.name, pair, str(cell.victim_seed), str(cell.defense_seed), f"seed={pair}"}
    found |= {f"victim-seed={cell.victim_seed}", f"defense-seed={cell.defense_seed}"}
    if cell.victim_seed == cell.defense_seed:
        found.add(f"seed={cell.victim_seed}")
    for kind, entry in zip(CELL_KINDS, cell.entries, strict=True):
        names = {entry.label, entry.base, entry.name}
        found |= names | {f"{kind}={name}" for name in names}
        settings = {f"{key}={text(value)}" for key, value in entry.swept.items()}
        found |= settings | {f"{kind}.{setting}" for setting in settings}
    return frozenset(tag.lower() for tag in found)


def quote(word: str) -> str:
    """`word` as an expression that matches exactly it: for a command line that runs one cell again."""
    if _PLAIN.fullmatch(word) and word.lower() not in _WORDS:
        return word
    escaped = re.sub(r'(["\\*])', r"\\\1", word)
    return f'"{escaped}"'


def nothing(cells: Sequence[Cell], expression: str) -> NothingSelected:
    """The error for an expression that chose no cell: it names the words that match none, with near
    ones.
    """
    known: dict[str, None] = {}
    for cell in cells:
        for entry in cell.entries:
            known.update(dict.fromkeys((entry.base, entry.label)))
    everything = [tags(cell) for cell in cells]
    parser = _Parser(expression)
    parser.parse()
    lost = [word for word in parser.words if not any(_matcher(word)(found) for found in everything)]
    reasons = [
        f"no cell has {_unescaped(word)!r}. {suggest(_unescaped(word), list(known))}"
        for word in lost
    ]
    reason = (
        "\n    ".join(reasons)
        or "each of its words matches some cell, but no cell matches all of it"
    )
    return NothingSelected(f"-k {expression!r} selects none of {len(cells)} cells: {reason}")


def _unescaped(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word)


def _matcher(word: str) -> Matcher:
    parts = re.findall(r"\\.|[^\\]|\\$", word.lower())
    pattern = "".join(".*" if part == "*" else re.escape(part[-1]) for part in parts)
    if pattern == re.escape(_unescaped(word.lower())):
        exact = _unescaped(word.lower())
        return lambda found: exact in found
    wanted = re.compile(pattern)
    return lambda found: any(wanted.fullmatch(tag) for tag in found)


class _Parser:
    """Recursive descent: or, and, not, in rising precedence."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.tokens = list(self._split())
        self.words: list[str] = []
        self.next = 0

    def parse(self) -> Matcher:
        found = self._any()
        if self.next < len(self.tokens):
            self._refuse('"and", "or" or the end is needed here')
        return found

    def _split(self) -> Iterable[tuple[str, bool, int]]:
        """(text, is a word, column) of each token."""
        end = len(self.expression.rstrip())
        position = 0
        while position < end:
            match = _TOKEN.match(self.expression, position)
            if match is None:
                start = (
                    position
                    + len(self.expression[position:])
                    - len(self.expression[position:].lstrip())
                )
                raise _error(self.expression, start, "a quote is opened here and never closed")
            kind = str(match.lastgroup)
            written = match[kind]
            is_word = kind in ("double", "single") or (
                kind == "word" and written.lower() not in _WORDS
            )
            yield (
                (match["key"] or "") + (written if is_word else written.lower()),
                is_word,
                match.start(kind),
            )
            position = match.end()

    def _any(self) -> Matcher:
        choices = [self._all()]
        while self._took("or"):
            choices.append(self._all())
        return lambda found: any(choice(found) for choice in choices)

    def _all(self) -> Matcher:
        demands = [self._one()]
        while self._took("and"):
            demands.append(self._one())
        return lambda found: all(demand(found) for demand in demands)

    def _one(self) -> Matcher:
        if self._took("not"):
            inner = self._one()
            return lambda found: not inner(found)
        if self._took("("):
            inner = self._any()
            if not self._took(")"):
                self._refuse('")" is needed here')
            return inner
        if self.next == len(self.tokens) or not self.tokens[self.next][1]:
            self._refuse('a word, "not" or "(" is needed here')
        word = self.tokens[self.next][0]
        self.next += 1
        self.words.append(word)
        return _matcher(word)

    def _took(self, token: str) -> bool:
        here = self.tokens[self.next] if self.next < len(self.tokens) else ("", True, 0)
        self.next += here[0] == token and not here[1]
        return here[0] == token and not here[1]

    def _refuse(self, what: str) -> None:
        column = self.tokens[self.next][2] if self.next < len(self.tokens) else len(self.expression)
        raise _error(self.expression, column, what)


def _error(expression: str, column: int, what: str) -> BenchError:
    hint = (
        'write words joined by and, or, not and parentheses, such as "badnets and not (ft or anp)"'
    )
    marked = f"    {expression}\n    {' ' * column}^"
    return BenchError(f"-k cannot be read at column {column + 1}: {what}\n{marked}\n    {hint}")
