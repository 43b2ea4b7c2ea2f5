"""States as JSON and tensors on the CPU, written as safetensors: nothing is ever unpickled.

A state is made of numbers, texts, None, tensors, numpy arrays, references to objects, and lists,
tuples and tables of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.errors import Unfit

PLAIN = (bool, int, float, str)
"""Types of values that JSON holds as they are, None beside them."""

KEEPABLE = (
    "modules, optimisers, generators, tensors, arrays, objects with state_dict and "
    "load_state_dict, and lists, tables, tuples and dataclasses of these, of numbers and of texts "
    "can be kept"
)


@dataclass(frozen=True)
class Reference:
    """Stands in a state for the object with this number, see `objects`."""

    number: int


@dataclass(frozen=True)
class Packed:
    """A state as JSON, and the tensors that it refers to by their number."""

    json: Any
    tensors: Sequence[Tensor]

    @property
    def size(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def save(self, path: Path) -> None:
        """Write the tensors to a file of safetensors."""
        save_file({str(number): tensor for number, tensor in enumerate(self.tensors)}, path)

    @classmethod
    def load(cls, json: Any, path: Path) -> Packed:
        """Read what `save` wrote. Raises Unfit."""
        try:
            named = load_file(path)
            return cls(json, [named[str(number)] for number in range(len(named))])
        except Exception as error:  # safetensors has errors of its own
            raise Unfit(f"{path.name}: {error}") from error

    def unpack(self) -> Any:
        """Return the state, with tensors of its own on the devices and in the layouts that they
        had. Raises Unfit.
        """
        try:
            return _unpack(self.json, self.tensors)
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
            raise Unfit(f"what was kept cannot be read: {error}") from error


def pack(state: Any) -> Packed:
    """Return a state as JSON and copies of its tensors. Raises TypeError for what no state can
    hold.
    """
    packer = _Packer()
    json = packer.pack(state)
    return Packed(json, [_copied(tensor) for tensor in packer.tensors])


def check(state: Any) -> None:
    """Raise the TypeError that `pack` would, without copying."""
    _Packer().pack(state)


class _Packer:
    def __init__(self) -> None:
        self.tensors: list[Tensor] = []

    def _add(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def pack(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value)
        if value is None or type(value) in PLAIN:
            return value
        if isinstance(value, Reference):
            return {"object": value.number}
        if type(value) is list:
            return [self.pack(item) for item in value]
        if type(value) is tuple:
            return {"tuple": [self.pack(item) for item in value]}
        if isinstance(value, Mapping):
            return {"table": [[self.pack(key), self.pack(item)] for key, item in value.items()]}
        raise TypeError(f"a {type(value).__name__} cannot be kept: {KEEPABLE}")

    def _tensor(self, value: Tensor) -> Any:
        if value.layout is not torch.strided or value.is_quantized:
            raise TypeError(f"a tensor of layout {value.layout} cannot be kept")
        strides = None
        if _dense(value):
            strides = list(value.stride())
        return {"tensor": self._add(value), "strides": strides, "device": str(value.device)}

    def _array(self, value: np.ndarray | np.generic) -> Any:
        array = np.asarray(value)
        if array.dtype.hasobject:
            raise TypeError("an array of Python objects cannot be kept")
        data = torch.from_numpy(np.frombuffer(array.tobytes(), dtype=np.uint8).copy())
        return {
            "array": self._add(data),
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "scalar": isinstance(value, np.generic),
        }


def _dense(tensor: Tensor) -> bool:
    """Tell whether a tensor's elements fill one piece of memory, each once, in whatever order."""
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    return tensor.permute(order).is_contiguous()


def _copied(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU, contiguous."""
    there = tensor.detach()
    return there.to("cpu", copy=True, memory_format=torch.contiguous_format)


def _unpack(value: Any, tensors: Sequence[Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "object" in value:
        return Reference(value["object"])
    if "tuple" in value:
        return tuple(_unpack(item, tensors) for item in value["tuple"])
    if "table" in value:
        return {_unpack(key, tensors): _unpack(item, tensors) for key, item in value["table"]}
    if "array" in value:
        data = tensors[value["array"]].numpy().tobytes()
        array = np.frombuffer(data, dtype=value["dtype"]).reshape(value["shape"]).copy()
        return array[()] if value["scalar"] else array
    kept = tensors[value["tensor"]]
    strides = value["strides"]
    if strides is None:
        return kept.clone().to(value["device"])
    laid_out = torch.empty_strided(kept.shape, strides, dtype=kept.dtype)
    return laid_out.copy_(kept).to(value["device"])
