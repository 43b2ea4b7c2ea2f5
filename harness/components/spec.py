"""A component as one process tells another of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ComponentSpec:
    """All it takes to build a component again: `target` is `module:Class`, `params` its complete
    parameters as JSON, with absolute paths.
    """

    target: str
    params: Mapping[str, Any] = field(default_factory=dict)
    kind: str = ""
    name: str = ""
