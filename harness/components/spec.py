"""A component as one process tells another of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IN_PLACE = "component"
"""The only key of the table that stands for a reference whose component the host has put in place.
"""


@dataclass(frozen=True)
class ComponentSpec:
    """All it takes to build a component again: `target` is `module:Class`, `params` its complete
    parameters as JSON, with absolute paths.

    `key_entry` is its place in keys (kind, name, version, and the parameters that move numbers,
    files by content), which is no business of the process that builds it. `files` maps the path of
    each file parameter to the SHA-256 of the content that the plan saw.
    """

    target: str
    params: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""
    name: str = ""
    key_entry: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    files: Mapping[str, str] = field(default_factory=dict)
