from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.components import (
    Attack,
    Component,
    Context,
    LabelMap,
    PoisoningAttack,
    TargetedAttack,
    Task,
)


class CleanLabel(PoisoningAttack):
    clean_label = True


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


def tables(classes: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw lists of labels that attack some class of so many."""
    drawn = st.lists(st.integers(-1, classes - 1), min_size=classes, max_size=classes)
    attacking = drawn.filter(
        lambda table: any(new not in (-1, old) for old, new in enumerate(table))
    )
    return attacking.map(tuple)


@given(st.data(), st.integers(2, 50))
@settings(deadline=None)
def test_a_list_is_the_table_itself(data: st.DataObject, classes: int) -> None:
    table = data.draw(tables(classes))
    target = data.draw(st.integers(0, classes - 1))
    written = json.dumps({"label_map": table, "target": target})
    attack = TargetedAttack.model_validate_json(written)
    assert attack.label_table(classes) == list(table)
    assert attack.compatible(context(classes)) is None
    assert json.loads(attack.model_dump_json())["label_map"] == list(table)
    assert set(attack.unused()) == {"target"}
    labelling = attack.labelling
    assert labelling is not None
    spared = {label for label in range(classes) if table[label] == -1}
    attacked = set(range(classes)) - spared
    assert (labelling.kind, labelling.target, labelling.table) == ("table", None, table)
    assert set(labelling.sources) == (attacked if spared else set())


@given(st.data(), st.integers(2, 20), st.integers(2, 20))
@settings(deadline=None)
def test_a_list_fits_its_number_of_classes_alone(
    data: st.DataObject, classes: int, other: int
) -> None:
    assume(classes != other)
    attack = TargetedAttack(label_map=data.draw(tables(classes)))
    reason = str(attack.compatible(context(other)))
    assert reason.startswith(f"label_map lists {classes} labels for a task with {other} classes")
    with pytest.raises(ValueError, match="one for each is expected"):
        attack.label_table(other)


@pytest.mark.parametrize(
    ("kind", "target"),
    [("all-to-one", 2), ("source-specific", 2), ("all-to-all", None)],
)
def test_a_map_without_one_target_names_none(kind: Any, target: int | None) -> None:
    sources = (1,) if kind == "source-specific" else ()
    attack = TargetedAttack(label_map=kind, target=2, sources=sources)
    assert attack.labelling == LabelMap(kind, target, sources)
    assert attack.has_one_target == (target is not None)
    assert not TargetedAttack(label_map=(1, 0)).has_one_target


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
        (TargetedAttack(label_map=(1, 0) * 4 + (3, 10)), "label 10 is no class of a task"),
        (TargetedAttack(label_map=(1, 0) * 5, target=10), "label 10 is no class of a task"),
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
        (TargetedAttack, {"label_map": (1, 0), "sources": (1,)}, "a list has -1 for each class"),
        (TargetedAttack, {"label_map": ()}, "nothing is attacked"),
        (TargetedAttack, {"label_map": (-1, -1)}, "nothing is attacked"),
        (TargetedAttack, {"label_map": (0, -1, 2)}, "nothing is attacked"),
        (TargetedAttack, {"label_map": (1, -2)}, "label_map"),
        (TargetedAttack, {"label_map": "permuted"}, "label_map"),
        (TargetedAttack, {"target": (0, 1)}, "several targets are a label_map"),
        (PoisoningAttack, {"label_map": (1, 0), "eligible": "target"}, "has no one target"),
        (CleanLabel, {"label_map": (1, 0)}, "poisons images of one target"),
        (CleanLabel, {"label_map": "all-to-all"}, "poisons images of one target"),
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
