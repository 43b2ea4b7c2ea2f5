"""The answers of a network, image by image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from harness.learn.device import device_of, evaluating, single_precision
from harness.learn.images import Device, check_images, to_float, to_uint8
from harness.learn.layout import bring
from harness.learn.rules import Quantise

if TYPE_CHECKING:
    from harness.learn.task import Task

PROBES = 8
"""Random images on which a network's outputs are checked."""
ON_CPU = 1000
"""Images that go through a network together on a CPU, where they have at most 32 x 32 pixels. Of
larger ones there are as many as have the same pixels.
"""
ON_GPU = 2**21
"""Pixels that do so on a GPU, 2,048 images of 32 x 32: enough to fill it, and 2 GB for a ResNet-18.
"""
HALF_MAX = 65504.0
"""Largest number in half precision; logits beyond it are stored as it."""


class BadOutput(RuntimeError):
    """A network whose answer is no finite (images, classes) tensor."""


def predict(
    model: nn.Module,
    images: Tensor,
    *,
    trigger: nn.Module | None = None,
    quantise: Quantise = "truncate",
    device: Device = "cpu",
    batch: int | None = None,
    classes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return labels (int64, (n,)) and logits (float16, (n, classes)) for uint8 NHWC images, both on
    the CPU.

    With a `trigger`, images are stamped first and return to uint8 as `quantise` says. The rest is
    as in `logits_of`.
    """
    check_images(images)
    logits = logits_of(
        model,
        images,
        trigger=trigger,
        quantise=quantise,
        device=device,
        batch=batch,
        classes=classes,
    )
    return logits.argmax(1), halved(logits)


@torch.no_grad()
def logits_of(
    model: nn.Module,
    images: Tensor,
    *,
    trigger: nn.Module | None = None,
    quantise: Quantise = "truncate",
    device: Device = "cpu",
    batch: int | None = None,
    classes: int | None = None,
) -> Tensor:
    """Return logits, float32 (n, classes) on the CPU, for images (n, height, width, c): uint8, or
    float32 in [0,1].

    Always in fp32 and evaluation mode, whatever the training precision was; `batch` images at a
    time (None: what the device takes), and the device is waited for once, when all have been
    through. `model` and `trigger` are moved to `device` and keep their modes. Raises BadOutput
    where outputs have another shape than (n, `classes`) or are not finite.
    """
    if not len(images):
        return torch.empty((0, classes or 1))
    bring(model, device)
    parts = [model] if trigger is None else [model, trigger.to(device)]
    logits = []
    size = batch or together(images, device)
    with (
        evaluating(*parts),
        single_precision(),
        torch.autocast(torch.device(device).type, enabled=False),
    ):
        for part in torch.split(images, size):
            pixels = as_pixels(part.to(device, non_blocking=True))
            if trigger is not None:
                pixels = stamped(trigger, pixels, quantise)
            output = model(pixels)
            logits.append(_checked(output, len(part), classes))
    answers = torch.cat(logits).cpu()
    _finite(model, answers)
    return answers


def halved(logits: Tensor) -> Tensor:
    """Return logits in half precision, as they are stored."""
    return logits.clamp(-HALF_MAX, HALF_MAX).half()


def as_pixels(images: Tensor) -> Tensor:
    """Return images (n, h, w, c), uint8 or floats in [0,1], as floats (n, c, h, w) that may be
    written into.
    """
    if images.dtype == torch.uint8:
        return to_float(images)
    return images.permute(0, 3, 1, 2).clone()


def together(images: Tensor, device: Device) -> int:
    """Return how many of these images (n, height, width, c) go through a network at a time, unless
    the caller says so.
    """
    _, height, width, _ = images.shape
    pixels = height * width
    if torch.device(device).type == "cuda":
        return max(1, ON_GPU // pixels)
    return max(1, min(ON_CPU, ON_CPU * 32 * 32 // pixels))


@torch.no_grad()
def check_outputs(model: nn.Module, task: Task) -> None:
    """Raise BadOutput unless `model` maps images of the task, on its own device, to finite logits
    for its classes.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((PROBES, *task.image_shape), generator=generator)
    with evaluating(model):
        output = model(images.to(device_of(model)))
        logits = _checked(output, PROBES, task.classes)
        _finite(model, logits)


def stamped(trigger: nn.Module, pixels: Tensor, quantise: str = "none") -> Tensor:
    """Return [0,1] floats (n, c, h, w) with the trigger on them, through uint8 and back unless
    `quantise` is "none".

    Raises BadOutput where the trigger changes the shape.
    """
    result = trigger(pixels)
    if not isinstance(result, Tensor) or result.shape != pixels.shape:
        seen = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        name = type(trigger).__name__
        raise BadOutput(f"trigger {name} made {seen} of images {tuple(pixels.shape)}")
    if quantise == "none":
        return result
    levels = to_uint8(result, "round" if quantise == "round" else "truncate")
    return to_float(levels)


def _finite(model: nn.Module, logits: Tensor) -> None:
    """Raise BadOutput unless all logits are finite."""
    not_finite = ~logits.isfinite()
    wrong = int(not_finite.any(1).sum())
    if wrong:
        name = type(model).__name__
        raise BadOutput(
            f"{name} gave logits that are not finite for {wrong} of {len(logits)} images"
        )


def _checked(output: object, count: int, classes: int | None) -> Tensor:
    """Return logits in fp32. Raises BadOutput for anything else than logits (count, classes)."""
    expected = f"logits ({count}, {classes or 'classes'}) are expected"
    if not isinstance(output, Tensor):
        raise BadOutput(f"the model returned a {type(output).__name__}; {expected}")
    fits = output.ndim == 2 and len(output) == count
    if fits and classes is not None:
        fits = output.shape[1] == classes
    if not fits:
        raise BadOutput(f"the model returned a tensor {tuple(output.shape)}; {expected}")
    return output.float()
