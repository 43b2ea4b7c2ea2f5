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
        """Choose the `count` inputs of the last layer with the largest weights.

        The weight is that into one label, or the sum of all in absolute value. Raises Incompatible
        where the architecture names no head.
        """
        anatomy = access.anatomy(network)
        head = network.get_submodule(anatomy.head)
        weight: Tensor = head.get_parameter("weight").detach().flatten(1)
        strength = weight.abs().sum(0) if label is None else weight[label]
        order = torch.argsort(strength, descending=True, stable=True)
        return cls(network, head, order[:count])

    def activation(self, images: Tensor) -> Tensor:
        """Average over neurons and [0,1] images (NCHW), to a scalar.

        A head that is applied to every pixel is averaged over pixels too.
        """
        taken: list[Tensor] = []

        def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            taken.append(inputs[0])

        handle = self.head.register_forward_pre_hook(keep)
        try:
            self.network(images)
        finally:
            handle.remove()
        inputs = taken[0]
        if inputs.ndim > 2:
            inputs = inputs.flatten(2).mean(2)
        return inputs[:, self.chosen].mean()


def some_images(access: AttackAccess, count: int) -> Tensor:
    """Draw `count` of the attacker's clean images, or all there are: [0,1] NCHW on the device."""
    order = torch.randperm(len(access.train), generator=access.generator("pictures"))
    drawn = access.train.images[order[:count]]
    return to_float(drawn.to(access.device))


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
    """Climb from `pattern` to one under which the neurons are more active.

    The network sees `stamp(images, pattern)`; `keep` brings a pattern back into its range. A step
    is the gradient divided by its mean size over the values that it reaches, times a length that
    falls linearly from `step` to nothing, in [0,1] units. The best pattern on the way is returned,
    and the record says how far it came.
    """
    climb = Climb(pattern, best=pattern)
    for number in access.steps(steps + 1, keep={"climb": climb}):
        pattern = climb.pattern.detach().requires_grad_()
        activation = neurons.activation(stamp(images, pattern))
        climb.look(activation.item())
        if number == steps:
            continue  # the last pattern is only looked at
        (gradient,) = torch.autograd.grad(activation, pattern)
        size = gradient.new_ones(())
        if gradient.any():
            size = gradient.abs()[gradient != 0].mean()
        length = step * (1 - number / steps)
        moved = pattern.detach() + length * gradient / size
        climb.pattern = keep(moved)
        access.tick(len(images))
    with torch.no_grad():
        before = neurons.activation(images)
    access.record["activation_before"] = float(before)
    access.record["activation_after"] = climb.highest
    return climb.best


@dataclass
class Climb:
    """A pattern on its way, and the best one so far."""

    pattern: Tensor
    best: Tensor
    highest: float = -torch.inf

    def look(self, activation: float) -> None:
        """Take note of the activation under the pattern."""
        if activation > self.highest:
            self.best = self.pattern
            self.highest = activation
