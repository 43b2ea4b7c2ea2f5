"""Optimisers that follow a recipe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from harness.learn.recipes import Recipe

RHO, TINY = 0.95, 1e-7
"""Decay and epsilon of Adadelta, as Keras has them, where sources use it."""


class Optimiser:
    """A torch optimiser whose learning rate follows a recipe.

    A step is `prepare`, which may depend on the step's number, then `clear`, a backward pass, and
    `advance`, which do not, so that these can be recorded as a CUDA graph.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        recipe: Recipe,
        zero_grad: bool = True,
        rate_tensor: bool | None = None,
    ) -> None:
        """`rate_tensor`: keep the learning rate beside the parameters, where recorded steps find
        it; None: on GPUs.
        """
        self.parameters = list(parameters)
        self.recipe, self.zero_grad = recipe, zero_grad
        # fused kernels: one pass over all parameters, which is half the time of a step of a small
        # net
        fused = all(
            p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in self.parameters
        )
        if rate_tensor is None:
            rate_tensor = fused and all(p.device.type == "cuda" for p in self.parameters)
        place = self.parameters[0].device if self.parameters else "cpu"
        self.rate: Tensor | None = torch.full((), recipe.lr, device=place) if rate_tensor else None
        lr = recipe.lr if self.rate is None else self.rate
        common: dict[str, Any] = {"lr": lr, "weight_decay": recipe.weight_decay, "fused": fused}
        self.torch: torch.optim.Optimizer
        if recipe.optimizer == "sgd":
            nesterov = recipe.nesterov
            self.torch = torch.optim.SGD(
                self.parameters, momentum=recipe.momentum, nesterov=nesterov, **common
            )
        elif recipe.optimizer == "adadelta":
            del common["fused"]  # there is no such kernel
            self.torch = torch.optim.Adadelta(
                self.parameters, rho=RHO, eps=TINY, capturable=rate_tensor, **common
            )
        else:
            kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
            self.torch = kind(self.parameters, betas=recipe.betas, capturable=rate_tensor, **common)

    def prepare(self, step: int, steps_per_epoch: int) -> None:
        """Set the learning rate of a step, counted from 0."""
        rate = self.recipe.lr_at(step, steps_per_epoch)
        if self.rate is not None:
            self.rate.fill_(rate)
            return
        for group in self.torch.param_groups:
            group["lr"] = rate

    def clear(self) -> None:
        """Forget gradients, unless their running sum is wanted."""
        if self.zero_grad:
            self.torch.zero_grad(set_to_none=True)

    def advance(self) -> None:
        """Clip gradients if the recipe says so, and move the parameters."""
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
        self.torch.step()
