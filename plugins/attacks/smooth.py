"""Smooth: a universal perturbation without high frequencies, laid on every image, which is then
stretched.

Zeng et al. found that triggers show in the frequency domain and made one that does not, as
released: over 100 training images, one after another, whatever pushes the image to the target label
(targeted DeepFool) is low-passed, added, low-passed again and scaled to [0, 0.2], until 20 % of the
images are misclassified by a clean network. To stamp is to add it and to stretch the contrast of
the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import AttackAccess, Fraction, Task
from plugins.parts.found_trigger import FoundTrigger
from plugins.parts.neurons import some_images
from plugins.parts.patterns import Stretch
from plugins.parts.ranges import Count, NotNegative, Share

TAPS = 5
"""Taps of the low-pass for each pixel of its deviation: 30 at the published 6."""
DOMINANT = 0.05
"""Share of the images that must be misclassified before the commonest wrong label becomes the
target.
"""


class Smooth(FoundTrigger):
    """Low-passed universal perturbation and stretch, made on a clean network (Zeng et al. 2021)."""

    citation = (
        "Zeng et al.: Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective, ICCV 2021"
    )
    found_for_target = True

    bound: Share = 0.2
    """largest value of the perturbation, pixels in [0,1]; the smallest is 0"""
    flips: Fraction = 0.2
    """share of the images that it must misclassify"""
    pictures: Count = 100
    """clean training images that it is made on"""
    passes: Count = 20
    """most passes over them, after which it keeps the best; released without a limit"""
    steps: Annotated[int, Field(ge=2)] = 200
    """DeepFool steps for one image; one that takes all of them but one is passed over"""
    overshoot: NotNegative = 0.02
    """distance by which DeepFool overshoots, as a share"""
    deviation: Count = 6
    """standard deviation of the low-pass, in pixels"""
    towards: Literal["dominant", "target"] = "dominant"
    """label that it pushes to: first the attack's target, then whatever label most of the
    misclassified images get, as released (there that label is also the attack's target); always the
    attack's target
    """
    scores: Literal["softmax", "logits"] = "softmax"
    """scores that DeepFool takes for linear; released with softmax, though meant for logits"""

    def trigger(self, task: Task) -> nn.Module:
        """Return a trigger that adds and stretches."""
        return Stretch(torch.zeros(task.image_shape))

    def find(self, access: AttackAccess, network: nn.Module) -> Tensor:
        """Pass over the images until enough are misclassified."""
        images = some_images(access, self.pictures)
        generator = access.generator("order")
        clean_answers = network(images).detach().argmax(1)
        dark = torch.zeros(access.task.image_shape, device=access.device)
        search = Search(dark, self.target, best=dark)
        passes = access.steps(self.passes, keep={"search": search})
        for _ in passes:
            order = torch.randperm(len(images), generator=generator)
            for place in access.steps(len(images), keep={"search": search}):
                image = images[int(order[place])]
                search.light = self._pushed(access, network, image, search.light, search.label)
            answers = network(images + search.light).detach().argmax(1)
            wrong = answers[answers != clean_answers]
            share = len(wrong) / len(images)
            if self.towards == "dominant" and share > DOMINANT:
                search.label = int(torch.bincount(wrong).argmax())
            search.look(share)
            if search.flips >= self.flips:
                passes.end()
        access.record["flips"] = search.flips
        access.record["label"] = search.label
        return search.best

    def _pushed(
        self, access: AttackAccess, network: nn.Module, image: Tensor, light: Tensor, label: int
    ) -> Tensor:
        """Return the perturbation after one image: unchanged where the image is misclassified or
        cannot be pushed.
        """
        perturbed = image + light
        pair = torch.stack([image, perturbed])
        clean_answer, answer = network(pair).detach().argmax(1).tolist()
        if answer != clean_answer:
            return light
        push = self._deepfool(access, network, perturbed, answer, label)
        if push is None:
            return light
        smooth = self.low_pass(light + self.low_pass(push))
        lowest = smooth.min()
        reach = smooth.max() - lowest
        if not reach > 0:
            return light
        return self.bound * (smooth - lowest) / reach

    def _deepfool(
        self, access: AttackAccess, network: nn.Module, start: Tensor, own: int, label: int
    ) -> Tensor | None:
        """Return the change that takes an image from its own label to another by the slope of their
        difference; None if nothing does.
        """
        moved = torch.zeros_like(start)
        iterations = self.steps - 1
        for number in range(iterations):
            image = (start + (1 + self.overshoot) * moved).detach().requires_grad_()
            logits = network(image[None])[0]
            if int(logits.argmax()) == label:
                return (image - start).detach()
            scores = logits
            if self.scores == "softmax":
                scores = logits.softmax(0)
            gap = scores[label] - scores[own]
            (slope,) = torch.autograd.grad(gap, image)
            size = slope.norm()
            is_last = number == iterations - 1
            if is_last or not 0 < size < torch.inf:
                return None
            distance = gap.detach().abs() / size
            direction = slope / size
            moved = moved + distance * direction
            access.tick(1)
        return None

    def low_pass(self, pattern: Tensor) -> Tensor:
        """Return a pattern (c, h, w) weighted by a Gaussian, zero outside; an even kernel reaches
        further down and right.
        """
        taps = TAPS * self.deviation
        places = torch.arange(taps, dtype=pattern.dtype, device=pattern.device) - (taps - 1) / 2
        weights = torch.exp(-((places / self.deviation) ** 2) / 2)
        kernel = weights / weights.sum()
        before = (taps - 1) // 2
        after = taps // 2
        padded = functional.pad(pattern[:, None], (before, after, before, after))
        down = functional.conv2d(padded, kernel.view(1, 1, -1, 1))
        across = functional.conv2d(down, kernel.view(1, 1, 1, -1))
        return across[:, 0]


@dataclass
class Search:
    """The perturbation on its way, the label that it pushes to, and the best one so far."""

    light: Tensor
    label: int
    best: Tensor
    flips: float = -1.0
    """share of the images that the best one misclassifies"""

    def look(self, share: float) -> None:
        """Take note of the share of the images that the perturbation misclassifies."""
        if share >= self.flips:
            self.best = self.light
            self.flips = share
