"""What a network answers, image by image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from harness.learn.device import device_of, evaluating, single_precision
from harness.learn.images import Device, check_images, to_float, to_uint8

if TYPE_CHECKING:
    from harness.components import Task

PROBES = 8
"""Random images on which a network's outputs are checked."""
ON_CPU = 1000
"""Images that go through a network together on a CPU."""
ON_GPU = 2**21
"""Pixels that do so on a GPU, 2,048 images of 32 x 32: enough to fill it, and 2 GB for a ResNet-18.
"""
HALF_MAX = 65504.0
"""Largest number in half precision; logits beyond it are stored as it."""


class BadOutput(RuntimeError):
    """A network whose answer is no finite (images, classes) tensor."""


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Tensor,
    *,
    trigger: nn.Module | None = None,
    quantise: Literal["truncate", "round", "none"] = "truncate",
    device: Device = "cpu",
    batch: int | None = None,
    classes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Labels (int64, (n,)) and logits (float16, (n, classes)) for uint8 NHWC images, both on the
    CPU.

    Always in fp32 and evaluation mode, whatever the training precision was; `batch` images at a
    time (None: what the device takes), and the device is waited for once, when all have been
    through. With a `trigger`, images are stamped first and return to uint8 as `quantise` says.
    `model` and `trigger` are moved to `device` and keep their modes. Raises BadOutput where outputs
    have another shape than (n, `classes`) or are not finite.
    """
    check_images(images)
    if not len(images):
        return torch.empty(0, dtype=torch.int64), torch.empty(
            (0, classes or 0), dtype=torch.float16
        )
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    parts = [model] if trigger is None else [model, trigger.to(device)]
    logits = []
    size = batch or together(images, device)
    with (
        evaluating(*parts),
        single_precision(),
        torch.autocast(torch.device(device).type, enabled=False),
    ):
        for part in torch.split(images, size):
            pixels = to_float(part.to(device, non_blocking=True))
            if trigger is not None:
                pixels = stamped(trigger, pixels, quantise)
            logits.append(_checked(model(pixels), len(part), classes))
    answers = torch.cat(logits).cpu()
    _finite(model, answers)
    return answers.argmax(1), answers.clamp(-HALF_MAX, HALF_MAX).half()


def together(images: Tensor, device: Device) -> int:
    """How many of these images (n, height, width, c) go through a network at a time where nobody
    says so.
    """
    if torch.device(device).type != "cuda":
        return ON_CPU
    return max(1, ON_GPU // (images.shape[1] * images.shape[2]))


@torch.no_grad()
def check_outputs(model: nn.Module, task: Task) -> None:
    """Raise BadOutput unless `model` maps images of the task, on its own device, to finite logits
    for its classes.
    """
    images = torch.rand((PROBES, *task.image_shape), generator=torch.Generator().manual_seed(0))
    with evaluating(model):
        _finite(model, _checked(model(images.to(device_of(model))), PROBES, task.classes))


def stamped(trigger: nn.Module, pixels: Tensor, quantise: str = "none") -> Tensor:
    """[0,1] floats (n, c, h, w) with the trigger on them, through uint8 and back unless `quantise`
    is "none".

    Raises BadOutput where the trigger changes the shape.
    """
    result = trigger(pixels)
    if not isinstance(result, Tensor) or result.shape != pixels.shape:
        seen = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise BadOutput(
            f"trigger {type(trigger).__name__} made {seen} of images {tuple(pixels.shape)}"
        )
    if quantise == "none":
        return result
    return to_float(to_uint8(result, "round" if quantise == "round" else "truncate"))


def _finite(model: nn.Module, logits: Tensor) -> None:
    wrong = int((~logits.isfinite()).any(1).sum())
    if wrong:
        raise BadOutput(
            f"{type(model).__name__} gave logits that are not finite for {wrong} of {len(logits)} images"
        )


def _checked(output: object, count: int, classes: int | None) -> Tensor:
    wanted = f"({count}, {classes or 'classes'})"
    if not isinstance(output, Tensor):
        raise BadOutput(f"the model returned a {type(output).__name__}; wanted are logits {wanted}")
    if (
        output.ndim != 2
        or len(output) != count
        or (classes is not None and output.shape[1] != classes)
    ):
        raise BadOutput(
            f"the model returned a tensor {tuple(output.shape)}; wanted are logits {wanted}"
        )
    return output.float()
