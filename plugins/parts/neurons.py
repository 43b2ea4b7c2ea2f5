"""Neurons under a network's last layer, and pictures that excite them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness import AttackAccess
from harness.learn import to_float


@dataclass(frozen=True)
class Neurons:
    """Some inputs of a network's last linear layer; `chosen` are their indices (int64)."""

    network: nn.Module
    head: nn.Module
    chosen: Tensor

    @classmethod
    def connected(
        cls, access: AttackAccess, network: nn.Module, count: int, label: int | None = None
    ) -> Neurons:
        """The `count` inputs of the last layer with the largest weights: into one label, or all in
        absolute value.

        Raises Incompatible where the architecture names no head.
        """
        head = network.get_submodule(access.anatomy(network).head)
        weight: Tensor = head.get_parameter("weight").detach().flatten(1)
        strength = weight.abs().sum(0) if label is None else weight[label]
        chosen = torch.argsort(strength, descending=True, stable=True)[:count]
        return cls(network, head, chosen)

    def activation(self, images: Tensor) -> Tensor:
        """Mean over neurons and [0,1] images (NCHW), a scalar; a head that is applied to every
        pixel is averaged.
        """
        taken: list[Tensor] = []

        def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            taken.append(inputs[0])

        handle = self.head.register_forward_pre_hook(keep)
        try:
            self.network(images)
        finally:
            handle.remove()
        inputs = taken[0].flatten(2).mean(2) if taken[0].ndim > 2 else taken[0]
        return inputs[:, self.chosen].mean()


def some_images(access: AttackAccess, count: int) -> Tensor:
    """`count` of the attacker's clean images drawn at random, or all there are: [0,1] NCHW on the
    device.
    """
    order = torch.randperm(len(access.train), generator=access.generator("pictures"))
    return to_float(access.train.images[order[:count]].to(access.device))


def excite(
    access: AttackAccess,
    neurons: Neurons,
    images: Tensor,
    pattern: Tensor,
    stamp: Callable[[Tensor, Tensor], Tensor],
    keep: Callable[[Tensor], Tensor],
    steps: int,
    step: float,
) -> Tensor:
    """Climb from `pattern` to one under which the neurons are more active; `keep` puts it back
    where it may be.

    `stamp(images, pattern)` is what the network sees. A step is the gradient divided by its mean
    size over the values that it reaches, times a length that falls linearly from `step` to nothing,
    in [0,1] units. The best pattern on the way is returned, and the record says how far it came.
    """
    best, most = pattern, -torch.inf
    for number in range(steps + 1):
        pattern = pattern.detach().requires_grad_()
        value = neurons.activation(stamp(images, pattern))
        if value.item() > most:
            best, most = pattern.detach(), value.item()
        if number == steps:
            break
        (gradient,) = torch.autograd.grad(value, pattern)
        size = gradient.abs()[gradient != 0].mean() if gradient.any() else gradient.new_ones(())
        pattern = keep(pattern.detach() + step * (1 - number / steps) * gradient / size)
        access.tick(len(images), number + 1, steps)
    with torch.no_grad():
        access.record.update(
            activation_before=float(neurons.activation(images)), activation_after=most
        )
    return best
