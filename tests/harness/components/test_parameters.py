from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError

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
    Reference,
    Task,
    Use,
    kind_of,
    summary,
    use,
)


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
    with pytest.raises(ValidationError, match=r'a defense is expected here: "name" or \{name = '):
        read(teacher=value)


def test_a_component_of_another_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="a defense is expected here, not a part"):
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
