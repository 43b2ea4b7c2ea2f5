from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

import harness
from harness import components
from harness.components import (
    Attack,
    Component,
    Context,
    Dataset,
    Defense,
    File,
    Metric,
    Model,
    NotInKey,
    Part,
    PoisoningAttack,
    Predictions,
    Reference,
    TargetedAttack,
    Task,
    Use,
    kind_of,
    summary,
    use,
)
from harness.doors import DOORS
from tests.kit.places import ROOT


class Distil(Defense):
    """Distil it.

    More of it.
    """

    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """of the images"""
    rounds: int = 3
    sizes: tuple[int, ...] = (1, 2)
    picture: File | None = None
    root: Annotated[Path | None, Field(strict=False), NotInKey] = None
    teacher: Use[Defense] = use("ft", preset="nad", epochs=10)
    helper: Use[Part] | None = None


def read(**params: Any) -> Any:
    """As a grid's parameters arrive: JSON."""
    return Distil.model_validate_json(json.dumps(params))


def context(classes: int = 10) -> Context:
    return Context(Task("pictures", classes, 16, 12, 3, 100))


# --- the package ----------------------------------------------------------------------------------


def test_importing_costs_no_torch() -> None:
    code = "import sys, harness.components as c; assert not {'torch', 'numpy'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_export_is_there_under_its_name() -> None:
    assert sorted(components.__all__) == sorted(set(components.__all__))
    assert all(hasattr(components, name) for name in components.__all__)
    ours = [name for name, home in DOORS["harness"].items() if home == "harness.components"]
    assert set(ours) <= set(components.__all__)
    assert all(getattr(harness, name) is getattr(components, name) for name in ours)


# --- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {"rounds": "3"},
        {"rounds": 3.0},
        {"rounds": True},
        {"share": "0.5"},
        {"share": True},
        {"share": 1.01},
        {"sizes": [1, 2.5]},
        {"sizes": 1},
    ],
)
def test_values_of_another_type_or_range_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(params))):
        read(**params)


def test_json_s_lists_and_whole_numbers_are_what_a_grid_means() -> None:
    found = read(share=1, sizes=[4, 5], picture="a.png", root="/somewhere")
    assert (found.share, found.sizes) == (1.0, (4, 5))
    assert isinstance(found.share, float)
    assert (found.picture, found.root) == (Path("a.png"), Path("/somewhere"))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_finite_number_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="share"):
        Distil.model_validate_json(f'{{"share": {value}}}')
    with pytest.raises(ValidationError, match="share"):
        Distil(share=float(value))


def test_an_unknown_key_is_refused_and_a_value_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match=r"rate\n.*[Ee]xtra"):
        read(rate=1)
    found = read()
    with pytest.raises(ValidationError, match="frozen"):
        found.share = 0.1


def test_a_default_that_does_not_fit_its_own_type_is_refused() -> None:
    class Odd(Defense):
        share: Annotated[float, Field(le=1)] = 2.0

    with pytest.raises(ValidationError, match="share"):
        Odd()


def test_strings_under_fields_are_their_meanings() -> None:
    assert Distil.model_fields["share"].description == "of the images"
    assert summary(Distil) == "Distil it."


# --- components as parameters ---------------------------------------------------------------------


def test_a_default_takes_its_kind_from_its_field() -> None:
    found = read()
    assert found.teacher == Reference("defense", "ft", "nad", {"epochs": 10})
    assert found.helper is None


def test_a_name_or_a_table_names_a_component() -> None:
    named = read(teacher="anp", helper={"name": "decoder", "width": 3})
    assert named.teacher == Reference("defense", "anp")
    assert named.helper == Reference("part", "decoder", None, {"width": 3})
    preset = read(teacher={"name": "ft", "preset": "bcu", "lr": 0.1})
    assert preset.teacher == Reference("defense", "ft", "bcu", {"lr": 0.1})


@pytest.mark.parametrize("value", [3, None, {}, {"epochs": 3}, {"name": 3}, ["ft"]])
def test_anything_else_is_refused_with_what_would_be_right(value: Any) -> None:
    with pytest.raises(ValidationError, match=r'a defense is wanted here: "name" or \{name = '):
        read(teacher=value)


def test_a_component_of_another_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="a defense is wanted here, not a part"):
        Distil.model_validate({"teacher": Reference("part", "decoder")})


@given(
    st.text(min_size=1),
    st.none() | st.text(min_size=1),
    st.dictionaries(
        st.text().filter(lambda name: name not in ("name", "preset")), st.integers() | st.text()
    ),
)
@settings(deadline=None)
def test_a_reference_survives_its_table(
    name: str, preset: str | None, params: dict[str, Any]
) -> None:
    reference = Reference("defense", name, preset, params)
    assert Reference.read("defense", reference.table()) == reference
    assert Reference.read("defense", reference) == reference
    again = read(teacher=reference.table())
    assert again.teacher == reference
    assert Distil.model_validate_json(again.model_dump_json()) == again


def test_a_subclass_counts_as_its_kind() -> None:
    class Robust(Part):
        pass

    class Owner(Attack):
        surrogate: Use[Robust] = use("robust")

    owner: Any = Owner()
    assert owner.surrogate == Reference("part", "robust")
    kinds: list[type[Component]] = [Distil, PoisoningAttack, Model, Dataset, Metric, Robust]
    assert [kind_of(kind) for kind in kinds] == [
        "defense",
        "attack",
        "model",
        "dataset",
        "metric",
        "part",
    ]
    with pytest.raises(
        TypeError, match="Component is none of Attack, Defense, Model, Dataset, Metric, Part"
    ):
        kind_of(Component)
    with pytest.raises(TypeError, match="int is none of"):
        Use[int]  # type: ignore[type-var]


# --- attacks --------------------------------------------------------------------------------------


@given(st.data(), st.integers(2, 50))
@settings(deadline=None)
def test_every_label_map_stays_within_the_task(data: st.DataObject, classes: int) -> None:
    label = st.integers(0, classes - 1)
    target, sources = data.draw(label), tuple(data.draw(st.sets(label, min_size=1)))
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
        (Model(mean=(0.5,) * 3), "mean and std go together"),
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
    [PoisoningAttack(), PoisoningAttack(quantise="none", when="before-augment"), Model(), Distil()],
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


# --- the rest -------------------------------------------------------------------------------------


def test_a_task_s_images_are_channels_first() -> None:
    assert context().task.image_shape == (3, 16, 12)


def test_images_count_as_attacked_unless_left_alone_or_of_that_label_already() -> None:
    import numpy as np

    labels, mapped = np.array([0, 1, 2, 3]), np.array([0, 0, -1, 0])
    found = Predictions(labels, labels, mapped, None, {}, np.zeros((4, 4), np.float16), {})
    assert found.attacked.tolist() == [False, True, False, True]


def test_a_model_without_anatomy_says_so() -> None:
    with pytest.raises(harness.Incompatible, match="model Model names no anatomy"):
        Model().anatomy(Any)  # type: ignore[arg-type]


def test_a_defense_is_granted_what_it_needs() -> None:
    class Blind(Defense):
        needs = frozenset({"victim"})

    assert Blind().grants() == {"victim"}
    assert Distil().grants() == {"victim", "clean-labelled"}
