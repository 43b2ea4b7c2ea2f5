"""The long form: every row with every column, so written that two runs can be compared line by
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
    """What `write` writes."""
    stream = io.StringIO()
    write(rows, stream)
    return stream.getvalue()


def write(rows: Sequence[Row], stream: TextIO) -> None:
    """CSV with a header; tables as JSON with sorted keys. What varies from run to run is in the
    last columns.

    Line by line: the text of a large grid takes more memory than all that it is made of.
    """
    names = columns(rows)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    memo: dict[int, str] = {}
    for row in rows:
        flat = row.flat()
        writer.writerow([_field(flat.get(name), memo) for name in names])


def _field(value: Any, memo: dict[int, str]) -> str:
    """Numbers so that they read back the same; `memo` holds the text of tables that many rows
    share.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        if id(value) not in memo:
            memo[id(value)] = json.dumps(value, sort_keys=True, ensure_ascii=False) if value else ""
        return memo[id(value)]
    return (
        repr(value)
        if isinstance(value, float)
        else json.dumps(value, sort_keys=True, ensure_ascii=False)
    )
