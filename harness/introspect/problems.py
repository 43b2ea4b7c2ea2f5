"""Errors of parameters as sentences: the place, what is wrong there, what would be right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.errors import suggest
from harness.introspect.wording import default_text, expected
from harness.vocabulary import RESERVED

Path = tuple[str | int, ...]

IDLE = "it does nothing here"
"""Begins what is said of a setting that does nothing beside the others."""

_LONGEST = 60
_RAISED = frozenset({"value_error", "assertion_error"})
"""Types of pydantic's errors that were raised by a validator of the component."""


class ParameterError(Exception):
    """Invalid parameters; `listed` has (path from the entry, what is wrong, what would be
    right) of each.
    """

    def __init__(self, *listed: tuple[Path, str, str]) -> None:
        self.listed = listed
        sentences = []
        for path, wrong, _ in listed:
            place = ".".join(map(str, path))
            sentences.append(f"{place}: {wrong}")
        super().__init__("; ".join(sentences))


def from_validation(
    error: ValidationError, component: type[BaseModel], given: Mapping[str, Any]
) -> ParameterError:
    """Put pydantic's errors in our words; several about the same place (the members of a union)
    become one. Of a list that is a member of a union, either the list is complained of or some of
    its items.
    """
    sentences: dict[Path, tuple[str, str]] = {}
    for detail in error.errors(include_url=False, include_context=False):
        if detail["type"] in ("missing", "extra_forbidden"):
            path = tuple(detail["loc"])
        else:
            path = _place(detail["loc"], given)
        sentences.setdefault(path, _in_words(detail, path, component))
    for path in _beside_the_point(list(sentences), given):
        sentences.pop(path, None)
    return ParameterError(*((path, wrong, hint) for path, (wrong, hint) in sentences.items()))


def unknown_parameter(name: str, component: type[BaseModel]) -> tuple[str, str]:
    """Return what is wrong and what would be right for a name that is no parameter."""
    known = list(component.model_fields)
    wrong = f"{component.__name__} has no parameter {name!r}"
    if not known:
        return wrong, "It has none."
    return wrong, suggest(name, known).replace("Known:", "Known parameters:")


def _in_words(detail: Any, path: Path, component: type[BaseModel]) -> tuple[str, str]:
    """Return what is wrong and what would be right, for one entry of pydantic's `errors`."""
    inside = len(path) > 1
    if detail["type"] == "extra_forbidden":
        if inside:
            return "unknown key", ""
        return unknown_parameter(str(path[0]), component)
    message = _sentence(detail["msg"])
    field = None
    if path:
        field = component.model_fields.get(str(path[0]))
    if field is None:
        return message, ""
    words = expected(field)
    hint = f"expected: {words}{default_text(field)}"
    if detail["type"] == "missing":
        if inside:
            return f"{path[-1]!r} is missing", hint
        return "is required", hint
    value = shown(detail["input"])
    if inside or detail["type"] in _RAISED:
        return f"{value}: {message}", hint
    return f"{value} is not {words}", hint


def _place(loc: Sequence[str | int], given: Mapping[str, Any]) -> Path:
    """Return the part of pydantic's location that is a place in what was given: members of unions
    are named there too.
    """
    path: list[str | int] = []
    value: Any = given
    for step in loc:
        if isinstance(value, Mapping) and step in value:
            path.append(step)
            value = value[step]
        elif isinstance(value, list) and isinstance(step, int):
            path.append(step)
            # A list that is too short is complained of at its first missing item.
            value = value[step] if step < len(value) else None
        elif not path:
            path.append(step)  # a default that does not fit
            value = None
    return tuple(path)


def _beside_the_point(paths: Sequence[Path], given: Mapping[str, Any]) -> list[Path]:
    """Return the places that need no complaint, since there are some about the whole list and about
    its items: the list itself where some items are right, its items where none is.
    """
    superfluous: list[Path] = []
    for path in paths:
        inside = [other for other in paths if other[: len(path)] == path and other != path]
        value: Any = given
        for step in path:
            value = value[step] if inside else None
        if not isinstance(value, list):
            continue
        wrong_items = {other[len(path)] for other in inside}
        if len(wrong_items) < len(value):
            superfluous.append(path)
        else:
            superfluous += inside
    return superfluous


def _sentence(message: str) -> str:
    """Return a message of pydantic as a part of one of our sentences."""
    text = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if message.startswith("Input "):
        return text[:1].lower() + text[1:]
    return text


def shown(value: Any) -> str:
    """Write a value as a grid would have it, shortened."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    if len(text) <= _LONGEST:
        return text
    return text[: _LONGEST - 3] + "..."


def name_is_reserved(name: str) -> str | None:
    """Return why no parameter can have this name, if a grid entry uses it for something else."""
    if name not in RESERVED:
        return None
    return f"{name!r} is a key that every grid entry has ({', '.join(sorted(RESERVED))})"
