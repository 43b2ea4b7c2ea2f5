"""Tensors with all that belongs to one: values, gradient, whether it asks for gradients, and whose
memory it shares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.keeping.packing import Reference
from harness.keeping.states import fill

Write = Callable[[Any], Any]
"""Gives what stands in a state for a value that an object holds."""
Find = Callable[[Any], Any]
"""Gives the value that such a thing stands for."""


class Storages:
    """The memory of the tensors that were there when a loop began."""

    def __init__(self, known: Sequence[object]) -> None:
        self._known = known
        self._owners: dict[int, int] = {}
        for number, thing in enumerate(known):
            if isinstance(thing, Tensor):
                self._owners.setdefault(_memory(thing), number)
        self._owners.pop(0, None)

    def owner(self, tensor: Tensor) -> Reference | None:
        """Return the tensor of these whose memory another one is a part of, None if there is
        none.
        """
        number = self._owners.get(_memory(tensor))
        if number is None:
            return None
        owner = self._known[number]
        assert isinstance(owner, Tensor)
        return Reference(number) if owner.dtype == tensor.dtype else None


def _memory(tensor: Tensor) -> int:
    """Return where a tensor's memory begins, 0 where it has none."""
    if nn.parameter.is_lazy(tensor) or tensor.layout is not torch.strided:
        return 0
    return tensor.untyped_storage().data_ptr()


def tensor_state(tensor: Tensor, write: Write, owner: Reference | None) -> dict[str, Any]:
    """Return the state of a tensor, which shares memory with it. `owner`: the one that it is a view
    of. Raises TypeError where a step back from it would go beyond it.
    """
    if nn.parameter.is_lazy(tensor):
        raise TypeError("a parameter that has no size yet cannot be kept")
    if tensor.grad_fn is not None:
        raise TypeError(
            "a tensor that was computed from others with gradients cannot be kept: detach() it, or "
            "change the one that is kept in place"
        )
    state = {
        "requires_grad": tensor.requires_grad,
        "gradient": write(tensor.grad),
        "parameter": isinstance(tensor, nn.Parameter),
    }
    if owner is None:
        return {**state, "values": tensor.detach()}
    return {**state, "owner": owner, "geometry": _geometry(tensor)}


def _geometry(tensor: Tensor) -> list[Any]:
    """Return which part of its memory a tensor is, and how large that memory is."""
    size, stride = list(tensor.shape), list(tensor.stride())
    return [size, stride, tensor.storage_offset(), tensor.untyped_storage().nbytes()]


def made_tensor(state: Mapping[str, Any], objects: Sequence[Any]) -> Tensor:
    """Make a tensor anew; its gradient comes with `restore_tensor`."""
    if "owner" in state:
        owner = objects[state["owner"].number].detach()
        size, stride, offset, memory = state["geometry"]
        if owner.untyped_storage().nbytes() != memory:
            raise ValueError("a tensor that shares memory with another finds it of another size")
        values: Tensor = owner.as_strided(size, stride, offset)
    else:
        values = state["values"]
    if state["parameter"]:
        return nn.Parameter(values, state["requires_grad"])
    return values.requires_grad_(state["requires_grad"])


def restore_tensor(tensor: Tensor, state: Mapping[str, Any], find: Find) -> None:
    """Put the state of a tensor back."""
    if "values" in state:
        fill(tensor, state["values"])
    if tensor.requires_grad != state["requires_grad"]:
        tensor.requires_grad_(state["requires_grad"])
    gradient = find(state["gradient"])
    if tensor.grad is not gradient:
        tensor.grad = gradient
