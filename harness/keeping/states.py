"""The states of objects that stand for themselves, and of the global generators, to the bit.

Modules, tensors and collections refer to other objects: see `objects`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.errors import Unfit
from harness.keeping.packing import KEEPABLE


class Stream(torch.Generator):
    """A generator on the CPU that can be referred to weakly, which torch's own cannot."""


def state_of(thing: object) -> Any:
    """Return the state of an optimiser, a generator or another object with `state_dict` and
    `load_state_dict`; its tensors share memory with it. Raises TypeError for what has none.
    """
    if isinstance(thing, torch.Generator):
        return thing.get_state()
    if isinstance(thing, random.Random):
        return thing.getstate()
    if isinstance(thing, np.random.Generator):
        return thing.bit_generator.state
    if hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict"):
        return thing.state_dict()
    raise TypeError(f"a {type(thing).__name__} cannot be kept: {KEEPABLE}")


def restore(thing: Any, state: Any) -> None:
    """Put a state back into the object that it is of, in place. Raises Unfit where it is of
    another structure.
    """
    try:
        _restore(thing, state)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise Unfit(f"{type(thing).__name__}: {error}") from error


def _restore(thing: Any, state: Any) -> None:
    if isinstance(thing, torch.optim.Optimizer):
        _restore_optimiser(thing, state)
    elif isinstance(thing, torch.Generator):
        thing.set_state(state)
    elif isinstance(thing, random.Random):
        thing.setstate(state)
    elif isinstance(thing, np.random.Generator):
        thing.bit_generator.state = state
    else:
        thing.load_state_dict(state)


def _restore_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    before = [dict(group) for group in optimiser.param_groups]
    optimiser.load_state_dict(state)
    # A setting that is a tensor, as learning rates on GPUs are, is referred to by others.
    for group, was in zip(optimiser.param_groups, before, strict=True):
        for name, value in was.items():
            if isinstance(value, Tensor):
                fill(value, torch.as_tensor(group[name]))
                group[name] = value


@torch.no_grad()
def fill(tensor: Tensor, kept: Tensor) -> None:
    """Give a tensor the values that were kept. Raises ValueError where it is of another kind."""
    if tensor.shape != kept.shape or tensor.dtype != kept.dtype:
        raise ValueError(
            f"a tensor is {tensor.dtype} {tuple(tensor.shape)}, "
            f"but {kept.dtype} {tuple(kept.shape)} was kept"
        )
    tensor.detach().copy_(kept)


def global_state() -> dict[str, Any]:
    """Return the states of the global generators: of Python, numpy and torch, and of GPUs where
    they are in use.
    """
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.default_generator.get_state(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = [generator.get_state() for generator in torch.cuda.default_generators]
    return state


def restore_globals(state: Mapping[str, Any]) -> None:
    """Put global generators back. Raises Unfit where there are other GPUs."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.default_generator.set_state(state["torch"])
    if "cuda" not in state:
        return
    torch.cuda.init()  # type: ignore[no-untyped-call]
    if len(torch.cuda.default_generators) != len(state["cuda"]):
        raise Unfit("there is another number of GPUs")
    for generator, its_state in zip(torch.cuda.default_generators, state["cuda"], strict=True):
        generator.set_state(its_state)
