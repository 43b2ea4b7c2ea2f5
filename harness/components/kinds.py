"""The six kinds by name."""

from __future__ import annotations

from collections.abc import Mapping

from harness.components.attack import Attack
from harness.components.base import Component
from harness.components.dataset import Dataset
from harness.components.defense import Defense
from harness.components.metric import Metric
from harness.components.model import Model
from harness.components.part import Part

BY_KIND: Mapping[str, type[Component]] = {
    "attack": Attack,
    "defense": Defense,
    "model": Model,
    "dataset": Dataset,
    "metric": Metric,
    "part": Part,
}


def kind_of(component: type[Component]) -> str:
    """Return the kind of a class, one of the six. Raises TypeError for another class."""
    for kind, base in BY_KIND.items():
        if issubclass(component, base):
            return kind
    raise TypeError(
        f"{component.__name__} is none of {', '.join(base.__name__ for base in BY_KIND.values())}"
    )
