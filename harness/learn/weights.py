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
    from harness.learn.task import Task

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
            owner = type(module).__name__
            raise ValueError(
                f"{name!r} of {owner} is a {kind}: only tensors with a size can be saved"
            )
        # A clone each: safetensors refuses tensors that share memory, as tied weights and views do.
        kept = value.detach().cpu()
        state[name] = kept.clone(memory_format=torch.contiguous_format)
    save_file(state, path)


def load_state(module: nn.Module, path: Path) -> None:
    """Fill `module` with what `save_state` wrote. Raises ValueError, naming tensors, unless
    structures agree.
    """
    state = load_file(path)
    own: dict[str, Tensor] = module.state_dict()
    missing = own.keys() - state.keys()
    unknown = state.keys() - own.keys()
    differing = []
    for name in own.keys() & state.keys():
        stored = tuple(state[name].shape)
        expected = tuple(own[name].shape)
        if stored != expected:
            differing.append(f"{name} {stored} for {expected}")
    problems = []
    if missing:
        problems.append(f"missing: {_some(missing)}")
    if unknown:
        problems.append(f"unexpected: {_some(unknown)}")
    if differing:
        problems.append(f"shape: {_some(differing)}")
    if problems:
        listed = "; ".join(problems)
        raise ValueError(f"{path.name} does not fit {type(module).__name__}: {listed}")
    module.load_state_dict(state)


def _some(names: Iterable[str], most: int = 4) -> str:
    listed = sorted(names)
    text = ", ".join(listed[:most])
    if len(listed) > most:
        text += f" and {len(listed) - most} more"
    return text


@torch.no_grad()
def same_logits(a: nn.Module, b: nn.Module, task: Task) -> bool:
    """Tell whether two networks, each on its own device, give the same finite outputs on random
    images of the task.

    Agreement is up to what a change of memory layout moves in single precision.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((PROBES, *task.image_shape), generator=generator)
    with evaluating(a, b), single_precision():
        # Copies: a network may write into the images that it is shown.
        first = a(images.clone().to(device_of(a))).float().cpu()
        second = b(images.clone().to(device_of(b))).float().cpu()
    if first.shape != second.shape:
        return False
    scale = float(first.abs().max().nan_to_num())
    return torch.allclose(first, second, rtol=1e-4, atol=1e-5 * max(1.0, scale))
