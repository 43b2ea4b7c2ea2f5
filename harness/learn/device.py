"""The abilities of a machine, and its global state, which is left as it was found."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from harness.learn.images import Device
from harness.learn.layout import settle

if TYPE_CHECKING:
    from harness.learn.anatomy import Architecture
    from harness.learn.task import Task

Precision = Literal["fp32", "bf16"]


def probe_precision(asked: str, device: Device) -> Precision:
    """Return what `asked` ("auto", "fp32" or "bf16") means on `device`.

    auto is bf16 on GPUs of compute capability 8 or more and on CPUs with bf16 instructions:
    elsewhere bf16 works, but through paths slower than fp32.
    """
    if asked in ("fp32", "bf16"):
        return "bf16" if asked == "bf16" else "fp32"
    if asked != "auto":
        raise ValueError(f'precision must be "auto", "fp32" or "bf16", not {asked!r}')
    kind = torch.device(device).type
    if kind == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp32"
    if kind == "cpu":
        probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        found = (getattr(torch.cpu, probe, None) for probe in probes)
        return "bf16" if any(probe is not None and probe() for probe in found) else "fp32"
    return "fp32"


@contextlib.contextmanager
def global_random(seed: int, device: Device = "cpu") -> Iterator[None]:
    """Seed torch's global generators of the CPU and of `device` (dropout draws there); afterwards
    they are as before.

    `torch.manual_seed` would touch every GPU of the machine, and be felt by later code.
    """
    place = torch.device(device)
    accelerator = _cuda_generator(place) if place.type == "cuda" else None
    touched = [torch.default_generator, *([accelerator] if accelerator else [])]
    states = [generator.get_state() for generator in touched]
    try:
        for generator in touched:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(touched, states, strict=True):
            generator.set_state(state)


def _cuda_generator(place: torch.device) -> torch.Generator:
    current = torch.cuda.current_device()  # makes CUDA ready, which the list of generators needs
    index = current if place.index is None else place.index
    return torch.cuda.default_generators[index]


@contextlib.contextmanager
def kernels(deterministic: bool | Literal["warn"]) -> Iterator[None]:
    """Choose between the fastest kernels and repeatable ones; afterwards torch's flags are as
    before.
    """
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    if deterministic:
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # cuBLAS refuses to be repeatable without
    try:
        _repeatable(bool(deterministic), deterministic == "warn")
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = (
            not deterministic,
            bool(deterministic),
        )
        yield
    finally:
        _repeatable(*before)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy `tensor` to `device`; the host does not wait for a GPU to take it, which from pageable
    memory it would.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")


@contextlib.contextmanager
def single_precision() -> Iterator[None]:
    """Let convolutions of fp32 tensors be computed in fp32, where GPUs would round to 10 bits
    (TF32) unless told.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _repeatable(deterministic: bool, warn_only: bool) -> None:
    # asked first: torch's setter imports the compiler, a second that nobody else may need
    now = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    if now != (deterministic, warn_only):
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@contextlib.contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Put modules and all their parts into evaluation mode; afterwards each part is in the mode it
    was in.
    """
    parts = [part for module in modules for part in module.modules()]
    modes = [part.training for part in parts]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module's first parameter or buffer; the CPU if it has none."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def seeded_build(model: Architecture, task: Task, seed: int) -> nn.Module:
    """Build a network with the initial weights that belong to `seed`, on the CPU; the global
    generator is left as found.
    """
    with global_random(seed):
        network = model.build(task)
    return settle(network, task)
