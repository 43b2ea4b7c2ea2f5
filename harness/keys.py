"""Canonical JSON and its SHA-256: how settings become keys.

Equal settings give equal bytes on every machine and Python version; settings that differ in any value or type differ.
Values arrive coerced to their declared types, so 1 and 1.0 are two different things here.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any


def canonical(value: Any) -> bytes:
    """`value` as JSON with sorted keys, no spaces, in UTF-8. Tuples are lists, -0.0 is 0.0.

    Takes None, bool, int, float, str, list, tuple and dict with str keys; raises TypeError for anything else (also for
    subclasses such as enums and numpy scalars, whose text may vary) and ValueError for a number that is not finite or
    text that UTF-8 cannot hold. Both name the place, as in `params.sizes[2]`.
    """
    try:
        plain = _plain(value)
    except _Unfit as unfit:
        raise unfit.kind(unfit.text(_place(unfit.path))) from None
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: Any) -> str:
    """SHA-256 of `canonical(value)`, 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


class _Unfit(Exception):
    """A value that no key can hold; `path` leads to it, innermost step first, and `text` says it of a place."""

    def __init__(self, kind: type[Exception], text: Callable[[str], str]) -> None:
        self.kind, self.text = kind, text
        self.path: list[str | int] = []


def _place(path: list[str | int]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in reversed(path))
    return "".join(steps).removeprefix(".") or "value"


def _plain(value: Any) -> Any:
    # Every key of every plan goes through here: the place is put together only where something is wrong.
    kind = type(value)
    if kind is str:
        return _text(value, "{}")
    if value is None or kind is bool or kind is int:
        return value
    if kind is float:
        if not math.isfinite(value):
            raise _Unfit(ValueError, lambda place: f"{place} is {value}: a key takes finite numbers only")
        return value + 0.0  # -0.0 becomes 0.0
    if kind is dict:
        return _table(value)
    if kind in (list, tuple):
        return _row(value)
    raise _Unfit(
        TypeError,
        lambda place: (
            f"{place} is a {kind.__module__}.{kind.__qualname__}: a key takes None, bool, int, float, str, list, "
            "tuple and dict"
        ),
    )


def _table(value: dict[Any, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, item in value.items():
        if type(name) is not str:
            told = f"has the key {name!r} of type {type(name).__name__}: a dict's keys are str"
            raise _Unfit(TypeError, lambda place, told=told: f"{place} {told}")  # type: ignore[misc]
        name = _text(name, "a name in {}")
        try:
            plain[name] = _plain(item)
        except _Unfit as unfit:
            unfit.path.append(name)
            raise
    return plain


def _row(value: Sequence[Any]) -> list[Any]:
    plain = []
    for number, item in enumerate(value):
        try:
            plain.append(_plain(item))
        except _Unfit as unfit:
            unfit.path.append(number)
            raise
    return plain


def _text(text: str, subject: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            told = f"is no text that UTF-8 can hold: {error}"
            raise _Unfit(ValueError, lambda place: f"{subject.replace('{}', place)} {told}") from None
    return text
