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
from dataclasses import dataclass

from harness.errors import BenchError, NothingSelected, suggest
from harness.grid.model import Cell, Entry, labels_of, text

_TOKEN = re.compile(
    r"""\s*(?:(?P<mark>[()])"""
    r"""|(?P<key>[^\s()"'=]+=)?(?:"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>(?:[^'\\]|\\.)*)')"""
    r"""|(?P<word>[^\s()"']+))"""
)
_WORDS = ("and", "or", "not")
_PLAIN = re.compile(r"""[^\s()"'\\*]+""")

_HINT = 'write words joined by and, or, not and parentheses, such as "badnets and not (ft or anp)"'

Matcher = Callable[[frozenset[str]], bool]
"""Tells from a cell's tags if the cell is chosen."""


def select(cells: Iterable[Cell], expression: str) -> list[Cell]:
    """Return the cells that `expression` chooses, in their order; maybe none. Raises `BenchError`
    where it cannot be read.
    """
    matches = _Parser(expression).parse()
    return [cell for cell in cells if matches(tags(cell))]


def tags(cell: Cell) -> frozenset[str]:
    """Return everything that a word may equal to match the cell, in lower case."""
    victim_seed = str(cell.victim_seed)
    defense_seed = str(cell.defense_seed)
    pair = f"{victim_seed}.{defense_seed}"
    words = [cell.name, pair, victim_seed, defense_seed]
    words += [f"seed={pair}", f"victim-seed={victim_seed}", f"defense-seed={defense_seed}"]
    if victim_seed == defense_seed:
        words.append(f"seed={victim_seed}")
    for entry in cell.entries:
        for name in {entry.label, entry.base, entry.name}:
            words += (name, f"{entry.kind}={name}")
        for key, value in entry.swept.items():
            setting = f"{key}={text(value)}"
            words += (setting, f"{entry.kind}.{setting}")
    return frozenset(word.lower() for word in words)


def quote(word: str) -> str:
    """Return `word` as an expression that matches exactly it: for a command line that runs one cell
    again.
    """
    if _PLAIN.fullmatch(word) and word.lower() not in _WORDS:
        return word
    escaped = re.sub(r'(["\\*])', r"\\\1", word)
    return f'"{escaped}"'


def nothing_selected(cells: Sequence[Cell], expression: str) -> NothingSelected:
    """Return the error for an expression that chose no cell: it names the words that match none,
    with near ones.
    """
    parser = _Parser(expression)
    parser.parse()
    entries: list[Entry] = []
    for cell in cells:
        entries += cell.entries
    labels = labels_of(entries)
    tags_of_cells = [tags(cell) for cell in cells]
    reasons = []
    for word in parser.words:
        if not any(map(_matcher(word), tags_of_cells)):
            plain = _unescaped(word)
            reasons.append(f"no cell has {plain!r}. {suggest(plain, labels)}")
    reason = "each of its words matches some cell, but no cell matches all of it"
    if reasons:
        reason = "\n    ".join(reasons)
    return NothingSelected(f"-k {expression!r} selects none of {len(cells)} cells: {reason}")


def _unescaped(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word)


def _matcher(word: str) -> Matcher:
    """Return the test for one word, in which `*` stands for any characters unless it is escaped."""
    parts = re.findall(r"\\.|[^\\]|\\$", word.lower())
    pattern = ""
    for part in parts:
        if part == "*":
            pattern += ".*"
        else:
            pattern += re.escape(part[-1])
    exact = _unescaped(word.lower())
    if pattern == re.escape(exact):
        return lambda cell_tags: exact in cell_tags
    wildcard = re.compile(pattern)

    def matches(cell_tags: frozenset[str]) -> bool:
        return any(map(wildcard.fullmatch, cell_tags))

    return matches


@dataclass(frozen=True)
class _Token:
    """A word, or else one of `and`, `or`, `not` and the parentheses; `column` counts from 0."""

    text: str
    is_word: bool
    column: int


class _Parser:
    """Recursive descent: or, and, not, in rising precedence."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.tokens = _split(expression)
        self.words: list[str] = []
        self.next = 0

    def parse(self) -> Matcher:
        """Return the test that the whole expression means."""
        matches = self._any()
        if self.next < len(self.tokens):
            self._refuse('"and", "or" or the end is needed here')
        return matches

    def _any(self) -> Matcher:
        choices = [self._all()]
        while self._take("or"):
            choices.append(self._all())

        def matches(cell_tags: frozenset[str]) -> bool:
            return any(choice(cell_tags) for choice in choices)

        return matches

    def _all(self) -> Matcher:
        demands = [self._one()]
        while self._take("and"):
            demands.append(self._one())

        def matches(cell_tags: frozenset[str]) -> bool:
            return all(demand(cell_tags) for demand in demands)

        return matches

    def _one(self) -> Matcher:
        if self._take("not"):
            inner = self._one()
            return lambda cell_tags: not inner(cell_tags)
        if self._take("("):
            inner = self._any()
            if not self._take(")"):
                self._refuse('")" is needed here')
            return inner
        if self.next == len(self.tokens) or not self.tokens[self.next].is_word:
            self._refuse('a word, "not" or "(" is needed here')
        word = self.tokens[self.next].text
        self.next += 1
        self.words.append(word)
        return _matcher(word)

    def _take(self, mark: str) -> bool:
        """Step over `mark` and return True if it is the next token."""
        if self.next == len(self.tokens):
            return False
        token = self.tokens[self.next]
        if token.is_word or token.text != mark:
            return False
        self.next += 1
        return True

    def _refuse(self, complaint: str) -> None:
        column = len(self.expression)
        if self.next < len(self.tokens):
            column = self.tokens[self.next].column
        raise _error(self.expression, column, complaint)


def _split(expression: str) -> list[_Token]:
    """Return the tokens of an expression. Raises `BenchError` for a quote that is not closed."""
    tokens = []
    end = len(expression.rstrip())
    position = 0
    while position < end:
        match = _TOKEN.match(expression, position)
        if match is None:
            rest = expression[position:].lstrip()
            column = len(expression) - len(rest)
            raise _error(expression, column, "a quote is opened here and never closed")
        group = str(match.lastgroup)
        token = match[group]
        is_word = group in ("double", "single")
        if group == "word":
            is_word = token.lower() not in _WORDS
        if not is_word:
            token = token.lower()
        key = match["key"] or ""
        tokens.append(_Token(key + token, is_word, match.start(group)))
        position = match.end()
    return tokens


def _error(expression: str, column: int, complaint: str) -> BenchError:
    marked = f"    {expression}\n    {' ' * column}^"
    return BenchError(
        f"-k cannot be read at column {column + 1}: {complaint}\n{marked}\n    {_HINT}"
    )
