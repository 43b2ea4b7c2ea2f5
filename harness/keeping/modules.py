"""Modules with all that belongs to one beside its parameters: buffers, modes, other plain
attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from harness.keeping.packing import PLAIN
from harness.keeping.tensors import Find, Write


def module_state(module: nn.Module, write: Write) -> dict[str, Any]:
    """Return, for each part, references to its buffers, plain attributes such as its mode, and what
    it keeps by `get_extra_state`.
    """
    parts: dict[str, Any] = {}
    for name, part in module.named_modules():
        kept: dict[str, Any] = {
            "buffers": {key: write(buffer) for key, buffer in part._buffers.items()},
            "not saved": sorted(part._non_persistent_buffers_set),
            "plain": {
                key: value
                for key, value in vars(part).items()
                if value is None or type(value) in PLAIN
            },
        }
        if type(part).get_extra_state is not nn.Module.get_extra_state:
            kept["extra"] = part.get_extra_state()
        parts[name] = kept
    return parts


def restore_module(module: nn.Module, state: Mapping[str, Any], find: Find) -> None:
    """Put the state of a module back."""
    for name, part in module.named_modules():
        kept = state[name]
        _restore_buffers(part, kept, find)
        for key, value in kept["plain"].items():
            if key not in vars(part) or vars(part)[key] != value:
                setattr(part, key, value)
        if "extra" in kept:
            part.set_extra_state(kept["extra"])


def _restore_buffers(part: nn.Module, kept: Mapping[str, Any], find: Find) -> None:
    for key in list(part._buffers):
        if key not in kept["buffers"]:
            delattr(part, key)
    for key, reference in kept["buffers"].items():
        buffer = find(reference)
        if key not in part._buffers:
            part.register_buffer(key, buffer, persistent=key not in kept["not saved"])
        elif part._buffers[key] is not buffer:
            part._buffers[key] = buffer
