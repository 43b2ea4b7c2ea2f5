"""Kinds of objects that a loop can keep, and what they hold."""

from __future__ import annotations

import dataclasses
import random
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.keeping.packing import KEEPABLE, PLAIN

MADE: Mapping[type, str] = {
    Tensor: "tensor",
    nn.Parameter: "tensor",
    np.ndarray: "array",
    list: "list",
    dict: "dict",
    OrderedDict: "ordered",
}
"""Types of objects that can be made anew, and what they are called in states."""


def is_value(value: object) -> bool:
    """Tell whether something has no identity of its own."""
    return value is None or type(value) in PLAIN or isinstance(value, np.generic)


def kind_of(thing: object) -> str:
    """Return what an object is called in states. Raises TypeError for what cannot be kept."""
    if isinstance(thing, nn.Module):
        return "module"
    if isinstance(thing, torch.optim.Optimizer):
        return "optimiser"
    for made, kind in MADE.items():
        if isinstance(thing, made):
            return "ordered" if isinstance(thing, OrderedDict) else kind
    if isinstance(thing, torch.Generator | random.Random | np.random.Generator):
        return type(thing).__name__
    if hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict"):
        return "own"
    if is_record(thing):
        return "record"
    raise TypeError(f"a {type(thing).__name__} cannot be kept: {KEEPABLE}")


def held(thing: Any) -> list[object]:
    """Return the objects that an object holds, as far as they are kept by themselves."""
    if isinstance(thing, nn.Module):
        return [*thing.parameters(), *thing.buffers()]
    if isinstance(thing, torch.optim.Optimizer):
        return [parameter for group in groups(thing) for parameter in group]
    if isinstance(thing, list):
        return list(thing)
    if isinstance(thing, dict):
        return list(thing.values())
    if kind_of(thing) == "record":
        return list(fields(thing).values())
    return []


def groups(optimiser: torch.optim.Optimizer) -> list[list[Tensor]]:
    """Return the parameters of each group of an optimiser."""
    return [group["params"] for group in optimiser.param_groups]


def is_record(thing: object) -> bool:
    """Tell whether an object is of a dataclass, and its fields may change."""
    settings = getattr(thing, "__dataclass_params__", None)
    return settings is not None and not settings.frozen and not isinstance(thing, type)


def fields(thing: Any) -> dict[str, Any]:
    """Return the values of the fields of a dataclass's object."""
    return {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
