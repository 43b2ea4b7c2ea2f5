"""What all six kinds of component share, and where a component is asked to work.

A component is a frozen pydantic model: its fields are its parameters (typed, defaulted, validated,
part of the key), its docstring's first line is what `bench list` shows, a string under a field is
that field's meaning in `bench show`.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

KINDS = ("attack", "defense", "model", "dataset", "metric", "part")

DEFENSE_NEEDS = frozenset(
    {"victim", "clean-labelled", "clean-unlabelled", "training-set", "oracle"}
)
PART_NEEDS = (DEFENSE_NEEDS - {"oracle"}) | {"train", "model"}
ATTACK_NEEDS = frozenset({"model"})
METRIC_NEEDS = frozenset(
    {"predictions", "model", "validation", "test", "training-set", "trigger", "result", "reference"}
)

RESERVED = frozenset(
    {"name", "as", "preset", "sweep", "seeds", "training", "grant", "on", "established"}
)
"""Keys of a grid entry that are not parameters."""


class Component(BaseModel):
    """What all six kinds share."""

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
        """The reason why this component cannot work in `context`, or None."""
        return None


@dataclass(frozen=True)
class Task:
    """The classification problem, as far as everybody may know it.

    `height`, `width` in pixels, `channels` 1 or 3; images outside models are [0,1] floats (NCHW) or
    uint8 (NHWC). `train_count` is the number of training images a victim sees.
    """

    dataset: str
    classes: int
    height: int
    width: int
    channels: int
    train_count: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width


@dataclass(frozen=True)
class Traits:
    """What a plan knows of another component of the cell: its name, parameters and the facts its
    class declares.

    `facts` holds `has_trigger`, `label_map`, `trains`, `training_controlled` for attacks and
    `anatomy`, `units` (bool: does the class override the method) for models.
    """

    kind: str
    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """Where a component is asked to work. Members that do not apply are None."""

    task: Task
    model: Traits | None = None
    attack: Traits | None = None
    defense: Traits | None = None


def load_component(spec: Mapping[str, Any]) -> Component:
    """The component whose `target` and complete `params` are known. Imports its module: children
    only.
    """
    module, _, name = spec["target"].partition(":")
    cls: type[Component] = getattr(importlib.import_module(module), name)
    return cls.model_validate_json(json.dumps(spec["params"]))


def summary(component: type[Component]) -> str:
    """The first line of the class's own docstring."""
    return (inspect.getdoc(component) or "").partition("\n")[0]
