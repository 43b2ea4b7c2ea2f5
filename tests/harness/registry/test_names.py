from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import components
from harness.errors import PluginError, UnknownName
from harness.registry.names import Broken, NamedRecipe, Origin, Registered, Registry
from harness.vocabulary import KEBAB, KINDS


def entry(
    kind: str, name: str, distribution: str = "one", argument: str | None = None
) -> Registered:
    return Registered(
        kind, name, f"{distribution}_mod:Thing", distribution, "1.0", "plug", argument
    )


def test_kinds_are_those_of_the_interfaces() -> None:
    assert KINDS == tuple(components.BY_KIND) == tuple(components.FACTS_BY_KIND)


def test_entries_are_sorted_by_kind_and_name() -> None:
    registry = Registry(
        [entry("defense", "b"), entry("metric", "a"), entry("defense", "a"), entry("attack", "z")]
    )
    assert [(one.kind, one.name) for one in registry.entries()] == [
        ("attack", "z"),
        ("defense", "a"),
        ("defense", "b"),
        ("metric", "a"),
    ]
    assert [one.name for one in registry.entries("defense")] == ["a", "b"]


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    registry = Registry(
        [entry("attack", "badnets"), entry("attack", "wanet"), entry("defense", "badnetz")]
    )
    with pytest.raises(
        UnknownName,
        match=r"unknown attack 'badnet'\. Did you mean: badnets.* Known: badnets, wanet\.$",
    ):
        registry.find("attack", "badnet")


def test_an_unknown_name_may_belong_to_a_broken_plugin() -> None:
    broken = Broken(Origin("lab", "2.0", "lab"), "ImportError: no module named foo")
    with pytest.raises(
        UnknownName, match=r"plugin that is broken: lab 2\.0 .*ImportError: no module named foo"
    ):
        Registry(broken=[broken]).find("attack", "x")


def test_a_name_with_an_argument() -> None:
    registry = Registry([entry("model", "timm", argument="arch"), entry("model", "resnet18")])
    found = registry.find("model", "timm:resnet50.a1_in1k")
    assert (found.name, found.argument, found.argument_value) == (
        "timm",
        "arch",
        "resnet50.a1_in1k",
    )
    assert registry.find("model", "timm").argument_value is None
    with pytest.raises(UnknownName, match="takes no argument"):
        registry.find("model", "resnet18:x")
    with pytest.raises(UnknownName, match='Say which: "timm:<arch>"'):
        registry.find("model", "timm:")


def test_a_collision_names_both_distributions_and_leaves_the_rest_usable() -> None:
    registry = Registry(
        [
            entry("defense", "ft", "one"),
            entry("defense", "ft", "two"),
            entry("defense", "nad", "two"),
        ]
    )
    with pytest.raises(
        PluginError,
        match=r"defense 'ft' is registered by one 1\.0 .* and by two 1\.0 .*uninstall one",
    ):
        registry.find("defense", "ft")
    assert [one.name for one in registry.entries()] == ["nad"]
    assert [(kind, name) for kind, name, _ in registry.collisions] == [("defense", "ft")]


def test_recipes_collide_and_are_unknown_as_components_are() -> None:
    one, two = Origin("one", "1.0", "plug"), Origin("two", "1.0", "plug")
    registry = Registry(
        recipes=[
            NamedRecipe("a", {"lr": 0.1}, one),
            NamedRecipe("b", {}, one),
            NamedRecipe("b", {}, two),
        ]
    )
    assert registry.recipes == {"a": {"lr": 0.1}}
    assert registry.recipe("a").origin == one
    with pytest.raises(PluginError, match="recipe 'b' is registered by one"):
        registry.recipe("b")
    with pytest.raises(UnknownName, match="unknown recipe 'c'"):
        registry.recipe("c")


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.from_regex(KEBAB, fullmatch=True), unique=True, max_size=6),
    st.from_regex(KEBAB, fullmatch=True),
)
def test_every_registered_name_is_found_and_no_other(names: list[str], other: str) -> None:
    registry = Registry([entry("attack", name) for name in names])
    assert all(registry.find("attack", name).name == name for name in names)
    assert registry.kinds_of(other) == (["attack"] if other in names else [])
