"""The base of all six kinds of component, and the context in which a component is asked to work.

A component is a frozen pydantic model: its fields are its parameters (typed, defaulted, validated,
part of the key), its docstring's first line is what `bench list` shows, a string under a field is
that field's meaning in `bench show`.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from harness.components.facts import AnyFacts, AttackFacts, DefenseFacts, ModelFacts
from harness.components.spec import ComponentSpec
from harness.learn.recipes import Recipe
from harness.learn.task import Task

DEFENSE_NEEDS = frozenset(
    {"victim", "clean-labelled", "clean-unlabelled", "training-set", "oracle"}
)
PART_NEEDS = (DEFENSE_NEEDS - {"oracle"}) | {"train", "model"}
ATTACK_NEEDS = frozenset({"model"})
METRIC_NEEDS = frozenset(
    {
        "predictions",
        "model",
        "validation",
        "validation-unlabelled",
        "test",
        "test-unlabelled",
        "training-set",
        "poisoned",
        "trigger",
        "result",
        "reference",
    }
)


class Component(BaseModel):
    """Base of all six kinds."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    version: ClassVar[int] = 1
    """Raise it when results change for a reason that the sources do not show."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named parameter sets; `"bcu/gtsrb"` wins over `"bcu"` on that dataset. Expanded before
    hashing.
    """
    seeded: ClassVar[bool] = True
    """False drops the replicate from key and seeds: one artefact serves all replicates."""
    citation: ClassVar[str] = ""
    """The paper, in one line."""

    def compatible(self, context: Context) -> str | None:
        """Return the reason why this component cannot work in `context`, or None."""
        return None

    def unused(self) -> Mapping[str, str]:
        """Return the parameters that do nothing beside the others as these are, each with the
        reason. A grid that sets one of them is refused. Default: none.
        """
        return {}


F = TypeVar("F", bound=AnyFacts)


@dataclass(frozen=True)
class Traits(Generic[F]):
    """A plan's knowledge of another component of the cell: its name, parameters and the facts its
    class declares.

    `facts` are `AttackFacts`, `ModelFacts` or `DefenseFacts`; see `harness.components.facts`.
    """

    kind: str
    name: str
    params: Mapping[str, Any]
    facts: F


@dataclass(frozen=True)
class Context:
    """The cell in which a component is asked to work. Members that do not apply are None.

    `recipe` is that of the victim.
    """

    task: Task
    model: Traits[ModelFacts] | None = None
    attack: Traits[AttackFacts] | None = None
    defense: Traits[DefenseFacts] | None = None
    recipe: Recipe | None = None


def load_component(spec: ComponentSpec) -> Component:
    """Build the component that `spec` describes. Imports its module: for children, and for who asks
    for a model.

    Raises ValueError where a file does not hold what the plan saw in it.
    """
    for path, expected in spec.files.items():
        with Path(path).open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != expected:
            raise ValueError(f"{path} changed after it was planned with; run it again")
    module, _, name = spec.target.partition(":")
    component: type[Component] = getattr(importlib.import_module(module), name)
    return component.model_validate_json(json.dumps(spec.params))


def summary(component: type[Component]) -> str:
    """Return the first line of the class's own docstring."""
    return (inspect.getdoc(component) or "").partition("\n")[0]
