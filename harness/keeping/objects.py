"""The objects that a loop keeps: their states, and back into the same objects.

Objects are known by their turn in a walk that is taken when the loop begins, from the things that
are kept through all that they hold. The walk is the same in each attempt, since what lies outside
of loops is done again; so each object gets back its own state, and whatever else refers to it sees
that. What the iterations put beside these objects is made anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.errors import Unfit
from harness.keeping import states
from harness.keeping.kinds import MADE, fields, groups, held, is_value, kind_of
from harness.keeping.modules import module_state, restore_module
from harness.keeping.packing import KEEPABLE, Reference, check
from harness.keeping.structure import changed, structure_of
from harness.keeping.tensors import Find, Storages, made_tensor, restore_tensor, tensor_state


class Objects:
    """The objects that are there when a loop begins. `things` are those to keep, each by what
    messages call it; they may hold others.

    Raises TypeError, naming the thing, where something cannot be kept.
    """

    def __init__(self, things: Mapping[str, object]) -> None:
        self._known: list[object] = []
        self._names: list[str] = []
        self._numbers: dict[int, int] = {}
        for name, thing in things.items():
            with _naming(name):
                self._meet(thing, name)
        self._structures = [structure_of(thing) for thing in self._known]

    def _meet(self, thing: object, name: str) -> None:
        """Take note of an object, and of all that it holds."""
        if isinstance(thing, tuple):
            for each in thing:
                self._meet_held(each, name)
            return
        if id(thing) in self._numbers:
            return
        kind_of(thing)
        self._numbers[id(thing)] = len(self._known)
        self._known.append(thing)
        self._names.append(name)
        for each in held(thing):
            self._meet_held(each, name)

    def _meet_held(self, thing: object, name: str) -> None:
        if not is_value(thing):
            self._meet(thing, name)

    def state(self) -> dict[str, Any]:
        """Return the states of all objects; their tensors share memory with them. Raises TypeError,
        naming the thing, where something cannot be kept.
        """
        writer = _Writer(self._known, self._names, self._numbers)
        written: list[Any] = []
        # Objects that are found on the way come after those known.
        while len(written) < len(writer.objects):
            number = len(written)
            with _naming(writer.names[number]):
                if number < len(self._known):
                    self._compare(number)
                state = writer.state(number)
                check(state)
            written.append(state)
        return {"known": len(self._known), "objects": written}

    def _compare(self, number: int) -> None:
        thing = self._known[number]
        fact = changed(self._structures[number], structure_of(thing))
        if fact:
            raise TypeError(
                f"a {type(thing).__name__} cannot be kept: {fact} changed after the loop began"
            )

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Put the states back that `state` returned. Raises Unfit."""
        known = len(self._known)
        if kept["known"] != known:
            raise Unfit(f"it holds {kept['known']} objects, where {known} are kept now")
        objects = list(self._known)
        try:
            for state in kept["objects"][known:]:
                objects.append(_made(state, objects))
            for thing, state in zip(objects, kept["objects"], strict=True):
                _restore(thing, state, objects)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            raise Unfit(str(error)) from error


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the `state_dict` of a method can raise anything
        raise TypeError(f"{name}: {error}") from error


class _Writer:
    """One state of all objects: `objects` and `names` grow by those that are found."""

    def __init__(
        self, known: Sequence[object], names: Sequence[str], numbers: Mapping[int, int]
    ) -> None:
        self.objects = list(known)
        self.names = list(names)
        self._numbers = dict(numbers)
        self._known = len(known)
        self._storages = Storages(known)
        self._name = ""

    def state(self, number: int) -> dict[str, Any]:
        """Return the state of an object."""
        thing = self.objects[number]
        self._name = self.names[number]
        return {"kind": kind_of(thing), "state": self._state(thing, number)}

    def _state(self, thing: Any, number: int) -> Any:
        if isinstance(thing, nn.Module):
            return module_state(thing, self.value)
        if isinstance(thing, torch.optim.Optimizer):
            numbered = [[self._parameter(each) for each in group] for group in groups(thing)]
            return {"groups": numbered, "own": states.state_of(thing)}
        if isinstance(thing, Tensor):
            owner = None
            if number >= self._known:
                owner = self._storages.owner(thing)
            return tensor_state(thing, self.value, owner)
        if isinstance(thing, np.ndarray):
            return thing
        if isinstance(thing, list):
            return [self.value(each) for each in thing]
        if isinstance(thing, dict):
            return {key: self.value(each) for key, each in thing.items()}
        if kind_of(thing) == "record":
            return {name: self.value(each) for name, each in fields(thing).items()}
        return states.state_of(thing)

    def value(self, value: Any) -> Any:
        """Return what stands for a value that an object holds."""
        if is_value(value):
            return value
        if type(value) is tuple:
            return tuple(self.value(each) for each in value)
        number = self._numbers.get(id(value))
        if number is not None:
            return Reference(number)
        if type(value) not in MADE and not isinstance(value, Tensor):
            raise TypeError(f"a {type(value).__name__} {_why_not(value)}")
        number = len(self.objects)
        self._numbers[id(value)] = number
        self.objects.append(value)
        self.names.append(self._name)
        return Reference(number)

    def _parameter(self, parameter: Tensor) -> Reference:
        if id(parameter) not in self._numbers:
            raise TypeError("an optimiser cannot be kept without the parameters added to it")
        return Reference(self._numbers[id(parameter)])


def _why_not(value: object) -> str:
    """Return the end of a sentence about an object that cannot be made anew."""
    try:
        kind_of(value)
    except TypeError:
        return f"cannot be kept: {KEEPABLE}"
    return "cannot be kept, as it was not there when the loop began"


# --- back -----------------------------------------------------------------------------------------


def _made(state: Mapping[str, Any], objects: Sequence[object]) -> object:
    """Make an object anew. What it holds comes later, since it may not have been made yet."""
    kind, content = state["kind"], state["state"]
    if kind == "tensor":
        return made_tensor(content, objects)
    if kind == "array":
        return content
    return {"list": list, "dict": dict, "ordered": OrderedDict}[kind]()


def _restore(thing: Any, state: Mapping[str, Any], objects: Sequence[Any]) -> None:
    kind, content = state["kind"], state["state"]
    if kind != kind_of(thing):
        raise ValueError(f"there is a {type(thing).__name__} in the place of a kept {kind}")

    def find(value: Any) -> Any:
        if isinstance(value, Reference):
            return objects[value.number]
        if isinstance(value, tuple):
            return tuple(find(each) for each in value)
        return value

    if kind == "module":
        restore_module(thing, content, find)
    elif kind == "optimiser":
        _restore_groups(thing, [[find(each) for each in group] for group in content["groups"]])
        states.restore(thing, content["own"])
    elif kind == "tensor":
        restore_tensor(thing, content, find)
    elif kind == "array":
        _restore_array(thing, content)
    elif kind in ("list", "dict", "ordered", "record"):
        _restore_collection(thing, content, find)
    else:
        states.restore(thing, content)


def _restore_collection(thing: Any, kept: Any, find: Find) -> None:
    if isinstance(thing, list):
        thing[:] = [find(each) for each in kept]
        return
    found = {key: find(each) for key, each in kept.items()}
    if isinstance(thing, dict):
        thing.clear()
        thing.update(found)
    else:
        _restore_fields(thing, found)


def _restore_groups(optimiser: torch.optim.Optimizer, kept: Sequence[Sequence[Tensor]]) -> None:
    """Add the groups of parameters that were added within the loop."""
    there = groups(optimiser)
    for parameters in kept[len(there) :]:
        optimiser.add_param_group({"params": list(parameters)})
    for own, parameters in zip(groups(optimiser), kept, strict=True):
        if [id(each) for each in own] != [id(each) for each in parameters]:
            raise ValueError("an optimiser is one of other parameters than were kept")


def _restore_array(array: np.ndarray, kept: np.ndarray) -> None:
    if array is kept:
        return
    if array.shape != kept.shape or array.dtype != kept.dtype:
        raise ValueError(
            f"an array is {array.dtype} {array.shape}, but {kept.dtype} {kept.shape} was kept"
        )
    if array.flags.writeable:
        array[...] = kept


def _restore_fields(thing: Any, kept: Mapping[str, Any]) -> None:
    if kept.keys() != fields(thing).keys():
        raise ValueError(f"it has other fields than were kept: {', '.join(kept)}")
    for name, value in kept.items():
        setattr(thing, name, value)
