"""The papers' numbers beside ours: a CSV in long form, joined by labels, metric and the settings it
names.

Columns: `dataset`, `model`, `attack`, `variant`, `defense`, `metric`, `value`, `unit` (more are
ignored). `variant` is `key=value;...`: keys that are settings of a row must have its value, others
do not matter.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import BenchError
from harness.report.results import Row

COLUMNS = ("dataset", "model", "attack", "variant", "defense", "metric", "value", "unit")
_JOINED = ("dataset", "model", "attack", "defense")
_CLEAN = ("clean_size", "holdout")

Found = tuple[str, str]
"""The number as printed, or "" and the reason (both "" where the paper has none)."""


@dataclass(frozen=True)
class Line:
    """One number of a paper."""

    joined: Mapping[str, str]
    variant: Mapping[str, str]
    metric: str
    value: str
    unit: str


class Reference:
    """The numbers of one CSV file."""

    def __init__(self, path: Path, lines: Sequence[Line]) -> None:
        self.path = path
        self.lines = lines
        self._names = {kind: {line.joined[kind] for line in lines} for kind in _JOINED}
        self._near: dict[tuple[str, ...], list[Line]] = defaultdict(list)
        self._attackers: dict[str, set[str]] = defaultdict(set)
        """By attack the keys by which the file tells its undefended models apart: settings of the
        attack.
        """
        for line in lines:
            self._near[tuple(line.joined[kind] for kind in _JOINED)].append(line)
            if line.joined["defense"] == "none":
                self._attackers[line.joined["attack"]] |= line.variant.keys()

    @classmethod
    def read(cls, path: Path) -> Reference:
        """Raises BenchError for a file that has other columns, or a line that has other fields."""
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                reader = csv.DictReader(stream)
                missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
                if missing:
                    raise BenchError(
                        f"{path}:1: no column {missing[0]!r}; columns are {', '.join(COLUMNS)}"
                    )
                return cls(path, [_line(path, reader.line_num, table) for table in reader])
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise BenchError(f"{path}: the reference cannot be read: {error}") from error

    def find(self, row: Row) -> Found:
        """The number that stands for `row`."""
        wanted = {kind: self._name(row, kind) for kind in _JOINED}
        left = [
            line for line in self._lines(wanted, row) if self._agrees(line, row, wanted["attack"])
        ]
        return self._choose(left, row)

    def average(self, rows: Sequence[Row], axes: Sequence[str]) -> Found:
        """The paper's own average over `axes`. A setting in which the rows differ may have the
        value of any.
        """
        wanted = {
            kind: "average" if kind in axes else self._name(rows[0], kind) for kind in _JOINED
        }
        near = self._lines(wanted, rows[0])
        left = [
            line
            for line in near
            if any(self._agrees(line, row, self._name(row, "attack")) for row in rows)
        ]
        return self._choose(left, rows[0])

    def _lines(self, wanted: Mapping[str, str], row: Row) -> list[Line]:
        near = self._near.get(tuple(wanted[kind] for kind in _JOINED), [])
        return [line for line in near if _measures(line, row)]

    def _agrees(self, line: Line, row: Row, attack: str) -> bool:
        """Whether no key of the line's variant is a setting that the row has otherwise."""
        for key, value in line.variant.items():
            owners = (
                ("attack",) if key in self._attackers.get(attack, ()) else ("defense", "attack")
            )
            ours = _ours(key, row, owners)
            if ours and not any(
                _same(value, mine, 0.05 if key == "clean_frac" else 1e-6) for mine in ours
            ):
                return False
        return True

    def _choose(self, left: Sequence[Line], row: Row) -> Found:
        texts = dict.fromkeys(_text(line, row) for line in left)
        if len(texts) < 2:
            return next(iter(texts), ""), ""
        differing = sorted(
            {key for line in left for key in line.variant if len(_values(left, key)) > 1}
        )
        listed = "; ".join(f"{key} = {', '.join(sorted(_values(left, key)))}" for key in differing)
        return (
            "",
            f"{self.path.name} has {len(texts)} numbers for this, which differ in {listed or 'nothing it names'}",
        )

    def _name(self, row: Row, kind: str) -> str:
        """How the file calls a row's component: by label, or by label without what a sweep set."""
        label = str(getattr(row, kind))
        if kind == "defense" and row.on and label == row.settings.get(kind, {}).get("name"):
            return ""  # a method on top of another is not what papers report under its plain name
        return label if label in self._names[kind] else row.bases.get(kind, label)


def _line(path: Path, number: int, table: Mapping[str | None, Any]) -> Line:
    if None in table or any(table[name] is None for name in COLUMNS):
        raise BenchError(f"{path}:{number}: another number of fields than the header has")
    pairs = [pair.partition("=") for pair in table["variant"].split(";") if pair]
    joined = {kind: table[kind] for kind in _JOINED}
    return Line(
        joined,
        {key: value for key, _, value in pairs},
        table["metric"],
        table["value"],
        table["unit"],
    )


def _measures(line: Line, row: Row) -> bool:
    names = {
        row.metric,
        row.bases.get("metric", row.metric),
        str(row.settings.get("metric", {}).get("name", "")),
    }
    if row.part:
        names = {f"{name}_{row.part}" for name in names} | {row.part}
    return line.metric in names or (
        _minutes(line, row) and line.metric.removesuffix("_min") in names
    )


def _minutes(line: Line, row: Row) -> bool:
    return line.unit == "min" and row.unit == "s"


def _text(line: Line, row: Row) -> str:
    return f"{60 * float(line.value):.0f}" if _minutes(line, row) else line.value


def _values(lines: Iterable[Line], key: str) -> set[str]:
    return {line.variant.get(key, "unsaid") for line in lines}


def _ours(key: str, row: Row, owners: Sequence[str]) -> list[Any]:
    """What the row has for a key of a variant, in its own words; nothing where it is no setting of
    the row.
    """
    attack = _params(row, "attack")
    if key in ("poison_rate", "poison_rate_target"):
        of_target = attack.get("rate_of") == "eligible" and attack.get("eligible") == "target"
        if "poison_rate" not in attack:
            return []
        return [
            attack["poison_rate"]
            if of_target == (key == "poison_rate_target")
            else "a share of something else"
        ]
    if key == "target_mode":
        return [attack["label_map"]] if "label_map" in attack else []
    grants = list(row.settings.get("grants", {}).values())
    if key in _CLEAN:
        return [grant["count"] for grant in grants]
    if key == "clean_frac":
        return [grant["count"] / grant["of"] for grant in grants]
    if key == "labels":
        return ["yes" if grant["labelled"] else "no" for grant in grants]
    if key == "unlabeled":
        return [grant["dataset"] for grant in grants if not grant["labelled"]]
    for owner in owners:
        params = _params(row, owner)
        found = [value for name, value in params.items() if key in (name, name.replace("-", "_"))]
        if found:
            # Perturbations are printed in grey levels or in shares of the range.
            return found + [
                255 * value for value in found if key == "eps" and isinstance(value, float)
            ]
    return []


def _params(row: Row, kind: str) -> Mapping[str, Any]:
    params: Mapping[str, Any] = row.settings.get(kind, {}).get("params", {})
    return params


def _same(written: str, ours: Any, tolerance: float) -> bool:
    if isinstance(ours, bool):
        return written in (("yes", "true") if ours else ("no", "false"))
    if isinstance(ours, int | float):
        number = _number(written)
        return number is not None and math.isclose(number, ours, rel_tol=tolerance)
    return written == str(ours)


def _number(written: str) -> float | None:
    above, slash, below = written.partition("/")
    try:
        return float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        return None
