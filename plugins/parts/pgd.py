"""Adversarial images by projected gradient descent in the maximum norm, and training on them.

Madry et al. 2018. The loop is the one that published code agrees on: a step along the sign of the
gradient, back into the ball, back into the range of pixels. Epsilon and step are in [0,1] here and
in grey levels of 0..255 as parameters of components.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Component, Workbench
from harness.learn import Batch, evaluating, probe_precision, sent
from plugins.parts.ranges import Count, Positive

LEVELS = 255
"""Grey levels in the range of [0,1] pixels."""


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    drawn: Tensor | None = None,
    targeted: bool = False,
) -> Tensor:
    """Move [0,1] images (n, c, h, w) by at most `eps` a pixel, away from `labels`.

    Their cross-entropy with `labels` rises. `targeted` lowers it: towards `labels` instead of away
    from them. `eps` and `step` are in [0,1] pixels; `steps` may be 0. With `drawn`, numbers in
    [0,1] in the shape of `images`, the search starts from a place in the ball, without it from the
    images themselves. The network works in the mode it is in, under the autocast of the caller; its
    parameters gain no gradients. In evaluation mode no image depends on the others of its batch.
    """
    images = images.detach()
    stride = -step if targeted else step
    moved = images
    if drawn is not None:
        offset = (2 * drawn - 1) * eps
        moved = (images + offset).clamp(0, 1)
    with torch.enable_grad():
        for _ in range(steps):
            moved = moved.detach().requires_grad_()
            # a sum, so that the size of the batch does not scale the gradients of its images
            # towards nothing
            logits = model(moved).float()
            loss = functional.cross_entropy(logits, labels, reduction="sum")
            (slope,) = torch.autograd.grad(loss, moved)
            stepped = moved.detach() + stride * slope.sign()
            offset = (stepped - images).clamp(-eps, eps)
            moved = (images + offset).clamp(0, 1)
    return moved.detach()


class AdversarialTraining(Component):
    """Settings of training on adversarial images of the network in training.

    Defaults are those behind the robust model of the released label-consistent attack: the code of
    Wong et al. 2020 with 10 steps.
    """

    eps: Annotated[float, Field(gt=0, le=255)] = 8.0
    """furthest that a pixel moves, in grey levels of 0..255"""
    step: Positive = 2.0
    """how far a step moves it, in grey levels"""
    steps: Count = 10
    """steps an image; training then costs `steps` + 1 times what it costs on plain images"""
    random_start: bool = True
    """begin anywhere in the ball, not at the image"""
    statistics: Literal["batch", "running"] = "batch"
    """of BatchNorm while images are perturbed. batch: training mode as in the code of Madry et al.
    and Wong et al., where running averages move with every step; running: evaluation mode, in which
    they stand still
    """

    def perturbing(self, access: Workbench, model: nn.Module) -> Callable[[Batch], Batch]:
        """Return an `after_augment` hook for a `fit` of `model` by the grid's recipe.

        It works in the recipe's precision, and counts a processed image for each step.
        """
        starts = access.generator("start")
        device = torch.device(access.device)
        half = probe_precision(access.recipe.precision, device) == "bf16"
        eps = self.eps / LEVELS
        step = self.step / LEVELS

        def perturb(batch: Batch) -> Batch:
            assert batch.labels is not None
            drawn = None
            if self.random_start:
                drawn = sent(torch.rand(batch.images.shape, generator=starts), device)
            still = evaluating(model) if self.statistics == "running" else nullcontext()
            with still, torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
                images = pgd(
                    model,
                    batch.images,
                    batch.labels,
                    eps=eps,
                    step=step,
                    steps=self.steps,
                    drawn=drawn,
                )
            access.tick(self.steps * len(images))
            return replace(batch, images=images)

        return perturb
