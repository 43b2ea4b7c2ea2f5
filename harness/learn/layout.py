"""The layout of images and weights in memory: channels last, which is fast, unless a network cannot
take it.

Published networks often flatten with `view`, which only works where the channels come first.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.learn.images import Device

if TYPE_CHECKING:
    from harness.learn.task import Task

REFUSAL = "view size is not compatible"
"""Torch's words where a tensor is not laid out as a network takes it to be."""


def settle(network: nn.Module, task: Task) -> nn.Module:
    """Return a newly built network that works with images in either layout.

    One image goes through a copy of it, channels last. If that fails because of the layout and
    works with the channels first, the network is marked, and lays out its images anew. Whatever
    else goes wrong is found where the network is used.
    """
    last = _trouble(network, task, torch.channels_last)
    if last and REFUSAL in last and _trouble(network, task, torch.contiguous_format) is None:
        network.register_forward_pre_hook(channels_first)
    return network


def bring(network: nn.Module, device: Device) -> None:
    """Move a network to `device`, with its weights in the layout that it works in."""
    layout = torch.channels_last
    if channels_first in network._forward_pre_hooks.values():
        layout = torch.contiguous_format
    network.to(device, memory_format=layout)  # type: ignore[call-overload]


def channels_first(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Lay out the inputs of a marked network, as a hook before its forward pass."""
    return tuple(value.contiguous() if isinstance(value, Tensor) else value for value in inputs)


@torch.no_grad()
def _trouble(network: nn.Module, task: Task, layout: torch.memory_format) -> str | None:
    """Send an image through a copy of the network; return what went wrong, or None."""
    images = torch.zeros((1, *task.image_shape)).contiguous(memory_format=layout)
    try:
        with torch.random.fork_rng(devices=[]):
            tried = copy.deepcopy(network).cpu().eval()
            tried.to(memory_format=layout)  # type: ignore[call-overload]
            tried(images)
    except Exception as error:
        return str(error)
    return None
