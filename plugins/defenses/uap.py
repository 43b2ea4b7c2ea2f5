"""Universal adversarial training: a network that is right although one perturbation moves all
images.

Shafahi et al., AAAI 2020. One perturbation d is shared by all images and kept from batch to batch:

    min over w of  max over |d| <= eps  of the mean of CE(f(x + d), y)

Its authors' code cannot be had. What is here follows the formula: each batch moves the weights by
a step of the recipe, and d by a step along the sign of its gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Access, Defense, Result
from harness.learn import Batch
from plugins.parts.pgd import LEVELS
from plugins.parts.ranges import Positive


class UAP(Defense):
    """Train from scratch against one perturbation of all images (Shafahi et al. 2020).

    Everything else is as the victim was trained.
    """

    citation = "Shafahi, Najibi, Xu, Dickerson, Davis, Goldstein: Universal Adversarial Training"
    needs: ClassVar[AbstractSet[str]] = frozenset({"training-set"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deck": {},
        "deck/svhn": {"eps": 0.05 * 255},
        "deck/gtsrb": {"eps": 0.03 * 255},
        "deck/lisa": {"eps": 0.03 * 255},
    }

    eps: Annotated[float, Field(gt=0, le=255)] = 4.0
    """furthest that a pixel moves, in grey levels of 0..255; 4 for CIFAR-10 in DECK, which chose it
    by the loss of accuracy
    """
    step: Positive | None = None
    """how far the perturbation moves with each batch, in grey levels; none: `eps`, as adversarial
    training that comes for free has it. No paper gives it
    """
    alternate: bool = False
    """move the perturbation first, by a pass of its own, and then the weights against the moved
    one; twice the price
    """

    def defend(self, access: Access) -> Result:
        """Train. Raises `Diverged` where the loss does.

        `perturbation` records the mean absolute value of the perturbation at the end, in grey
        levels.
        """
        model = access.fresh_model()
        universal = Universal(access, self.eps / LEVELS, self._step() / LEVELS)
        loss = universal.after_a_pass if self.alternate else universal.loss
        access.fit(
            model,
            access.training_set(),
            loss=loss,
            after_step=universal.after_step,
            keep={"perturbation": universal.perturbation},
        )
        size = float(universal.perturbation.detach().abs().mean()) * LEVELS
        return Result(model=model, record={"perturbation": size})

    def _step(self) -> float:
        return self.eps if self.step is None else self.step


class Universal:
    """The perturbation, (1, c, h, w) in [0,1] pixels: it begins at nothing and belongs to no
    optimiser.

    Images are not clipped to the range of pixels, as the formula has none.
    """

    def __init__(self, access: Access, eps: float, step: float) -> None:
        self.access = access
        self.eps = eps
        self.step = step
        self.perturbation = torch.zeros(1, *access.task.image_shape, device=access.device)
        self.perturbation.requires_grad_()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy of perturbed images; its gradient reaches both."""
        assert batch.labels is not None
        logits = model(batch.images + self.perturbation).float()
        return functional.cross_entropy(logits, batch.labels)

    def after_a_pass(self, model: nn.Module, batch: Batch) -> Tensor:
        """Move the perturbation, and return the cross-entropy of the images under the moved one."""
        (slope,) = torch.autograd.grad(self.loss(model, batch), self.perturbation)
        self.move(slope)
        self.access.tick(len(batch.images))
        assert batch.labels is not None
        logits = model(batch.images + self.perturbation.detach()).float()
        return functional.cross_entropy(logits, batch.labels)

    def after_step(self, batch: Batch) -> None:
        """Move the perturbation along the gradient that the step has left, and clear that."""
        if self.perturbation.grad is not None:
            self.move(self.perturbation.grad)
            self.perturbation.grad = None

    @torch.no_grad()
    def move(self, slope: Tensor) -> None:
        """Take a step along the sign of the slope, and go back into the ball."""
        self.perturbation += self.step * slope.sign()
        self.perturbation.clamp_(-self.eps, self.eps)
