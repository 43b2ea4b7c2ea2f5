"""The state of objects as plain values and tensors, and back into the same objects, to the bit.

A state is made of numbers, texts, None, tensors, numpy arrays, and lists, tuples and tables of
these. `pack` turns it into JSON and a list of tensors on the CPU, which are written as safetensors:
nothing is ever unpickled.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.errors import Unfit

PLAIN = (bool, int, float, str)
"""Types of values that JSON holds as they are, None beside them."""

_KEEPABLE = (
    "modules, optimisers, generators, tensors, objects with state_dict and load_state_dict, and "
    "lists, tables and dataclasses of numbers, texts and tensors can be kept"
)


class Stream(torch.Generator):
    """A generator on the CPU that can be referred to weakly, which torch's own cannot."""


# --- objects --------------------------------------------------------------------------------------


def state_of(thing: object) -> Any:
    """Return the state of an object; its tensors share memory with it. Raises TypeError for what
    has none.
    """
    if isinstance(thing, nn.Module):
        return _module_state(thing)
    if isinstance(thing, torch.Generator):
        return thing.get_state()
    if isinstance(thing, Tensor):
        return thing.detach()
    if isinstance(thing, random.Random):
        return thing.getstate()
    if isinstance(thing, np.random.Generator):
        return thing.bit_generator.state
    if isinstance(thing, tuple):
        return [state_of(each) for each in thing]
    if isinstance(thing, dict | list):
        return thing
    if hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict"):
        return thing.state_dict()
    if _is_record(thing):
        return _fields(thing)
    raise TypeError(f"a {type(thing).__name__} cannot be kept: {_KEEPABLE}")


def restore(thing: Any, state: Any) -> None:
    """Put a state back into the object that it is of, in place. Raises Unfit where it is of
    another structure.
    """
    try:
        _restore(thing, state)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise Unfit(f"{type(thing).__name__}: {error}") from error


def _restore(thing: Any, state: Any) -> None:
    if isinstance(thing, nn.Module):
        _restore_module(thing, state)
    elif isinstance(thing, torch.optim.Optimizer):
        _restore_optimiser(thing, state)
    elif isinstance(thing, torch.Generator):
        thing.set_state(state)
    elif isinstance(thing, Tensor):
        _fill(thing, state)
    elif isinstance(thing, random.Random):
        thing.setstate(state)
    elif isinstance(thing, np.random.Generator):
        thing.bit_generator.state = state
    elif isinstance(thing, tuple | dict | list):
        _restore_collection(thing, state)
    elif hasattr(thing, "load_state_dict"):
        thing.load_state_dict(state)
    else:
        _restore_fields(thing, state)


def _is_record(thing: object) -> bool:
    """Tell whether an object is of a dataclass, and its fields may change."""
    settings = getattr(thing, "__dataclass_params__", None)
    return settings is not None and not settings.frozen and not isinstance(thing, type)


def _fields(thing: Any) -> dict[str, Any]:
    """Return the values of the fields of a dataclass's object."""
    return {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}


def _restore_fields(thing: Any, state: Mapping[str, Any]) -> None:
    if state.keys() != _fields(thing).keys():
        raise ValueError(f"it has other fields than were kept: {', '.join(state)}")
    for name, value in state.items():
        setattr(thing, name, value)


def _restore_collection(thing: Any, state: Any) -> None:
    if isinstance(thing, tuple):
        for each, its_state in zip(thing, state, strict=True):
            _restore(each, its_state)
    elif isinstance(thing, dict):
        thing.clear()
        thing.update(state)
    else:
        thing[:] = state


def _module_state(module: nn.Module) -> dict[str, Any]:
    """Return parameters, all buffers, and plain attributes such as the mode of each part."""
    extra = {}
    plain = {}
    for name, part in module.named_modules():
        if type(part).get_extra_state is not nn.Module.get_extra_state:
            extra[name] = part.get_extra_state()
        plain[name] = {
            key: value for key, value in vars(part).items() if value is None or type(value) in PLAIN
        }
    return {"tensors": _tensors(module), "plain": plain, "extra": extra}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, those included that `state_dict` leaves out."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise TypeError(f"{name!r} has no size yet, so it cannot be kept")
        tensors[name] = parameter.detach()
    for name, buffer in module.named_buffers():
        tensors[name] = buffer.detach()
    return tensors


def _restore_module(module: nn.Module, state: Mapping[str, Any]) -> None:
    own = _tensors(module)
    kept = state["tensors"]
    if own.keys() != kept.keys():
        names = ", ".join(sorted(own.keys() ^ kept.keys())[:4])
        raise ValueError(f"it has other tensors than were kept: {names}")
    for name, tensor in own.items():
        _fill(tensor, kept[name])
    for name, part in module.named_modules():
        for key, value in state["plain"][name].items():
            if key not in vars(part) or vars(part)[key] != value:
                setattr(part, key, value)
        if name in state["extra"]:
            part.set_extra_state(state["extra"][name])


def _restore_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    before = [dict(group) for group in optimiser.param_groups]
    optimiser.load_state_dict(state)
    # A setting that is a tensor, as learning rates on GPUs are, is referred to by others.
    for group, was in zip(optimiser.param_groups, before, strict=True):
        for name, value in was.items():
            if isinstance(value, Tensor):
                _fill(value, torch.as_tensor(group[name]))
                group[name] = value


@torch.no_grad()
def _fill(tensor: Tensor, kept: Tensor) -> None:
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


# --- packing --------------------------------------------------------------------------------------


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
        if type(value) is list:
            return [self.pack(item) for item in value]
        if type(value) is tuple:
            return {"tuple": [self.pack(item) for item in value]}
        if isinstance(value, Mapping):
            return {"table": [[self.pack(key), self.pack(item)] for key, item in value.items()]}
        raise TypeError(f"a {type(value).__name__} cannot be kept: {_KEEPABLE}")

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
