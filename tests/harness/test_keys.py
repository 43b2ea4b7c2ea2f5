from __future__ import annotations

import enum
import hashlib
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.keys import Shared, canonical, digest

RELAXED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


@RELAXED
@given(VALUES)
def test_canonical_text_is_json_of_the_same_value(value: Any) -> None:
    assert json.loads(canonical(value)) == value


@RELAXED
@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_the_order_of_a_table_does_not_matter(table: dict[str, Any]) -> None:
    assert canonical(dict(reversed(table.items()))) == canonical(table)


@RELAXED
@given(VALUES, VALUES)
def test_different_values_have_different_digests(one: Any, other: Any) -> None:
    def typed(value: Any) -> Any:
        if isinstance(value, list):
            return [typed(item) for item in value]
        if isinstance(value, dict):
            return {name: typed(item) for name, item in value.items()}
        return type(value).__name__, value

    assert (digest(one) == digest(other)) == (typed(one) == typed(other))


def test_the_text_is_fixed_for_ever() -> None:
    value = {
        "b": [1, 1.0, True, None],
        "a": {"é": '\u2028 "quoted"', "tiny": 1e-05, "large": 1e16},
        "": (),
    }
    text = (
        '{"":[],"a":{"large":1e+16,"tiny":1e-05,"é":"\u2028 \\"quoted\\""},"b":[1,1.0,true,null]}'
    )
    assert canonical(value) == text.encode()
    assert digest(value) == hashlib.sha256(text.encode()).hexdigest()
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_one_and_one_point_zero_and_true_differ() -> None:
    assert len({digest(1), digest(1.0), digest(True), digest("1")}) == 4


def test_minus_zero_is_zero_and_a_tuple_is_a_list() -> None:
    assert canonical({"x": (-0.0, 2)}) == canonical({"x": [0.0, 2]})


class Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"params": {"sizes": [1, 2, {3}]}}, r"params\.sizes\[2\] is a builtins\.set"),
        ({"a": b"bytes"}, "a is a builtins.bytes"),
        (np.float64(1), "value is a numpy.float64"),
        ([Colour.RED], r"\[0\] is a .*Colour"),
        ({"a": {1: 2}}, "a has the key 1 of type int"),
        ({None: 2}, "value has the key None"),
    ],
)
def test_other_types_are_refused_where_they_stand(value: Any, place: str) -> None:
    with pytest.raises(TypeError, match=place):
        canonical(value)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_where_they_stand(number: float) -> None:
    with pytest.raises(ValueError, match=r"training\.rates\[1\] is .*finite"):
        canonical({"training": {"rates": [0.1, number]}})


def test_text_that_is_no_unicode_is_refused_where_it_stands() -> None:
    with pytest.raises(ValueError, match=r"a\[0\] is no text"):
        canonical({"a": ["\ud800"]})
    with pytest.raises(ValueError, match="a name in a is no text"):
        canonical({"a": {"\ud800": 1}})


@RELAXED
@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_what_is_shared_stands_in_keys_as_any_table(table: dict[str, Any]) -> None:
    shared = Shared(table)
    assert canonical(shared) == canonical(table)
    assert canonical({"recipe": shared, "other": [shared]}) == canonical(
        {"recipe": table, "other": [table]}
    )
