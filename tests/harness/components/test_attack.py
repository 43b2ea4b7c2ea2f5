from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.components import Attack, Component, Context, PoisoningAttack, TargetedAttack, Task


def context(classes: int = 10) -> Context:
    return Context(Task("pictures", classes, 16, 12, 3, 100))


def test_a_rate_that_poisons_nothing_is_told_by_the_plan() -> None:
    attack = PoisoningAttack(poison_rate=0.001)
    few = Context(Task("pictures", 10, 16, 12, 3, 400))
    assert attack.compatible(few) == "poison_rate 0.001 of 400 images poisons none of them"
    assert attack.compatible(Context(Task("pictures", 10, 16, 12, 3, 500))) is None
    assert PoisoningAttack(poison_rate=0.0).compatible(few) is None


@given(st.data(), st.integers(2, 50))
@settings(deadline=None)
def test_every_label_map_stays_within_the_task(data: st.DataObject, classes: int) -> None:
    label = st.integers(0, classes - 1)
    target = data.draw(label)
    some = st.sets(label, min_size=1).filter(lambda drawn: drawn != {target})
    sources = tuple(data.draw(some))
    assert TargetedAttack(target=target).label_table(classes) == [target] * classes
    shifted = TargetedAttack(label_map="all-to-all").label_table(classes)
    assert sorted(shifted) == list(range(classes))
    assert all(found == (true + 1) % classes for true, found in enumerate(shifted))
    specific = TargetedAttack(target=target, label_map="source-specific", sources=sources)
    assert specific.compatible(context(classes)) is None
    for true, found in enumerate(specific.label_table(classes)):
        assert found == (target if true in sources else -1)


@given(st.integers(2, 20), st.integers(0, 40), st.sets(st.integers(0, 40), max_size=3))
@settings(deadline=None)
def test_labels_that_are_no_classes_are_named(classes: int, target: int, sources: set[int]) -> None:
    assume(sources != {target})  # nothing would be attacked, which is refused
    kind: Any = "source-specific" if sources else "all-to-one"
    attack = TargetedAttack(target=target, sources=tuple(sources), label_map=kind)
    if max(target, *sources, 0) < classes:
        assert attack.compatible(context(classes)) is None
        return
    with pytest.raises(
        ValueError, match=rf"is no class of a task with {classes} classes \(0 to {classes - 1}\)"
    ):
        attack.label_table(classes)
    assert f"is no class of a task with {classes} classes" in str(
        attack.compatible(context(classes))
    )


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (TargetedAttack(target=10), "label 10 is no class of a task with 10 classes (0 to 9)"),
        (PoisoningAttack(quantise="none", when="after-augment", target=12), "label 12 is no class"),
    ],
)
def test_what_cannot_work_is_said(attack: Component, reason: str) -> None:
    assert reason in str(attack.compatible(context()))


@pytest.mark.parametrize(
    ("kind", "settings", "reason"),
    [
        (TargetedAttack, {"label_map": "source-specific"}, "sources go together"),
        (TargetedAttack, {"sources": (1,)}, "sources go together"),
        (PoisoningAttack, {"quantise": "none"}, 'use when = "before-augment"'),
    ],
)
def test_what_can_work_nowhere_is_refused(
    kind: type[Component], settings: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        kind(**settings)


@pytest.mark.parametrize(
    "component",
    [PoisoningAttack(), PoisoningAttack(quantise="none", when="before-augment")],
)
def test_what_can_work_has_no_reason(component: Component) -> None:
    assert component.compatible(context()) is None


@pytest.mark.parametrize("field", ["target", "sources"])
def test_a_negative_label_is_refused(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        TargetedAttack.model_validate_json(json.dumps({field: -1 if field == "target" else [-1]}))


def test_who_overrides_implant_controls_training() -> None:
    class Controls(PoisoningAttack):
        def implant(self, access: Any, trigger: Any) -> Any:
            return None

    assert Controls().training_controlled
    assert not PoisoningAttack().training_controlled
    assert (Attack().test_quantise, PoisoningAttack(quantise="round").test_quantise) == (
        "truncate",
        "round",
    )
