"""The long form: a line for each row, as CSV, as JSON and as a pandas table; CSV and JSON so that
two runs can be compared line by line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from harness.report import columns
from harness.report.results import Row

if TYPE_CHECKING:
    import pandas as pd

WHOLE = ("victim_seed", "defense_seed")
MEASURED = ("value", "poisoned", "seconds")


class LongForm:
    """Rows with the columns that are asked for.

    `names` are columns by name; without any, those of a table in short, or with `full` all.
    `settings` is a short text, or with `full` JSON. Raises BenchError for a column that there is
    not.
    """

    def __init__(self, rows: Sequence[Row], names: Sequence[str] = (), *, full: bool = False):
        self.rows = rows
        self.values = columns.Values(in_short=not full)
        if names:
            columns.check(names, rows)
            self.names = list(dict.fromkeys(names))
        elif full:
            self.names = columns.full(rows)
        else:
            self.names = columns.brief(rows)

    def write(self, stream: TextIO, form: str) -> None:
        """Write the rows as `csv` or as `json`."""
        if form == "json":
            self._write_json(stream)
        else:
            self._write_csv(stream)

    # Rows are written one by one: the text of a large grid takes more memory than all the rows.

    def _write_csv(self, stream: TextIO) -> None:
        """Write a header and the rows, tables as JSON with sorted keys."""
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.names)
        memo: dict[int, str] = {}
        for row in self.rows:
            values = self.values.of(row, self.names)
            writer.writerow([_field(value, memo) for value in values])

    def _write_json(self, stream: TextIO) -> None:
        """Write a list of objects, each on a line of its own."""
        before = "["
        for row in self.rows:
            values = self.values.of(row, self.names)
            table = dict(zip(self.names, values, strict=True))
            stream.write(f"{before}\n{json.dumps(table, ensure_ascii=False)}")
            before = ","
        stream.write("[]\n" if before == "[" else "\n]\n")


def frame(rows: Sequence[Row], settings: bool | Sequence[str] = False) -> pd.DataFrame:
    """Return rows as a pandas table: what a number is and how it stands, its seconds and log;
    `settings` are columns of single settings, True for all that any row has.

    Seeds are whole numbers; `value`, `poisoned` and `seconds` floats, NaN where there is none;
    settings have the type that fits all their values, NA where a row has none. Raises BenchError
    for a column that there is not.
    """
    # The other verbs do without pandas.
    import pandas as pd

    names = [*columns.tidy(rows), "seconds", "log"]
    if settings is True:
        settings = columns.of_settings(rows)
    elif settings:
        columns.check(settings, rows)
    names += [name for name in settings or () if name not in names]
    values = columns.Values()
    table = pd.DataFrame([values.of(row, names) for row in rows], columns=names)
    types = dict.fromkeys(WHOLE, "int64") | dict.fromkeys(MEASURED, "float64")
    table = table.astype(types)
    of_settings = [name for name in names if "." in name]
    table[of_settings] = table[of_settings].convert_dtypes()
    return table


def _field(value: Any, memo: dict[int, str]) -> str:
    """Return a value as text, numbers so that they read back the same.

    `memo` holds the text of tables that many rows share, by their identity.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return repr(value)
    if not isinstance(value, Mapping):
        return _json(value)
    if id(value) not in memo:
        memo[id(value)] = _json(value) if value else ""
    return memo[id(value)]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
