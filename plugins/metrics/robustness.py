"""Robustness to small perturbations of single images."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from harness import Incompatible, Metric, MetricAccess
from harness.learn import ImageSet, evaluating, sent
from plugins.parts.counting import FORWARD
from plugins.parts.pgd import LEVELS, pgd
from plugins.parts.ranges import Count, Positive

BATCH = 100
"""Images that are moved together; none depends on the others."""
SIGNS = {"eps": 0.03 * 255, "step": 0.001 * 255, "steps": 100}
"""On GTSRB and SVHN, where the code gives it in [0,1] pixels."""


class Robustness(Metric):
    """Robustness: images that stay right under projected gradient descent, in percent.

    The attack is that of Madry et al. in the maximum norm, untargeted, away from the true label.
    `loss` is how many points are lost against the network that the defense started from (negative:
    gained). Images and starts are the same for all networks.
    """

    citation = (
        "Madry, Makelov, Schmidt, Tsipras, Vladu: "
        "Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018"
    )
    needs: ClassVar[AbstractSet[str]] = frozenset({"model", "reference"})
    higher_is_better: ClassVar[bool | None] = True
    seeded = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deck": {},
        "deck/svhn": SIGNS,
        "deck/gtsrb": SIGNS,
        "deck/lisa": {"eps": 0.1 * 255, "step": 0.01 * 255, "steps": 100},
    }

    eps: Annotated[float, Field(gt=0, le=255)] = 8.0
    """furthest that a pixel moves, in grey levels of 0..255; 8 for CIFAR-10 in DECK"""
    step: Positive = 2.0
    """how far a step moves it, in grey levels; 2 in MOTH's code"""
    steps: Count = 20
    """steps an image; 20 in MOTH's code"""
    random_start: bool = True
    """begin anywhere in the ball, not at the image"""
    images: Count | None = 1000
    """the first so many images of the split, as in MOTH's code; of a smaller split, or with none,
    all
    """
    split: Literal["validation", "test"] = "validation"
    """where the images are from; validation, as in MOTH's code"""

    def grants(self) -> AbstractSet[str]:
        """Add the split that the images are from."""
        return self.needs | {self.split}

    def measure(self, access: MetricAccess) -> Mapping[str, float]:
        """Attack the images; `right` keeps which of them stay right.

        Raises Incompatible where the split is empty.
        """
        data = self._images(access)
        right = self.attacked(access, access.model(), data)
        access.save(right=right)
        share = 100 * float(right.mean())
        numbers = {"": share}
        reference = access.reference()
        if reference is not None:
            numbers["loss"] = float(reference["values"][""]) - share
        return numbers

    def _images(self, access: MetricAccess) -> ImageSet:
        data = access.validation() if self.split == "validation" else access.test()
        if len(data) == 0:
            raise Incompatible(
                f"there is no {self.split} image; "
                "say validation = 2000, for example, in [[dataset]]"
            )
        count = len(data) if self.images is None else min(self.images, len(data))
        return data.subset(torch.arange(count))

    def attacked(self, access: MetricAccess, model: nn.Module, data: ImageSet) -> np.ndarray:
        """Return which images are classified right after the attack, boolean (n,)."""
        starts = access.generator("start")
        right: list[Tensor] = []
        model.requires_grad_(False)
        steps = access.steps(-(-len(data) // BATCH), {"right": right})
        with evaluating(model):
            for number in steps:
                chosen = torch.arange(number * BATCH, min(len(data), (number + 1) * BATCH))
                (batch,) = data.subset(chosen).to(access.device).batches(BATCH)
                right.append(self._batch(access, model, batch, starts))
        return torch.cat(right).numpy()

    def _batch(
        self,
        access: MetricAccess,
        model: nn.Module,
        batch: tuple[Tensor, Tensor | None],
        starts: torch.Generator,
    ) -> Tensor:
        images, labels = batch
        assert labels is not None
        drawn = None
        if self.random_start:
            drawn = sent(torch.rand(images.shape, generator=starts), images.device)
        moved = pgd(
            model,
            images,
            labels,
            eps=self.eps / LEVELS,
            step=self.step / LEVELS,
            steps=self.steps,
            drawn=drawn,
        )
        with torch.no_grad():
            predicted = model(moved).argmax(1)
        access.tick(self.steps * len(images) + len(images) // FORWARD)
        right: Tensor = predicted == labels
        return right.cpu()
