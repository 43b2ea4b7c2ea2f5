"""Errors of parameters as sentences: where, what is wrong, what would be right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from harness.components import RESERVED
from harness.errors import suggest
from harness.introspect.wording import default_text, wanted

Path = tuple[str | int, ...]

_LONGEST = 60
_RAISED = frozenset({"value_error", "assertion_error"})


class ParameterError(Exception):
    """Parameters that cannot be: (path from the entry, what is wrong, what would be right) of each."""

    def __init__(self, *listed: tuple[Path, str, str]) -> None:
        self.listed = listed
        super().__init__(
            "; ".join(f"{'.'.join(map(str, path))}: {what}" for path, what, _ in listed)
        )


def from_validation(
    error: ValidationError, component: type[BaseModel], given: Mapping[str, Any]
) -> ParameterError:
    """Pydantic's errors in our words; several about the same place (the members of a union) become
    one.
    """
    found: dict[Path, tuple[str, str]] = {}
    for one in error.errors(include_url=False, include_context=False):
        path = (
            _place(one["loc"], given)
            if one["type"] not in ("missing", "extra_forbidden")
            else tuple(one["loc"])
        )
        found.setdefault(path, _say(one, path, component))
    return ParameterError(*((path, what, hint) for path, (what, hint) in found.items()))


def unknown_parameter(name: str, component: type[BaseModel]) -> tuple[str, str]:
    """What is wrong and what would be right for a name that is no parameter."""
    known = list(component.model_fields)
    hint = suggest(name, known) if known else "It has none."
    return f"{component.__name__} has no parameter {name!r}", hint.replace(
        "Known:", "Known parameters:"
    )


def _say(one: Any, path: Path, component: type[BaseModel]) -> tuple[str, str]:
    field = component.model_fields.get(str(path[0])) if path else None
    if one["type"] == "extra_forbidden":
        return unknown_parameter(str(path[0]), component) if len(path) == 1 else ("unknown key", "")
    if field is None:
        return _spoken(one["msg"]), ""
    expected = wanted(field)
    hint = f"wanted: {expected}" + default_text(field)
    if one["type"] == "missing":
        return ("is required", hint) if len(path) == 1 else (f"{path[-1]!r} is missing", hint)
    if one["type"] in _RAISED:
        return f"{shown(one['input'])}: {_spoken(one['msg'])}", hint
    if len(path) == 1:
        return f"{shown(one['input'])} is not {expected}", hint
    return f"{shown(one['input'])}: {_spoken(one['msg'])}", hint


def _place(loc: Sequence[str | int], given: Mapping[str, Any]) -> Path:
    """The part of pydantic's location that is a place in what was given: members of unions are
    named there too.
    """
    path: list[str | int] = []
    value: Any = given
    for step in loc:
        inside = (
            step in value
            if isinstance(value, Mapping)
            else isinstance(value, list) and isinstance(step, int)
        )
        if inside:
            path.append(step)
            value = value[step] if isinstance(value, Mapping) or int(step) < len(value) else None
        elif not path:
            path.append(step)  # a default that does not fit
            value = None
    return tuple(path)


def _spoken(message: str) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return text[:1].lower() + text[1:] if message.startswith("Input ") else text


def shown(value: Any) -> str:
    """A value as a grid would have it, shortened."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def name_is_reserved(name: str) -> str | None:
    """Why no parameter can have this name, if a grid entry uses it for something else."""
    return (
        f"{name!r} is a key that every grid entry has ({', '.join(sorted(RESERVED))})"
        if name in RESERVED
        else None
    )
