"""The long form: every row with every column, so written that two runs can be compared line by line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.results import Row, columns


def render(rows: Sequence[Row]) -> str:
    """CSV with a header; tables as JSON with sorted keys. What varies from run to run is in the last columns."""
    stream = io.StringIO()
    names = columns(rows)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    memo: dict[int, str] = {}
    for row in rows:
        flat = row.flat()
        writer.writerow([_field(flat.get(name), memo) for name in names])
    return stream.getvalue()


def _field(value: Any, memo: dict[int, str]) -> str:
    """Numbers so that they read back the same; `memo` holds the text of tables that many rows share."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        if id(value) not in memo:
            memo[id(value)] = json.dumps(value, sort_keys=True, ensure_ascii=False) if value else ""
        return memo[id(value)]
    return repr(value) if isinstance(value, float) else json.dumps(value, sort_keys=True, ensure_ascii=False)
