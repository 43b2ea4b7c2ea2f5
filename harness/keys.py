"""Canonical JSON and its SHA-256, which turn settings into keys.

Equal settings give equal bytes on every machine and Python version; settings that differ in any
value or type differ. Values arrive coerced to their declared types, so 1 and 1.0 are two different
things here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from json.encoder import encode_basestring
from typing import Any


def canonical(value: Any) -> bytes:
    """Return `value` as JSON with sorted keys, no spaces, in UTF-8. Tuples are lists, -0.0 is 0.0.

    Takes None, bool, int, float, str, list, tuple and dict (or `Shared`) with str keys; raises
    TypeError for anything else (also for subclasses such as enums and numpy scalars, whose text may
    vary) and ValueError for a number that is not finite or text that UTF-8 cannot hold. Both name
    the place, as in `params.sizes[2]`.
    """
    try:
        return _json(value).encode()
    except _Unfit as unfit:
        place = _place(unfit.path)
        raise unfit.kind(unfit.text(place)) from None


def digest(value: Any) -> str:
    """Return the SHA-256 of `canonical(value)`, 64 hex digits."""
    return hashlib.sha256(canonical(value)).hexdigest()


class Shared(dict[str, Any]):
    """A table that many settings hold and nobody changes any more: its text is made only once."""

    @cached_property
    def text(self) -> str:
        """Its canonical text."""
        return _object(self)


_WORDS = {None: "null", True: "true", False: "false"}


class _Unfit(Exception):
    """A value that no key can hold.

    `path` leads to it, innermost step first; `text` makes the message from the name of the place.
    """

    def __init__(self, kind: type[Exception], text: Callable[[str], str]) -> None:
        self.kind = kind
        self.text = text
        self.path: list[str | int] = []


def _place(path: list[str | int]) -> str:
    """Return the way to a value as in `params.sizes[2]`; the outermost one is called "value"."""
    place = ""
    for step in reversed(path):
        if isinstance(step, int):
            place += f"[{step}]"
        else:
            place += f".{step}"
    return place.removeprefix(".") or "value"


def _json(value: Any) -> str:
    # Every key of every plan goes through here: the place is put together only where something is
    # wrong, and checking first and then writing with json.dumps would take twice as long.
    kind = type(value)
    if kind is str:
        if value.isascii():
            return encode_basestring(value)
        return _quoted(value, "{}")
    if kind is dict:
        return _object(value)
    if kind is Shared:
        shared: str = value.text
        return shared
    if kind in (list, tuple):
        return _array(value)
    if value is None or kind is bool:
        return _WORDS[value]
    if kind is int:
        return repr(value)
    if kind is float:
        if not math.isfinite(value):
            raise _Unfit(
                ValueError, lambda place: f"{place} is {value}: a key takes finite numbers only"
            )
        return repr(value + 0.0)  # -0.0 becomes 0.0
    name = f"{kind.__module__}.{kind.__qualname__}"
    raise _Unfit(
        TypeError,
        lambda place: (
            f"{place} is a {name}: a key takes None, bool, int, float, str, list, tuple and dict"
        ),
    )


def _object(value: dict[Any, Any]) -> str:
    for name in value:
        if type(name) is not str:
            raise _odd_name(name)
    members = []
    for name in sorted(value):
        quoted = _name(name)
        try:
            members.append(f"{quoted}:{_json(value[name])}")
        except _Unfit as unfit:
            unfit.path.append(name)
            raise
    return f"{{{','.join(members)}}}"


def _odd_name(name: Any) -> _Unfit:
    complaint = f"has the key {name!r} of type {type(name).__name__}: a dict's keys are str"
    return _Unfit(TypeError, lambda place: f"{place} {complaint}")


def _array(value: Sequence[Any]) -> str:
    items = []
    for number, item in enumerate(value):
        try:
            items.append(_json(item))
        except _Unfit as unfit:
            unfit.path.append(number)
            raise
    return f"[{','.join(items)}]"


@lru_cache(maxsize=1000)
def _name(text: str) -> str:
    return _quoted(text, "a name in {}")


def _quoted(text: str, subject: str) -> str:
    """Return `text` as a JSON string; in `subject`, which names it in errors, {} is the place."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        complaint = f"is no text that UTF-8 can hold: {error}"
        raise _Unfit(
            ValueError, lambda place: f"{subject.replace('{}', place)} {complaint}"
        ) from None
    return encode_basestring(text)
