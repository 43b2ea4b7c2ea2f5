"""Types of parameters in plain words: "a number between 0 and 1"."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

_SINGULAR = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    type(None): "nothing",
    Any: "any value",
}
_PLURAL = {int: "whole numbers", float: "numbers", str: "strings", bool: "booleans"}


def expected(field: FieldInfo) -> str:
    """Say in words what a field takes."""
    return _words(field.annotation, field.metadata)


def default_text(field: FieldInfo) -> str:
    """Return ` (default: 0.1)`, or nothing where the parameter is required."""
    if field.is_required():
        return ""
    return f" (default: {json.dumps(default_of(field))})"


def default_of(field: FieldInfo) -> Any:
    """Return the default as JSON; None where there is none."""
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return None
    return as_json(value)


def as_json(value: Any) -> Any:
    """Return a parameter's value as a grid would have it; text for what JSON has no word for."""
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
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def is_file(field: FieldInfo) -> bool:
    """Tell whether the field, or something in it, is a `File`."""
    return _has_mark(field, FileMark)


def is_folder(field: FieldInfo) -> bool:
    """Tell whether the field is a `Folder`."""
    return _has_mark(field, FolderMark)


def is_outside_key(field: FieldInfo) -> bool:
    """Tell whether the field is marked `NotInKey`."""
    return _has_mark(field, OutsideKeyMark)


def uses(field: FieldInfo) -> str | None:
    """Return the kind of component that the field takes, or None for a plain parameter."""
    return _kind_of_reference(_marks(field.annotation, field.metadata))


def _has_mark(field: FieldInfo, mark: type) -> bool:
    return any(isinstance(item, mark) for item in _marks(field.annotation, field.metadata))


def _kind_of_reference(marks: Iterable[Any]) -> str | None:
    for mark in marks:
        if isinstance(mark, ReferenceMark):
            return mark.kind
    return None


def _marks(annotation: Any, metadata: Iterable[Any]) -> list[Any]:
    """List the metadata of a type and of all types that it is made of."""
    marks = list(metadata)
    for argument in typing.get_args(annotation):
        if typing.get_origin(argument) is typing.Annotated:
            inner, *inner_metadata = typing.get_args(argument)
            marks += _marks(inner, inner_metadata)
        else:
            marks += _marks(argument, ())
    return marks


def _words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Say in words what an annotation with such metadata takes."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    marks = list(_flat(metadata))
    if origin is typing.Annotated:
        return _words(arguments[0], [*arguments[1:], *marks])
    kind = _kind_of_reference(marks)
    if kind:
        article = "an" if kind == "attack" else "a"
        return f'{article} {kind}: "name" or {{name = "...", <its parameters>}}'
    if origin is Literal:
        listed = ", ".join(json.dumps(value) for value in arguments)
        return listed if len(arguments) == 1 else f"one of {listed}"
    if origin in (typing.Union, types.UnionType):
        members = [argument for argument in arguments if argument is not type(None)]
        return " or ".join(_words(member, marks) for member in members)
    if origin in (tuple, list, set, frozenset, Sequence):
        return _list_words(origin, arguments) + _bounds(marks, "entries")
    if origin in (dict, Mapping):
        return "a table"
    if annotation is Path:
        return _path_words(marks)
    name = getattr(annotation, "__name__", annotation)
    return _SINGULAR.get(annotation, f"a {name}") + _bounds(marks)


def _path_words(marks: Iterable[Any]) -> str:
    if any(isinstance(mark, FolderMark) for mark in marks):
        return "a path to a folder"
    return "a path to a file"


def _list_words(origin: Any, arguments: Sequence[Any]) -> str:
    """Say in words what a list takes whose type has such arguments."""
    if origin is tuple and Ellipsis not in arguments:
        if len(set(arguments)) == 1 and arguments[0] in _PLURAL:
            return f"a list of {len(arguments)} {_PLURAL[arguments[0]]}"
        listed = "; ".join(_words(argument) for argument in arguments)
        return f"a list of {len(arguments)}: {listed}"
    item = arguments[0]
    marks: Sequence[Any] = ()
    if typing.get_origin(item) is typing.Annotated:
        item, *marks = typing.get_args(item)
    plural = _PLURAL.get(item)
    if plural is None:
        return f"a list, each {_words(arguments[0])}"
    return f"a list of {plural}{_bounds(_flat(marks))}"


def _flat(metadata: Iterable[Any]) -> Iterator[Any]:
    """Yield single marks of what may hold several."""
    for mark in metadata:
        if isinstance(mark, FieldInfo):
            yield from _flat(mark.metadata)
        elif isinstance(mark, at.Interval):
            yield from mark
        else:
            yield mark


def _bounds(marks: Iterable[Any], noun: str = "") -> str:
    """Say in words what a number, or with `noun` the length of a list, is bounded by."""
    low, high = _limits(marks)
    closed = low.startswith("at least ") and high.startswith("at most ")
    least = low.removeprefix("at least ")
    most = high.removeprefix("at most ")
    both = " and ".join(filter(None, (low, high)))
    if not both:
        return ""
    if closed and noun:
        return f" with {least} to {most} {noun}"
    if closed:
        return f" between {least} and {most}"
    if noun:
        return f" with {both} {noun}"
    return f" {both}"


def _limits(marks: Iterable[Any]) -> tuple[str, str]:
    """Return the lower and the upper limit in words, each empty where there is none."""
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
    return low, high
