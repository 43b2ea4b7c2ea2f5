"""Payloads on their way from a plan to a child: as JSON, and back."""

from __future__ import annotations

import json
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.access.context import Coordinates
from harness.components.spec import ComponentSpec
from harness.learn.task import Task
from harness.stages import payloads
from harness.stages.payloads import PAYLOADS, ContextSpec, Filling, Payload, Structure
from harness.stages.wire import read_payload

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
TABLES = st.dictionaries(st.text(max_size=5), VALUES, max_size=3)
COMPONENTS = st.builds(ComponentSpec, st.text(), TABLES, st.text(), st.text())
STRUCTURES = st.builds(Structure, COMPONENTS, st.lists(COMPONENTS, max_size=2).map(tuple))
FILLINGS = st.builds(Filling, COMPONENTS, st.none() | STRUCTURES)
COORDINATES = st.builds(Coordinates, st.none() | st.integers(0), st.text(), st.text(), st.text())
CONTEXTS = st.builds(
    ContextSpec,
    st.builds(Task),
    COORDINATES,
    st.none() | COMPONENTS,
    st.none() | TABLES,
    st.dictionaries(st.text(max_size=5), FILLINGS, max_size=2),
)
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int": st.integers(),
    "str": st.text(),
    "tuple[str, ...]": st.lists(st.text(), max_size=3).map(tuple),
    "ComponentSpec": COMPONENTS,
    "ComponentSpec | None": st.none() | COMPONENTS,
    "ContextSpec": CONTEXTS,
    "Coordinates": COORDINATES,
    "Mapping[str, ComponentSpec]": st.dictionaries(st.text(), COMPONENTS, max_size=2),
    "Structure": STRUCTURES,
    "Task": st.builds(Task),
    "Structure | None": st.none() | STRUCTURES,
}
"""Values of a payload's field, by its annotation."""


def samples(payload: type[Payload]) -> st.SearchStrategy[Payload]:
    values = {field.name: BY_TYPE[str(field.type)] for field in fields(payload)}
    return st.builds(payload, **values)


def declared() -> dict[str, type[Payload]]:
    """Return the payload classes of the harness by name; tests have more."""
    classes = {}
    for name, value in vars(payloads).items():
        if isinstance(value, type) and issubclass(value, Payload) and hasattr(value, "kind"):
            classes[name] = value
    return classes


def test_every_payload_is_known_by_its_kind_and_has_a_body() -> None:
    assert set(PAYLOADS.values()) == set(declared().values())
    for kind, payload in PAYLOADS.items():
        assert payload.kind == kind
        assert find_spec(f"harness.stages.{kind}") is not None


@pytest.mark.parametrize("kind", PAYLOADS)
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_a_payload_comes_back_equal(kind: str, data: st.DataObject) -> None:
    payload = data.draw(samples(PAYLOADS[kind]))
    table = json.loads(json.dumps(payload.to_json()))
    again = read_payload(kind, table)
    assert type(again) is type(payload)
    assert again == payload
    assert again.to_json() == payload.to_json()


GRANT = {
    "coordinates": {"replicate": 0, "dataset": "signs", "stage": "grant", "component": ""},
    "split": "pool",
    "count": 5,
    "labelled": True,
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", "five"),
        ("count", None),
        ("count", 5.5),
        ("labelled", "perhaps"),
        ("coordinates", "signs"),
        ("coordinates.dataset", 3),
        ("coordinates.replicate", "first"),
    ],
)
def test_a_field_of_another_type_is_refused_by_name(field: str, value: object) -> None:
    table: dict[str, Any] = json.loads(json.dumps(GRANT))
    place = table
    *outer, last = field.split(".")
    for name in outer:
        place = place[name]
    place[last] = value
    with pytest.raises(ValidationError) as refused:
        read_payload("grant", table)
    assert {".".join(map(str, error["loc"])) for error in refused.value.errors()} == {field}


@pytest.mark.parametrize("field", GRANT)
def test_a_field_that_is_missing_is_refused_by_name(field: str) -> None:
    table = {name: value for name, value in GRANT.items() if name != field}
    with pytest.raises(ValidationError, match=rf"^1 validation error .*\n{field}\n"):
        read_payload("grant", table)


@pytest.mark.parametrize("change", [{"more": 1}, {"count": "5"}, {"labelled": "yes"}])
def test_what_no_plan_writes_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'grant'"):
        read_payload("grant", {**GRANT, **change})


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(KeyError, match="unheard-of"):
        read_payload("unheard-of", GRANT)
