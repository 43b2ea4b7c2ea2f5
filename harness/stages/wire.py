"""Payloads as they arrive in a child: JSON, checked and turned back into dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from harness.stages.payloads import (
    DataPayload,
    DefendPayload,
    EvaluatePayload,
    ExportPayload,
    GrantPayload,
    MeasurePayload,
    PartPayload,
    Payload,
    PoisonPayload,
    PreviewPayload,
    ScorePayload,
    VictimPayload,
)

PAYLOADS: Mapping[str, type[Payload]] = {
    payload.kind: payload
    for payload in (
        DataPayload,
        DefendPayload,
        EvaluatePayload,
        ExportPayload,
        GrantPayload,
        MeasurePayload,
        PartPayload,
        PoisonPayload,
        PreviewPayload,
        ScorePayload,
        VictimPayload,
    )
}
"""The payload class of each stage kind."""

_ADAPTERS = {kind: TypeAdapter(payload) for kind, payload in PAYLOADS.items()}


def read_payload(kind: str, table: Mapping[str, Any]) -> Payload:
    """Return the payload of a stage kind from its JSON.

    Raises KeyError for an unknown kind, pydantic.ValidationError naming the field for a table that
    does not fit.
    """
    payload: Payload = _ADAPTERS[kind].validate_python(table)
    return payload
