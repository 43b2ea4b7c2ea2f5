"""Payloads of stage kinds that there are in tests only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.stages.payloads import Payload


@dataclass(frozen=True)
class AnyPayload(Payload):
    """A payload of any kind that holds any JSON."""

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return dict(self.settings)

    def in_key(self) -> dict[str, Any]:
        return dict(self.settings)
