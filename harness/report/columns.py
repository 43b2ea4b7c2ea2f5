"""The columns of long tables: which there are, and what a row has in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import BenchError, suggest
from harness.report.results import Row

HEAD = ("dataset", "model", "attack", "defense", "on", "victim_seed", "defense_seed")
"""The first columns of a long table; then come the swept parameters."""
BODY = ("metric", "part", "value", "unit", "status", "reason", "marks", "poisoned", "source")
BRIEF = ("settings", "seconds", "log")
"""The last columns of a table in short."""
SMALL_PRINT = ("settings", "versions", "sources", "victim", "defended", "stage")
VOLATILE = ("seconds", "log", "environment")
"""The last columns of a full table, which may differ between two runs that give the same
numbers.
"""


def tidy(rows: Sequence[Row]) -> list[str]:
    """Return the columns that tell what a number is, and how it stands."""
    return [*HEAD, *_swept(rows), *BODY]


def brief(rows: Sequence[Row]) -> list[str]:
    """Return the columns of a table that people read: settings are a short text."""
    return [*tidy(rows), *BRIEF]


def full(rows: Sequence[Row]) -> list[str]:
    """Return all columns but those of single settings, which stand in one as JSON."""
    return [*tidy(rows), *SMALL_PRINT, *VOLATILE]


def of_settings(rows: Sequence[Row]) -> list[str]:
    """Return the columns of single settings (`attack.poison_rate`, `recipe.epochs`,
    `grants.clean.count`) that any row has.
    """
    values = Values()
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(values.settings(row)))
    return list(names)


def _swept(rows: Sequence[Row]) -> dict[str, None]:
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row.swept))
    return names


def check(names: Sequence[str], rows: Sequence[Row]) -> None:
    """Raise BenchError for a column that there is not."""
    known = dict.fromkeys([*full(rows), *of_settings(rows)])
    for name in names:
        if name not in known:
            raise BenchError(f"there is no column {name!r}. {suggest(name, list(known))}")


class Values:
    """What rows have in columns. With `in_short`, `settings` is a short text, else JSON."""

    def __init__(self, *, in_short: bool = True) -> None:
        self.in_short = in_short
        self._settings: dict[int, Mapping[str, Any]] = {}
        """Single settings, by the identity of the table that many rows share."""

    def of(self, row: Row, names: Sequence[str]) -> list[Any]:
        """Return the values of some columns; None where the row has none."""
        return [self.value(row, name) for name in names]

    def value(self, row: Row, name: str) -> Any:
        """Return the value of one column; None where the row has none."""
        if name == "status":
            return row.status.value
        if name == "marks":
            return ", ".join(row.marks)
        if name == "settings" and self.in_short:
            return row.brief
        if name in row.swept:
            return row.swept[name]
        if "." in name:
            return self.settings(row).get(name)
        return getattr(row, name)

    def settings(self, row: Row) -> Mapping[str, Any]:
        """Return the single settings of a row, by the names of their columns."""
        name = id(row.settings)
        if name not in self._settings:
            self._settings[name] = dict(_flattened(row.settings))
        return self._settings[name]


def _flattened(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings by dotted names: `attack.poison_rate`, `defense.teacher.epochs`."""
    flat: dict[str, Any] = {}
    for role, table in settings.items():
        if role == "on":
            for number, link in enumerate(table):
                _add(flat, f"on.{number}", link)
        elif table:
            _add(flat, role, table)
    return flat


def _add(flat: dict[str, Any], name: str, value: Any) -> None:
    """Add a value under its dotted name; a table's values each under its own."""
    if not isinstance(value, Mapping) or not value:
        flat[name] = value
        return
    is_component = "params" in value and "name" in value
    if not is_component:
        for key, item in value.items():
            _add(flat, f"{name}.{key}", item)
        return
    flat[f"{name}.name"] = value["name"]
    inner = {**value["params"], **value.get("uses", {}), **_rest(value)}
    for key, item in inner.items():
        _add(flat, f"{name}.{key}", item)


def _rest(component: Mapping[str, Any]) -> dict[str, Any]:
    """Return what stands beside name and parameters of a component, such as grants."""
    return {key: component[key] for key in component if key not in ("name", "params", "uses")}
