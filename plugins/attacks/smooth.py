"""Smooth: a universal perturbation without high frequencies, laid on every image, which is then
stretched.

Zeng et al. found that triggers show in the frequency domain and made one that does not, as
released: over 100 training images, one after another, whatever pushes the image to the target label
(targeted DeepFool) is low-passed, added, low-passed again and scaled to [0, 0.2], until 20 % of the
images are misclassified by a clean network. To stamp is to add it and to stretch the contrast of
the result.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import AttackAccess, Task
from plugins.parts.found_trigger import FoundTrigger
from plugins.parts.neurons import some_images
from plugins.parts.patterns import Stretch

TAPS = 5
"""Taps of the low-pass for each pixel of its deviation: 30 at the published 6."""
DOMINANT = 0.05
"""Share of the images that must be misclassified before the commonest wrong label becomes the
target.
"""


class Smooth(FoundTrigger):
    """Low-passed universal perturbation with a contrast stretch, made on a clean network (Zeng et
    al. 2021).
    """

    citation = (
        "Zeng et al.: Rethinking the Backdoor Attacks' Triggers: A Frequency Perspective, ICCV 2021"
    )

    bound: Annotated[float, Field(gt=0, le=1)] = 0.2
    """largest value of the perturbation, pixels in [0,1]; the smallest is 0"""
    flips: Annotated[float, Field(ge=0, le=1)] = 0.2
    """share of the images that it must misclassify"""
    pictures: Annotated[int, Field(ge=1)] = 100
    """clean training images that it is made on"""
    passes: Annotated[int, Field(ge=1)] = 20
    """how often it goes through them at most, and then keeps the best; released without a limit"""
    steps: Annotated[int, Field(ge=2)] = 200
    """DeepFool steps for one image; one that takes all of them but one is passed over"""
    overshoot: Annotated[float, Field(ge=0)] = 0.02
    """what DeepFool goes too far, as a share"""
    deviation: Annotated[int, Field(ge=1)] = 6
    """standard deviation of the low-pass, in pixels"""
    towards: Literal["dominant", "target"] = "dominant"
    """where it pushes: from the attack's target on to whatever label most of the misclassified
    images get, as released (there that label is also the attack's target); always to the attack's
    target
    """
    scores: Literal["softmax", "logits"] = "softmax"
    """what DeepFool takes for linear; released with softmax, though meant for logits"""

    def trigger(self, task: Task) -> nn.Module:
        """Add and stretch."""
        return Stretch(torch.zeros(task.image_shape))

    def find(self, access: AttackAccess, network: nn.Module) -> Tensor:
        """Passes over the images until enough are misclassified."""
        images = some_images(access, self.pictures)
        generator = access.generator("order")
        clean = network(images).detach().argmax(1)
        light = torch.zeros(access.task.image_shape, device=access.device)
        best, most, label = light, -1.0, self.target
        for number in range(self.passes):
            for index in torch.randperm(len(images), generator=generator).tolist():
                light = self._pushed(access, network, images[index], light, label)
                access.tick(0, number, self.passes)
            found = network(images + light).detach().argmax(1)
            wrong = found[found != clean]
            share = len(wrong) / len(images)
            if self.towards == "dominant" and share > DOMINANT:
                label = int(torch.bincount(wrong).argmax())
            if share >= most:
                best, most = light, share
            if most >= self.flips:
                break
        access.record.update(flips=most, label=label)
        return best

    def _pushed(
        self, access: AttackAccess, network: nn.Module, image: Tensor, light: Tensor, label: int
    ) -> Tensor:
        """The perturbation after one image: unchanged where the image is misclassified or cannot be
        pushed.
        """
        pair = torch.stack([image, image + light])
        clean, found = network(pair).detach().argmax(1).tolist()
        if clean != found:
            return light
        push = self._deepfool(access, network, image + light, found, label)
        if push is None:
            return light
        smooth = self.low_pass(light + self.low_pass(push))
        reach = smooth.max() - smooth.min()
        return self.bound * (smooth - smooth.min()) / reach if reach > 0 else light

    def _deepfool(
        self, access: AttackAccess, network: nn.Module, start: Tensor, own: int, label: int
    ) -> Tensor | None:
        """What takes an image from its own label to another by the slope of their difference; None
        if nothing does.
        """
        moved = torch.zeros_like(start)
        for left in reversed(range(self.steps - 1)):
            image = (start + (1 + self.overshoot) * moved).detach().requires_grad_()
            logits = network(image[None])[0]
            if int(logits.argmax()) == label:
                return (image - start).detach()
            scores = logits.softmax(0) if self.scores == "softmax" else logits
            gap = scores[label] - scores[own]
            (slope,) = torch.autograd.grad(gap, image)
            size = slope.norm()
            if not left or not 0 < size < torch.inf:
                return None
            moved = moved + gap.detach().abs() / size * (slope / size)
            access.tick(1)
        return None

    def low_pass(self, pattern: Tensor) -> Tensor:
        """A pattern (c, h, w) weighted by a Gaussian, zero outside; an even kernel reaches further
        down and right.
        """
        taps = TAPS * self.deviation
        places = torch.arange(taps, dtype=pattern.dtype, device=pattern.device) - (taps - 1) / 2
        kernel = torch.exp(-((places / self.deviation) ** 2) / 2)
        kernel = kernel / kernel.sum()
        near, far = (taps - 1) // 2, taps // 2
        padded = functional.pad(pattern[:, None], (near, far, near, far))
        return functional.conv2d(
            functional.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1)
        )[:, 0]
