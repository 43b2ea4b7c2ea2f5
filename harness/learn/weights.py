"""Network states on disk as safetensors, and the proof that a state came back whole."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.learn.device import device_of, evaluating, single_precision

if TYPE_CHECKING:
    from harness.components import Task

PROBES = 32
"""Random images on which two networks are compared."""


def save_state(module: nn.Module, path: Path) -> None:
    """Write parameters and persistent buffers. Tied tensors are written once a name, layouts as
    plain NCHW.

    Raises ValueError where the state holds something that is no tensor, or a tensor without a size
    yet.
    """
    state: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor) or nn.parameter.is_lazy(value):
            kind = type(value).__name__
            raise ValueError(
                f"{name!r} of {type(module).__name__} is a {kind}: only tensors with a size can be saved"
            )
        # a clone each: safetensors refuses tensors that share memory, as tied weights and views do
        state[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    save_file(state, path)


def load_state(module: nn.Module, path: Path) -> None:
    """Fill `module` with what `save_state` wrote. Raises ValueError, naming tensors, unless
    structures agree.
    """
    state = load_file(path)
    own: dict[str, Tensor] = module.state_dict()
    differing = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if state[name].shape != own[name].shape
    ]
    problems = {
        "missing": own.keys() - state.keys(),
        "not wanted": state.keys() - own.keys(),
        "shape": differing,
    }
    told = [f"{what}: {_some(names)}" for what, names in problems.items() if names]
    if told:
        raise ValueError(f"{path.name} does not fit {type(module).__name__}: {'; '.join(told)}")
    module.load_state_dict(state)


def _some(names: Iterable[str], most: int = 4) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


@torch.no_grad()
def same_logits(a: nn.Module, b: nn.Module, task: Task) -> bool:
    """Whether two networks, each on its own device, give the same finite outputs on random images
    of the task.

    Agreement is up to what a change of memory layout moves in single precision.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((PROBES, *task.image_shape), generator=generator)
    with evaluating(a, b), single_precision():
        first, second = (net(images.to(device_of(net))).float().cpu() for net in (a, b))
    if first.shape != second.shape:
        return False
    scale = float(first.abs().max().nan_to_num())
    return torch.allclose(first, second, rtol=1e-4, atol=1e-5 * max(1.0, scale))
