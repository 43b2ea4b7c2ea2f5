"""Payloads as they arrive in a child: JSON, checked and turned back into dataclasses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from harness.stages.payloads import PAYLOADS, Payload

_ADAPTERS = {kind: TypeAdapter(payload) for kind, payload in PAYLOADS.items()}


def read_payload(kind: str, table: Mapping[str, Any]) -> Payload:
    """Return the payload of a stage kind from its JSON.

    Raises KeyError for an unknown kind, ValueError for a table that does not fit, naming the field
    where it can (pydantic.ValidationError).
    """
    payload: Payload = _ADAPTERS[kind].validate_python(table)
    # Pydantic converts a "5" to 5 and drops what it does not know: neither is what a plan wrote.
    if payload.to_json() != json.loads(json.dumps(table)):
        raise ValueError(f"the payload of stage kind {kind!r} has fields that it should not have")
    return payload
