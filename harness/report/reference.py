"""The papers' numbers beside ours: a CSV in long form, joined by labels, metric and the settings it
names.

Columns: `dataset`, `model`, `attack`, `variant`, `defense`, `metric`, `value`, `unit` (more are
ignored). `variant` is `key=value;...`: keys that are settings of a row must have its value, others
do not matter.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness.errors import BenchError
from harness.report.results import Row
from harness.report.variants import agrees
from harness.vocabulary import CELL_KINDS

COLUMNS = ("dataset", "model", "attack", "variant", "defense", "metric", "value", "unit")


class PaperNumber(NamedTuple):
    """A number of a paper as printed, or "" and the reason (both "" where the paper has none)."""

    text: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Line:
    """One number of a paper. `labels` are by kind of component, `variant` has settings by key."""

    labels: Mapping[str, str]
    variant: Mapping[str, str]
    metric: str
    value: str
    unit: str


class PaperTable:
    """The numbers of one CSV file."""

    def __init__(self, path: Path, lines: Sequence[Line]) -> None:
        self.path = path
        self.lines = lines
        self._labels: dict[str, set[str]] = defaultdict(set)
        self._lines_by_labels: dict[tuple[str, ...], list[Line]] = defaultdict(list)
        self._attack_keys: dict[str, set[str]] = defaultdict(set)
        """By attack, the keys by which the file tells its undefended models apart: settings of the
        attack.
        """
        for line in lines:
            for kind in CELL_KINDS:
                self._labels[kind].add(line.labels[kind])
            self._lines_by_labels[_joined(line.labels)].append(line)
            if line.labels["defense"] == "none":
                self._attack_keys[line.labels["attack"]].update(line.variant)

    @classmethod
    def read(cls, path: Path) -> PaperTable:
        """Read a CSV file. Raises BenchError for one that has other columns, or a line that has
        other fields.
        """
        return cls(path, [_line(fields) for _, fields in lines_of(path, COLUMNS)])

    def find(self, row: Row) -> PaperNumber:
        """Return the number that stands for `row`."""
        return self._find([row], axes=())

    def of(self, rows: Sequence[Row]) -> PaperNumber:
        """Return the number that stands for all of `rows`, or why there is none."""
        numbers = {self.find(row) for row in rows}
        if len(numbers) > 1:
            return PaperNumber(reason="the paper's numbers differ over what is averaged here")
        return numbers.pop()

    def average(self, groups: Sequence[Sequence[Row]], axes: Sequence[str]) -> PaperNumber:
        """Return the paper's own average over `axes`. A setting in which the rows differ may have
        the value of any.
        """
        rows: list[Row] = []
        for group in groups:
            rows.extend(group)
        return self._find(rows, axes)

    def _find(self, rows: Sequence[Row], axes: Sequence[str]) -> PaperNumber:
        first = rows[0]
        labels = {}
        for kind in CELL_KINDS:
            labels[kind] = "average" if kind in axes else self._label(first, kind)
        matching = []
        for line in self._lines_by_labels.get(_joined(labels), ()):
            if not _has_metric(line, first):
                continue
            if any(self._agrees(line, row) for row in rows):
                matching.append(line)
        return self._choose(matching, first)

    def _agrees(self, line: Line, row: Row) -> bool:
        """Return False if a key of the line's variant is a setting that the row has otherwise."""
        attack_keys = self._attack_keys.get(self._label(row, "attack"), ())
        for key, printed in line.variant.items():
            owners = ("attack",) if key in attack_keys else ("defense", "attack")
            if not agrees(key, printed, row, owners):
                return False
        return True

    def _choose(self, lines: Sequence[Line], row: Row) -> PaperNumber:
        """Return the number on which all lines agree, or the reason why they do not."""
        texts: dict[str, None] = {}
        keys: set[str] = set()
        for line in lines:
            texts[_text(line, row)] = None
            keys.update(line.variant)
        if not texts:
            return PaperNumber()
        if len(texts) == 1:
            return PaperNumber(text=texts.popitem()[0])
        differences = []
        for key in sorted(keys):
            values = {line.variant.get(key, "unsaid") for line in lines}
            if len(values) > 1:
                differences.append(f"{key} = {', '.join(sorted(values))}")
        listed = "; ".join(differences) or "nothing it names"
        reason = f"{self.path.name} has {len(texts)} numbers for this, which differ in {listed}"
        return PaperNumber(reason=reason)

    def _label(self, row: Row, kind: str) -> str:
        """Return the file's name for a row's component: its label, or its label without what a
        sweep set.
        """
        label = str(getattr(row, kind))
        if kind == "defense" and row.on:
            # A method on top of another is not what papers report under its plain name.
            plain_name = row.settings.get(kind, {}).get("name")
            if label == plain_name:
                return ""
        if label in self._labels[kind]:
            return label
        return row.bases.get(kind, label)


def header_of(path: Path) -> Sequence[str]:
    """Return the columns of a CSV file. Raises BenchError where it cannot be read."""
    with _reader(path) as reader:
        return reader.fieldnames or ()


def lines_of(path: Path, wanted: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Return number and fields of each line of a CSV file. Raises BenchError for one without the
    `wanted` columns, or a line that has other fields than the header.
    """
    with _reader(path) as reader:
        header = reader.fieldnames or ()
        for name in wanted:
            if name not in header:
                raise BenchError(f"{path}:1: no column {name!r}; columns are {', '.join(wanted)}")
        lines = []
        for fields in reader:
            # DictReader keeps surplus fields under None, and fills lacking ones with None.
            if None in fields or None in fields.values():
                raise BenchError(
                    f"{path}:{reader.line_num}: another number of fields than the header has"
                )
            lines.append((reader.line_num, fields))
        return lines


@contextmanager
def _reader(path: Path) -> Iterator[csv.DictReader[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield csv.DictReader(stream)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BenchError(f"{path}: the reference cannot be read: {error}") from error


def _joined(labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(labels[kind] for kind in CELL_KINDS)


def _line(fields: Mapping[str, str]) -> Line:
    variant = {}
    for setting in fields["variant"].split(";"):
        if setting:
            key, _, value = setting.partition("=")
            variant[key] = value
    labels = {kind: fields[kind] for kind in CELL_KINDS}
    return Line(labels, variant, fields["metric"], fields["value"], fields["unit"])


def _has_metric(line: Line, row: Row) -> bool:
    """Return True if the line has a number of the row's metric, by any of its names."""
    names = [row.metric]
    if "metric" in row.bases:
        names.append(row.bases["metric"])
    names.append(str(row.settings.get("metric", {}).get("name", "")))
    if row.part:
        names = [f"{name}_{row.part}" for name in names]
        names.append(row.part)
    if line.metric in names:
        return True
    return _is_in_minutes(line, row) and line.metric.removesuffix("_min") in names


def _is_in_minutes(line: Line, row: Row) -> bool:
    return line.unit == "min" and row.unit == "s"


def _text(line: Line, row: Row) -> str:
    if _is_in_minutes(line, row):
        return f"{60 * float(line.value):.0f}"
    return line.value
