"""Optimisers that follow a recipe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from harness.keeping.states import restore, state_of
from harness.learn.recipes import Recipe

RHO = 0.95
"""Decay of Adadelta in Keras, in which the source code is written."""
TINY = 1e-7
"""Epsilon of Adadelta in Keras."""


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
        """Make the optimiser that `recipe` names.

        `rate_tensor`: keep the learning rate beside the parameters, where recorded steps find
        it; None: on GPUs.
        """
        self.parameters = list(parameters)
        self.recipe = recipe
        self.zero_grad = zero_grad
        kinds = {parameter.device.type for parameter in self.parameters}
        floats = all(parameter.is_floating_point() for parameter in self.parameters)
        # Fused kernels: one pass over all parameters, which is half the time of a step of a small
        # net.
        fused = floats and kinds <= {"cpu", "cuda"}
        if rate_tensor is None:
            rate_tensor = fused and kinds <= {"cuda"}
        self.rate: Tensor | None = None
        if rate_tensor:
            place = self.parameters[0].device if self.parameters else "cpu"
            self.rate = torch.full((), recipe.lr, device=place)
        self.torch = self._optimiser(fused, rate_tensor)

    def _optimiser(self, fused: bool, capturable: bool) -> torch.optim.Optimizer:
        recipe = self.recipe
        common: dict[str, Any] = {
            "lr": recipe.lr if self.rate is None else self.rate,
            "weight_decay": recipe.weight_decay,
        }
        if recipe.optimizer == "adadelta":  # there is no fused kernel
            return torch.optim.Adadelta(
                self.parameters, rho=RHO, eps=TINY, capturable=capturable, **common
            )
        common["fused"] = fused
        if recipe.optimizer == "sgd":
            return torch.optim.SGD(
                self.parameters, momentum=recipe.momentum, nesterov=recipe.nesterov, **common
            )
        common["betas"] = recipe.betas
        common["capturable"] = capturable
        if recipe.optimizer == "adam":
            return torch.optim.Adam(self.parameters, **common)
        return torch.optim.AdamW(self.parameters, **common)

    def prepare(self, step: int, steps_per_epoch: int) -> None:
        """Set the learning rate of a step, counted from 0."""
        rate = self.recipe.lr_at(step, steps_per_epoch)
        if self.rate is not None:
            self.rate.fill_(rate)
            return
        for group in self.torch.param_groups:
            group["lr"] = rate

    def clear(self) -> None:
        """Forget gradients, unless the caller lets them add up."""
        if self.zero_grad:
            self.torch.zero_grad(set_to_none=True)

    def advance(self) -> None:
        """Clip gradients if the recipe says so, and move the parameters."""
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
        self.torch.step()

    def state(self) -> Any:
        """Return the state of torch's optimiser. Gradients belong to the parameters."""
        return state_of(self.torch)

    def restore(self, state: Any) -> None:
        """Put back what `state` returned. Raises Unfit."""
        restore(self.torch, state)
