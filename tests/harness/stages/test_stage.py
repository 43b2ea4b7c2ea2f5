"""Stages: what enters a key, and what does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import keys
from harness.access.context import Coordinates
from harness.components import Task
from harness.registry.resolved import Resolved
from harness.stages.payloads import ContextSpec, DefendPayload, Filling, Structure
from harness.stages.stage import SCHEMA, Input, Stage, StageSources, make
from tests.kit.reports import resolved

FT = replace(
    resolved("defense", "ft"),
    params={"epochs": 2, "root": "/data", "weights": "/data/w.bin"},
    identity={"epochs": 2, "weights": {"sha256": "ab"}},
    changed={"epochs": 2},
    code={"plugins.defenses.ft": "r1", "plugins.parts.fine_tuning": "r4"},
)
NET = replace(resolved("model", "net", {"width": 8}), code={"plugins.models.net": "r2"})
TASK = Task("signs", 10, 16, 16, 3, 1000)
RECIPE = {"epochs": 8, "precision": "auto"}
CODE = {"harness.stages.defend": "r1", "harness.learn.training": "r3"}
INPUTS = (
    Input("victim", "a" * 64, ("model.safetensors",)),
    Input("clean", "b" * 64, ("images.safetensors",)),
)


def payload(defense: Resolved = FT, model: Resolved = NET, **changes: Any) -> DefendPayload:
    context = {
        "task": TASK,
        "coordinates": Coordinates(0, "signs", "defend", "ft"),
        "model": model.body,
        "recipe": RECIPE,
        "parts": {},
    }
    for name in context.keys() & changes.keys():
        context[name] = changes.pop(name)
    told = {
        "component": defense.body,
        "context": ContextSpec(**context),  # type: ignore[arg-type]
        "granted": ("clean-labelled", "victim"),
        "structure": Structure(model.body),
        "defended_structure": Structure(model.body),
        "attack": None,
        **changes,
    }
    return DefendPayload(**told)


def stage(
    told: DefendPayload | None = None,
    title: str = "badnets · ft",
    inputs: tuple[Input, ...] = INPUTS,
    code: dict[str, str] = CODE,
    components: tuple[Resolved, ...] = (FT, NET),
    guarded: bool = True,
) -> Stage:
    sources = StageSources.of(code, components)
    return make(title, told or payload(), sources, inputs=inputs, guarded=guarded)


def test_a_key_is_the_digest_of_the_spec() -> None:
    made = stage()
    assert made.key == keys.digest(made.spec)
    assert made.spec["schema"] == SCHEMA
    assert made.spec["inputs"] == {"victim": "a" * 64, "clean": "b" * 64}
    assert made.code == {**CODE, **FT.code, **NET.code}
    assert CODE.keys().isdisjoint(FT.code)  # what theirs were added to is left as it was


def test_the_key_is_made_of_the_payload() -> None:
    """All of it, a component by what moves numbers."""
    spec = stage().spec
    assert spec["component"] == {
        "kind": "defense",
        "name": "ft",
        "version": 1,
        "params": {"epochs": 2, "weights": {"sha256": "ab"}},
    }
    assert spec["context"] == {
        "task": {
            "dataset": "signs",
            "classes": 10,
            "height": 16,
            "width": 16,
            "channels": 3,
            "train_count": 1000,
            "mirrors": True,
        },
        "coordinates": {
            "replicate": 0,
            "dataset": "signs",
            "stage": "defend",
            "component": "ft",
        },
        "model": NET.key_entry,
        "recipe": RECIPE,
        "parts": {},
        "numerics": {},
    }
    assert spec["granted"] == ["clean-labelled", "victim"]
    assert spec["structure"] == {"model": NET.key_entry, "rebuilds": []}
    assert spec["attack"] is None


def backwards(table: Any) -> Any:
    return {key: table[key] for key in reversed(table)}


@pytest.mark.parametrize(
    "same",
    [
        stage(title="something else"),
        stage(guarded=False),
        stage(inputs=tuple(reversed(INPUTS))),
        stage(inputs=tuple(replace(item, files=("*",)) for item in INPUTS)),
        stage(components=(NET, FT)),
        stage(code=backwards(CODE)),
        stage(payload(recipe=backwards(RECIPE))),
        stage(payload(replace(FT, params={"epochs": 2, "root": "/else"}))),
        stage(payload(replace(FT, dist_version="2.0", summary="?", target="x:y"))),
    ],
    ids=[
        *("title", "guarded", "order of inputs", "files", "order of components"),
        *("order of code", "order of fields", "paths", "where the class lies"),
    ],
)
def test_order_titles_and_paths_are_in_no_key(same: Stage) -> None:
    assert same.key == stage().key


def at(replicate: int | None, dataset: str = "signs") -> Coordinates:
    return Coordinates(replicate, dataset, "defend", "ft")


MOVES = [
    stage(payload(coordinates=at(1))),
    stage(payload(coordinates=at(None))),
    stage(payload(coordinates=at(0, "digits"))),
    stage(payload(recipe={"epochs": 8, "precision": "fp32"})),
    stage(payload(recipe={"epochs": 8.0, "precision": "auto"})),
    stage(payload(recipe=None)),
    stage(payload(task=replace(TASK, height=24))),
    stage(payload(parts={"teacher": Filling(FT.body)})),
    stage(payload(granted=("victim",))),
    stage(payload(structure=Structure(NET.body, (FT.body,)))),
    stage(payload(defended_structure=Structure(NET.body, (FT.body,)))),
    stage(payload(attack=FT.body)),
    stage(inputs=INPUTS[:1]),
    stage(inputs=(replace(INPUTS[0], key="c" * 64), INPUTS[1])),
    stage(inputs=(replace(INPUTS[0], role="suspect"), INPUTS[1])),
    stage(code={**CODE, "harness.stages.defend": "r2"}),
    stage(code={**CODE, "harness.learn.augmentation": "r1"}),
    stage(payload(replace(FT, version=2))),
    stage(payload(replace(FT, name="nad"))),
    stage(payload(replace(FT, identity={"epochs": 3, "weights": {"sha256": "ab"}}))),
    stage(payload(replace(FT, identity={"epochs": 2, "weights": {"sha256": "cd"}}))),
    stage(components=(replace(FT, code={**FT.code, "plugins.parts.fine_tuning": "r5"}), NET)),
    stage(components=(FT, replace(NET, code={"plugins.models.net": "sha256:0123456789abcdef"}))),
    stage(components=(FT,)),
]


@pytest.mark.parametrize("moved", MOVES, ids=[str(number) for number in range(len(MOVES))])
def test_what_moves_numbers_moves_the_key(moved: Stage) -> None:
    assert moved.key != stage().key
    assert [other.key for other in MOVES].count(moved.key) == 1


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
        return stage(payload(replace(FT, identity=table))).key

    typed = [
        sorted((name, type(value).__name__, value) for name, value in table.items())
        for table in (one, two)
    ]
    assert (key(one) == key(two)) == (typed[0] == typed[1])
