"""Types of parameters in plain words: "a number between 0 and 1"."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import annotated_types as at
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from harness.components import (
    FileMark,
    FolderMark,
    OutsideKeyMark,
    Reference,
    ReferenceMark,
    Unbound,
)

_ONE = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    type(None): "nothing",
    Any: "any value",
}
_MANY = {int: "whole numbers", float: "numbers", str: "strings", bool: "booleans"}


def wanted(field: FieldInfo) -> str:
    """What a field takes, in words."""
    return _words(field.annotation, field.metadata)


def default_text(field: FieldInfo) -> str:
    """` (default: 0.1)`, or nothing where the parameter is required."""
    return "" if field.is_required() else f" (default: {json.dumps(default_of(field))})"


def default_of(field: FieldInfo) -> Any:
    """The default as JSON; None where there is none."""
    value = field.get_default(call_default_factory=True, validated_data={})
    return None if value is PydanticUndefined else as_json(value)


def as_json(value: Any) -> Any:
    """A parameter's value as a grid would have it; what JSON has no word for becomes text."""
    if isinstance(value, Unbound):
        value = Reference("", value.name, value.preset, value.params)
    if isinstance(value, Reference):
        return as_json(value.table())
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(as_json(item) for item in value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_json(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def is_file(field: FieldInfo) -> bool:
    """Whether the field, or something in it, is a `File`."""
    return any(isinstance(mark, FileMark) for mark in _marks(field.annotation, field.metadata))


def is_folder(field: FieldInfo) -> bool:
    """Whether the field is a `Folder`."""
    return any(isinstance(mark, FolderMark) for mark in _marks(field.annotation, field.metadata))


def is_outside_key(field: FieldInfo) -> bool:
    """Whether the field is marked `NotInKey`."""
    return any(
        isinstance(mark, OutsideKeyMark) for mark in _marks(field.annotation, field.metadata)
    )


def uses(field: FieldInfo) -> str | None:
    """The kind of component that the field takes, or None for a plain parameter."""
    marks = _marks(field.annotation, field.metadata)
    return next((mark.kind for mark in marks if isinstance(mark, ReferenceMark)), None)


def _marks(annotation: Any, metadata: Iterable[Any]) -> list[Any]:
    found = list(metadata)
    for argument in typing.get_args(annotation):
        if typing.get_origin(argument) is typing.Annotated:
            inner, *marks = typing.get_args(argument)
            found += _marks(inner, marks)
        else:
            found += _marks(argument, ())
    return found


def _words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    marks = list(_flat(metadata))
    if origin is typing.Annotated:
        return _words(arguments[0], [*arguments[1:], *marks])
    kind = next((mark.kind for mark in marks if isinstance(mark, ReferenceMark)), None)
    if kind:
        return f'{"an" if kind == "attack" else "a"} {kind}: "name" or {{name = "...", <its parameters>}}'
    if origin is Literal:
        return ("" if len(arguments) == 1 else "one of ") + ", ".join(
            json.dumps(value) for value in arguments
        )
    if origin in (typing.Union, types.UnionType):
        return " or ".join(
            _words(argument, marks) for argument in arguments if argument is not type(None)
        )
    if origin in (tuple, list, set, frozenset, Sequence):
        return _list_words(origin, arguments) + _bounds(marks, "entries")
    if origin in (dict, Mapping):
        return "a table"
    if annotation is Path:
        return (
            "a path to a folder"
            if any(isinstance(mark, FolderMark) for mark in marks)
            else "a path to a file"
        )
    return _ONE.get(annotation, f"a {getattr(annotation, '__name__', annotation)}") + _bounds(marks)


def _list_words(origin: Any, arguments: tuple[Any, ...]) -> str:
    if origin is tuple and Ellipsis not in arguments:
        if len(set(arguments)) == 1 and arguments[0] in _MANY:
            return f"a list of {len(arguments)} {_MANY[arguments[0]]}"
        return (
            f"a list of {len(arguments)}: {'; '.join(_words(argument) for argument in arguments)}"
        )
    item, marks = arguments[0], ()
    if typing.get_origin(item) is typing.Annotated:
        item, *marks = typing.get_args(item)  # type: ignore[assignment]
    many = _MANY.get(item)
    return (
        f"a list of {many}{_bounds(_flat(marks))}"
        if many
        else f"a list, each {_words(arguments[0])}"
    )


def _flat(metadata: Iterable[Any]) -> Iterable[Any]:
    for mark in metadata:
        if isinstance(mark, FieldInfo):
            yield from _flat(mark.metadata)
        elif isinstance(mark, at.Interval):
            yield from mark
        else:
            yield mark


def _bounds(marks: Iterable[Any], noun: str = "") -> str:
    low = high = ""
    for mark in marks:
        if isinstance(mark, at.Ge):
            low = f"at least {mark.ge}"
        elif isinstance(mark, at.Gt):
            low = f"above {mark.gt}"
        elif isinstance(mark, at.Le):
            high = f"at most {mark.le}"
        elif isinstance(mark, at.Lt):
            high = f"below {mark.lt}"
        elif isinstance(mark, at.MinLen) and mark.min_length:
            low = f"at least {mark.min_length}"
        elif isinstance(mark, at.MaxLen):
            high = f"at most {mark.max_length}"
    tail = f" {noun}" if noun else ""
    if low.startswith("at least ") and high.startswith("at most "):
        return (
            f" between {low[9:]} and {high[8:]}{tail}"
            if not noun
            else f" with {low[9:]} to {high[8:]}{tail}"
        )
    both = " and ".join(filter(None, (low, high)))
    return f" {'with' if noun else ''} {both}{tail}".replace("  ", " ") if both else ""
