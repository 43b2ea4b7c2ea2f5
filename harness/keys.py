"""Canonical JSON and its SHA-256: how settings become keys.

Equal settings give equal bytes on every machine and Python version; settings that differ in any value or type differ.
Values arrive coerced to their declared types, so 1 and 1.0 are two different things here.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any


def canonical(value: Any) -> bytes:
    """`value` as JSON with sorted keys, no spaces, in UTF-8. Tuples are lists, -0.0 is 0.0.

    Takes None, bool, int, float, str, list, tuple and dict with str keys; raises TypeError for anything else (also for
    subclasses such as enums and numpy scalars, whose text may vary) and ValueError for a number that is not finite or
    text that UTF-8 cannot hold. Both name the place, as in `params.sizes[2]`.
    """
    plain = _plain(value, "")
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """SHA-256 of `canonical(value)`, 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


def _plain(value: Any, place: str) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is int:
        return value
    if kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{place or 'value'} is {value}: a key takes finite numbers only")
        return value + 0.0  # -0.0 becomes 0.0
    if kind is str:
        return _text(value, place)
    if kind in (list, tuple):
        return [_plain(item, f"{place}[{number}]") for number, item in enumerate(value)]
    if kind is dict:
        return {
            _name(name, place): _plain(item, f"{place}.{name}" if place else str(name)) for name, item in value.items()
        }
    raise TypeError(
        f"{place or 'value'} is a {kind.__module__}.{kind.__qualname__}: a key takes None, bool, int, float, str, list,"
        " tuple and dict"
    )


def _name(name: Any, place: str) -> str:
    if type(name) is not str:
        raise TypeError(f"{place or 'value'} has the key {name!r} of type {type(name).__name__}: a dict's keys are str")
    return _text(name, f"a name in {place or 'value'}")


def _text(text: str, place: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{place or 'value'} is no text that UTF-8 can hold: {error}") from None
    return text
