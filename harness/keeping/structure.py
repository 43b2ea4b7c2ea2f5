"""What no checkpoint can change of an object: the parts, parameters and hooks that it consists of.

An object whose structure changes within a loop cannot be kept, as the next attempt begins with the
object that was there at the loop's beginning.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Structure = Mapping[str, object]
"""Facts, by what messages call them."""

_HOOKS_OF_MODULES = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_HOOKS_OF_TENSORS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def structure_of(thing: object) -> Structure:
    """Return what may not change of an object while a loop runs."""
    if isinstance(thing, nn.Module):
        return _of_module(thing)
    if isinstance(thing, Tensor):
        return _of_tensor(thing)
    return {}


def _of_module(module: nn.Module) -> Structure:
    facts: dict[str, object] = {}
    for name, part in module.named_modules(remove_duplicate=False):
        facts[f"its part {name!r}"] = part
        facts[f"the hooks of its part {name!r}"] = _hooks(part, _HOOKS_OF_MODULES)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        facts[f"its parameter {name!r}"] = parameter
    return facts


def _of_tensor(tensor: Tensor) -> Structure:
    facts: dict[str, object] = {"its type": tensor.dtype, "its size": None}
    if not nn.parameter.is_lazy(tensor):
        facts["its size"] = tuple(tensor.shape)
    facts["its hooks"] = _hooks(tensor, _HOOKS_OF_TENSORS)
    return facts


def _hooks(thing: object, names: tuple[str, ...]) -> list[object]:
    hooks: list[object] = []
    for name in names:
        hooks.extend((getattr(thing, name) or {}).values())
    return hooks


def changed(before: Structure, now: Structure) -> str:
    """Name the first fact in which two structures differ; "" if none does."""
    for name in [*before, *now]:
        if name not in before or name not in now or not _same(before[name], now[name]):
            return name
    return ""


def _same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor | nn.Module):
        return one is other
    return one == other
