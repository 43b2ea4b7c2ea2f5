"""Stages: what enters a key, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import keys
from harness.registry.resolved import Resolved
from harness.stages.stage import SCHEMA, Input, Stage, StageComponents, make
from tests.kit.payloads import AnyPayload
from tests.kit.reports import resolved

FT = replace(
    resolved("defense", "ft"),
    params={"epochs": 2, "root": "/data", "weights": "/data/w.bin"},
    identity={"epochs": 2, "weights": {"sha256": "ab"}},
    changed={"epochs": 2},
    code={"plugins.defenses.ft": "r1", "plugins.parts.fine_tuning": "r4"},
)
NET = replace(resolved("model", "net", {"width": 8}), code={"plugins.models.net": "r2"})

CALL: dict[str, Any] = {
    "components": {"component": FT, "model": NET},
    "inputs": (
        Input("victim", "a" * 64, ("model.safetensors",)),
        Input("clean", "b" * 64, ("images.safetensors",)),
    ),
    "code": {"harness.stages.defend": "r1", "harness.learn.training": "r3"},
    "seed": {"replicate": 0, "dataset": "signs"},
    "choices": {"recipe": {"epochs": 8, "precision": "auto"}},
    "payload": {"granted": ["victim"]},
}


def stage(kind: str = "defend", title: str = "defend ft", **changes: Any) -> Stage:
    told = {**CALL, **changes}
    payload = AnyPayload(kind, told.pop("payload"))
    components = StageComponents.of(told.pop("components"), told.pop("code"))
    return make(title, payload, components, **told)


def test_a_key_is_the_digest_of_the_spec() -> None:
    made = stage()
    assert made.key == keys.digest(made.spec)
    assert made.spec["schema"] == SCHEMA
    assert made.spec["inputs"] == {"victim": "a" * 64, "clean": "b" * 64}
    assert made.code == {**CALL["code"], **FT.code, **NET.code}
    assert made.payload.to_json() == {"granted": ["victim"]}
    assert CALL["code"].keys().isdisjoint(FT.code)  # what theirs were added to is left as it was


def backwards(table: Any) -> Any:
    return {key: table[key] for key in reversed(table)}


@pytest.mark.parametrize(
    "change",
    [
        {"title": "something else"},
        {"guarded": False},
        {"payload": {"device": "cuda:0", "task": {}}},
        {"inputs": tuple(reversed(CALL["inputs"]))},
        {"inputs": tuple(replace(item, files=("*",)) for item in CALL["inputs"])},
        {"components": backwards(CALL["components"])},
        {"code": backwards(CALL["code"])},
        {"seed": backwards(CALL["seed"])},
        {"choices": {"recipe": backwards(CALL["choices"]["recipe"])}},
        {
            "components": {
                "component": replace(FT, params={"epochs": 2, "root": "/else"}),
                "model": NET,
            }
        },
        {
            "components": {
                "component": replace(FT, dist_version="2.0", summary="?", target="x:y"),
                "model": NET,
            }
        },
    ],
    ids=str,
)
def test_order_titles_and_paths_are_in_no_key(change: dict[str, Any]) -> None:
    assert stage(**change).key == stage().key


def other(component: Resolved, **changes: Any) -> dict[str, Any]:
    roles = {"component": FT, "model": NET}
    role = "component" if component is FT else "model"
    return {"components": {**roles, role: replace(component, **changes)}}


MOVES = [
    {"kind": "part"},
    {"seed": {"replicate": 1, "dataset": "signs"}},
    {"seed": {"replicate": None, "dataset": "signs"}},
    {"seed": None},
    {"choices": {"recipe": {"epochs": 8, "precision": "fp32"}}},
    {"choices": {"recipe": {"epochs": 8.0, "precision": "auto"}}},
    {"choices": None},
    {"inputs": CALL["inputs"][:1]},
    {"inputs": (replace(CALL["inputs"][0], key="c" * 64), CALL["inputs"][1])},
    {"inputs": (replace(CALL["inputs"][0], role="suspect"), CALL["inputs"][1])},
    {"code": {**CALL["code"], "harness.stages.defend": "r2"}},
    {"code": {**CALL["code"], "harness.learn.augmentation": "r1"}},
    other(FT, version=2),
    other(FT, name="nad"),
    other(FT, identity={"epochs": 3, "weights": {"sha256": "ab"}}),
    other(FT, identity={"epochs": 2, "weights": {"sha256": "cd"}}),
    other(FT, code={**FT.code, "plugins.parts.fine_tuning": "r5"}),
    other(NET, code={"plugins.models.net": "sha256:0123456789abcdef"}),
    {"components": {"component": FT}},
    {"components": {"component": FT, "other": NET}},
]


@pytest.mark.parametrize("change", MOVES, ids=[str(number) for number in range(len(MOVES))])
def test_what_moves_numbers_moves_the_key(change: dict[str, Any]) -> None:
    assert stage(**change).key != stage().key


def test_all_those_keys_differ() -> None:
    made = [stage(**change).key for change in MOVES]
    assert len(set(made)) == len(made)


SETTINGS = st.dictionaries(
    st.sampled_from("abcd"),
    st.integers(0, 3) | st.booleans() | st.floats(0, 3) | st.text(max_size=2),
)


@settings(deadline=None, max_examples=150)
@given(SETTINGS, SETTINGS)
def test_keys_are_equal_exactly_where_settings_are(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    def key(table: dict[str, Any]) -> str:
        return stage(**other(FT, identity=table)).key

    typed = [
        sorted((name, type(value).__name__, value) for name, value in table.items())
        for table in (one, two)
    ]
    assert (key(one) == key(two)) == (typed[0] == typed[1])
