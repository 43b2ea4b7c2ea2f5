"""A component as it stands in keys, in rows, and in what a child is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.components.spec import ComponentSpec
from tests.kit.reports import resolved

FT = replace(
    resolved("defense", "ft"),
    params={"epochs": 2, "root": "/data", "weights": "/data/w.bin"},
    identity={"epochs": 2, "weights": {"sha256": "ab"}},
)


def test_a_component_stands_in_keys_by_what_moves_numbers() -> None:
    assert FT.key_entry == {
        "kind": "defense",
        "name": "ft",
        "version": 1,
        "params": {"epochs": 2, "weights": {"sha256": "ab"}},
    }


def test_a_child_is_told_what_it_needs_to_build_it() -> None:
    assert FT.body == ComponentSpec(
        kind="defense",
        name="ft",
        target="nowhere:ft",
        params={"epochs": 2, "root": "/data", "weights": "/data/w.bin"},
        files={"/data/w.bin": "ab"},
    )


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "asr"),
        ({"include_target": True}, "asr[include_target=true]"),
        ({"of": "all", "k": 5}, 'asr[k=5,of="all"]'),  # sorted, whatever the order in the grid
        (
            {"k": [1, 2], "weights": {"sha256": "0123456789abcdef"}},
            "asr[k=[1, 2],weights=01234567]",
        ),
    ],
)
def test_numbers_are_stored_under_name_and_settings(changed: dict[str, Any], name: str) -> None:
    assert replace(resolved("metric", "asr"), changed=changed).called == name


def test_what_a_grid_calls_a_metric_is_in_no_row() -> None:
    one = replace(resolved("metric", "asr"), changed={"k": 1})
    assert one.called == replace(one, summary="of another label", distribution="elsewhere").called
