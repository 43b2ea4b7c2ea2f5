"""What a child claims: its record, its progress, and the JSON files that it leaves.

All of it was written in a process that runs plugin code, so it may be anything. It is read here and
nowhere else, for the run and for reports: as plain files, up to a size, with the types that are
expected. What is not so is a ValueError that says what is wrong.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.keeping.continuing import CHECKPOINTS
from harness.stages.artefacts import RESULT_FILE, ROWS_FILE
from harness.store import disk, plain

RECORD = "record.json"
PROGRESS = "progress.json"
TRESPASSES = "trespasses.txt"
"""Holds a line for each thing that a stage did to others: a path, or what it did."""

STATUSES = ("ok", "error", "incompatible", "timeout", "paused", "unfit")
"""Statuses that a worker may give a task in `record.json`. The host adds "died"."""

VERDICT = ("flagged", "score")
"""Names of what a defense says beside its record, which no entry of the record may have."""

RECORD_LIMIT = 1 << 27
"""Bytes of `record.json` that are read: the paths that a stage opened are in it."""
PLACE = 200
"""Characters of a text that says how far a stage is."""
PROGRESS_LIMIT = 1 << 16
"""Bytes of `progress.json` that are read."""

_LONGEST_NUMBER = 10
_LONGEST = {"type": 200, "message": 4000, "traceback": 200_000, "place": 1000}
"""Characters of texts that are kept. Messages stand in tables, and readers of CSV have limits."""
_HOSTS = frozenset(
    {
        "seconds",
        "cpu_seconds",
        "peak_memory",
        "images_per_second",
        "signal",
        "continued",
        "host",
        "device",
        "threads",
        "started",
        "finished",
        "outcome",
        "kind",
        "title",
        "log",
        "errno",
    }
)
"""Facts that the host measures or knows. A child's word on them is not heard."""


def record(scratch: Path) -> dict[str, Any] | None:
    """Return the record that a worker wrote, checked, and without what only the host can know; None
    if there is none. Raises ValueError.
    """
    try:
        data = plain.content(scratch / RECORD, RECORD_LIMIT)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from error
    table = plain.table(data)
    if table.get("status") not in STATUSES:
        raise ValueError(f"it has no status among {', '.join(STATUSES)}")
    kept = {name: value for name, value in table.items() if name not in _HOSTS}
    for name, longest in _LONGEST.items():
        kept[name] = plain.clean(str(kept.get(name, "")))[:longest]
    for name in ("traceback", "place"):
        if not kept[name]:
            del kept[name]
    facts(kept)
    _check_opened(kept.get("opened", []))
    for name in ("rows", "failures"):
        if name in kept:
            kept[name] = _with_clean_texts(kept[name])
    return kept


def _with_clean_texts(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with such texts in it as can be shown."""
    cleaned = {}
    for name, value in table.items():
        cleaned[name] = value
        if isinstance(value, str):
            cleaned[name] = plain.clean(value)[: _LONGEST["message"]]
    return cleaned


def facts(table: Mapping[str, Any]) -> None:
    """Raise ValueError where one of the facts of a record that the host and its reports read is not
    of its type.
    """
    for name in ("images", "peak_device_memory"):
        value = table.get(name)
        if value is not None and not (_is_number(value) and value >= 0):
            raise ValueError(f"{name} is {_short(value)}; a number is expected, 0 or more")
    _check_environment(table.get("environment", {}))
    for name in ("seconds", "cpu_seconds", "peak_memory", "images_per_second"):
        value = table.get(name)
        if value is not None and not _is_number(value):
            raise ValueError(f"{name} is {_short(value)}; a number is expected")
    if "rows" in table:
        check_rows(table["rows"], "rows")
    _check_texts(table.get("failures", {}), "failures")


def stored_facts(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the record of a manifest; none of it where something in it is not of its type, as
    another version may have written.
    """
    try:
        facts(table)
    except ValueError:
        return {}
    return table


def _check_environment(environment: Any) -> None:
    if not isinstance(environment, dict):
        raise ValueError(f"environment is {_short(environment)}; a table is expected")
    for name, value in environment.items():
        if name == "packages":
            _check_texts(value, "environment.packages")
            if any(plain.clean(text) != text for text in value.values()):
                raise ValueError("environment.packages has control characters in it")
        elif value is not None and not isinstance(value, str | int | float):
            raise ValueError(f"environment.{name} is {_short(value)}; a text is expected")
        elif isinstance(value, str) and plain.clean(value) != value:
            raise ValueError(f"environment.{name} has control characters in it")


def _check_texts(table: Any, place: str) -> None:
    if not isinstance(table, dict):
        raise ValueError(f"{place} is {_short(table)}; a table is expected")
    for name, value in table.items():
        if not isinstance(value, str):
            raise ValueError(f"{place}.{name} is {_short(value)}; a text is expected")


def _check_opened(paths: Any) -> None:
    if not isinstance(paths, list):
        raise ValueError(f"opened is {_short(paths)}; a list of paths is expected")
    for path in paths:
        if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
            raise ValueError(f"opened holds {_short(path)}; absolute paths are expected")


def progress(scratch: Path) -> dict[str, Any] | None:
    """Return the worker's last report of how far it is: `step`, `total` and `loss` (or None), as
    far as they are numbers; where they are told, `place`, a text, and that it `keeps` what it does.
    None if there is no such report.
    """
    try:
        table = plain.parse(plain.content(scratch / PROGRESS, PROGRESS_LIMIT), finite=False)
    except (OSError, ValueError):
        return None
    if not isinstance(table, dict):
        return None
    told: dict[str, Any] = {}
    for name in ("step", "total", "loss"):
        value = table.get(name)
        told[name] = value if _is_number(value) else None
    if told["step"] is None or told["total"] is None:
        return None
    if table.get("place"):
        told["place"] = _place(table)
    if table.get("keeps") is True:
        told["keeps"] = True
    return told


def _place(table: Mapping[str, Any]) -> str:
    place = table.get("place", "")
    if not isinstance(place, str):
        return ""
    return plain.clean(place)[:PLACE].replace("\n", " ")


def keeps(scratch: Path) -> bool:
    """Tell whether a stage has begun a loop that leaves checkpoints, so that it is worth while to
    let it leave one more.
    """
    try:
        return stat.S_ISDIR((scratch / CHECKPOINTS).lstat().st_mode)
    except OSError:
        return False


def newest(folder: Path) -> int:
    """Return the number of the newest checkpoint in the folder of a stage; 0 if there is none."""
    numbers = [0]
    for name in disk.names(str(folder)):
        if name.isascii() and name.isdecimal() and len(name) < _LONGEST_NUMBER:
            numbers.append(int(name))
    return max(numbers)


def checkpoint(path: Path) -> dict[str, Any]:
    """Return what a stage says about a checkpoint: `environment`, `opened`, `place`, `cpu_seconds`
    so far, and `attempt_seconds` of this attempt. Raises ValueError, or OSError.
    """
    table = plain.table(plain.content(path, RECORD_LIMIT))
    _check_environment(table.get("environment", {}))
    _check_opened(table.get("opened", []))
    spent = {}
    for name in ("cpu_seconds", "attempt_seconds"):
        value = table.get(name, 0.0)
        if not _is_number(value):
            raise ValueError(f"{name} is {_short(value)}; a number is expected")
        spent[name] = float(value)
    return {
        "environment": table.get("environment", {}),
        "opened": table.get("opened", []),
        "place": _place(table),
        **spent,
    }


def trespasses(scratch: Path) -> list[str]:
    """Return what a stage noted of its own doings among others."""
    try:
        text = plain.tail(scratch / TRESPASSES, PROGRESS_LIMIT).decode("utf-8", "replace")
    except (OSError, ValueError):
        return []
    return plain.clean(text).splitlines()


# --- JSON that it leaves in `out/` ----------------------------------------------------------------


def read(name: str, data: bytes) -> Any:
    """Return the value of a JSON file that a stage left under a name. Raises ValueError, which
    names it, where it does not hold what a file of that name must.
    """
    try:
        if name == ROWS_FILE:
            table = plain.table(data)
            check_rows(table, "")
            return _with_clean_texts(table)
        if name == RESULT_FILE:
            table = plain.table(data)
            _check_result(table)
            return table
        return plain.parse(data, finite=False)
    except ValueError as error:
        raise ValueError(f"its {name} is not as it should be: {error}") from error


def check_rows(table: Any, place: str) -> None:
    """Raise ValueError unless a value holds numbers by metric and part, or for a metric the reason
    why there are none.
    """
    if not isinstance(table, dict):
        raise ValueError(f"{place or 'it'} is {_short(table)}; a table of metrics is expected")
    for metric, numbers in table.items():
        if isinstance(numbers, str):
            continue
        if not isinstance(numbers, dict):
            raise ValueError(
                f"metric {metric} has {_short(numbers)}; a table of its numbers is expected"
            )
        for part, value in numbers.items():
            if not _is_number(value):
                called = f"{metric} {part}".rstrip()
                raise ValueError(f"metric {called} is {_short(value)}; a number is expected")


def _check_result(table: Mapping[str, Any]) -> None:
    flagged = table.get("flagged")
    if flagged is not None and not isinstance(flagged, bool):
        raise ValueError(f"flagged is {_short(flagged)}; true, false or null is expected")
    score = table.get("score")
    if score is not None and not _is_number(score):
        raise ValueError(f"score is {_short(score)}; a number or null is expected")
    for name in ("targets", "suspects"):
        values = table.get(name, [])
        if not isinstance(values, list) or not all(map(_is_number, values)):
            raise ValueError(f"{name} is {_short(values)}; a list of numbers is expected")
    recorded = table.get("record")
    if not isinstance(recorded, dict):
        raise ValueError(f"record is {_short(recorded)}; a table of numbers is expected")
    for name, value in recorded.items():
        if name in VERDICT:
            raise ValueError(f"the record has an entry {name!r}, which is a name of the verdict's")
        if not _is_number(value):
            raise ValueError(f"record.{name} is {_short(value)}; a number is expected")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    """Return a value as it stands in a sentence: shortened, on one line."""
    text = plain.clean(repr(value)).replace("\n", " ")
    if len(text) > 80:
        return f"{text[:77]}..."
    return text
