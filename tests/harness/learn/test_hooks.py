from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import fields

from harness.learn.hooks import FitSettings, Hooks, HookSettings
from harness.learn.recipes import RecipeFields


def test_settings_of_hooks_are_the_hooks() -> None:
    hints = typing.get_type_hints(Hooks)
    assert typing.get_type_hints(HookSettings) == hints
    assert list(HookSettings.__annotations__) == [field.name for field in fields(Hooks)]
    assert HookSettings.__required_keys__ == frozenset()


def test_settings_of_fit_are_hooks_and_fields_of_the_recipe() -> None:
    hints = {**typing.get_type_hints(RecipeFields), **typing.get_type_hints(HookSettings)}
    hints["keep"] = Mapping[str, object]
    assert typing.get_type_hints(FitSettings) == hints
    of_others = len(RecipeFields.__annotations__) + len(HookSettings.__annotations__)
    assert len(hints) == of_others + 1, "a hook is named like a field of the recipe"
