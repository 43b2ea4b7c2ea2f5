"""The long form: every row with every column, written so that two runs can be compared line by
line.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from harness.report.results import Row, columns


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
    names = columns(rows)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    memo: dict[int, str] = {}
    for row in rows:
        flat = row.flat()
        writer.writerow([_field(flat.get(name), memo) for name in names])


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
