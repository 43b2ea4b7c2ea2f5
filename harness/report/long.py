"""The long form: a line for each row, as CSV, as JSON and as a pandas table; CSV so that two runs
can be compared line by line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from harness.report import columns
from harness.report.results import Row

if TYPE_CHECKING:
    import pandas as pd

WHOLE = ("victim_seed", "defense_seed")
MEASURED = ("value", "poisoned", "seconds")


def render(rows: Sequence[Row]) -> str:
    """Return the text that `write` writes."""
    stream = io.StringIO()
    write(rows, stream)
    return stream.getvalue()


def write(rows: Sequence[Row], stream: TextIO) -> None:
    """Write CSV with a header, tables as JSON with sorted keys. The last columns are those that
    vary from run to run.

    Rows are written one by one: the text of a large grid takes more memory than all the rows.
    """
    names = columns.full(rows)
    values = columns.Values(in_short=False)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    memo: dict[int, str] = {}
    for row in rows:
        writer.writerow([_field(value, memo) for value in values.of(row, names)])


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
