"""Neural Attention Distillation: fine-tune the victim towards the attention of a fine-tuned copy of
itself.

Li et al., ICLR 2021, as released: three stages, maps of squared activations, teacher frozen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Access, Defense, Incompatible, Rates, Schedule, Use, use
from harness.learn import Batch
from plugins.parts.fine_tuning import NAD_CUTOUT, NAD_RATES, FineTuning
from plugins.parts.ranges import Count, CountOrZero, NotNegative, Positive
from plugins.parts.watched import watched

EPS = 1e-6
"""Added to norms, so that a map of zeros is not divided by zero; the released code's value."""


class NAD(FineTuning):
    """Distil the attention maps of a fine-tuned teacher (Li et al. 2021)."""

    citation = (
        "Li et al.: Neural Attention Distillation - Erasing Backdoor Triggers from DNNs, ICLR 2021"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nad": {},
        # As published, on backdoored networks and on those without a backdoor.
        "deck": {},
        "bcu": {
            "epochs": 100,
            "lr": 0.01,
            "batch": 256,
            "nesterov": False,
            "weight_decay": 5e-4,
            "schedule": "cosine",
            "rates": (),
            "cutout": 0,
            "teacher": {"name": "ft", "epochs": 10, "horizon": 100.0},
        },
    }

    epochs: CountOrZero = 20
    """passes over the clean images"""
    batch: Count = 64
    """images a step"""
    nesterov: bool = True
    """look ahead, of SGD"""
    weight_decay: NotNegative = 1e-4
    """on all parameters, biases and normalisation included"""
    schedule: Schedule = "table"
    """of the learning rate; table: the last rate of `rates` begun; piecewise: straight lines
    between them
    """
    rates: Rates = NAD_RATES
    """of table and piecewise: (epoch, learning rate), ascending; `lr` is not used then"""
    cutout: CountOrZero = NAD_CUTOUT
    """side of the square that is blanked, in pixels"""

    teacher: Use[Defense] = use("ft", preset="nad")
    """defense that makes the teacher from the victim"""
    betas: Annotated[tuple[float, ...], Field(strict=False, min_length=1)] = (500.0, 1000.0, 1000.0)
    """weight of each stage's attention loss, shallow to deep; the last stages of the net are used,
    and its stem where they are one too few
    """
    power: Positive = 2.0
    """p in the attention map, the sum over channels of |activation|^p"""

    def defend(self, access: Access) -> nn.Module:
        """Train with the cross-entropy on clean labels plus the weighted attention losses."""
        student = access.victim()
        teacher = access.part("teacher")
        anatomy = access.anatomy(student)
        # Network in Network has three parts that give maps, of which the first is its stem.
        stages = (anatomy.stem, *anatomy.stages)[-len(self.betas) :]
        if len(stages) < len(self.betas):
            raise Incompatible(
                f"{len(self.betas)} betas, but the net has {len(stages)} parts: its stem and stages"
            )
        teacher.requires_grad_(False)
        with watched(student, stages) as mine, watched(teacher, stages) as theirs:

            def loss(model: nn.Module, batch: Batch) -> Tensor:
                assert batch.labels is not None
                logits = model(batch.images).float()
                total = functional.cross_entropy(logits, batch.labels)
                with torch.no_grad():
                    teacher(batch.images)
                for beta, stage in zip(self.betas, stages, strict=True):
                    student_maps = mine[stage].float()
                    teacher_maps = theirs[stage].float()
                    total = total + beta * attention_loss(student_maps, teacher_maps, self.power)
                return total

            access.fit(student, access.clean(), self.tuning(access), loss=loss)
        return student


def attention_map(activations: Tensor, power: float = 2.0) -> Tensor:
    """Sum |a|^p over channels and divide by the norm over space: (n, c, h, w) to (n, h, w).

    Raises Incompatible for activations that are no maps, as those of fully connected nets and
    transformers.
    """
    if activations.ndim != 4:
        raise Incompatible(
            "attention is over maps (n, c, h, w), but a stage of the net gives "
            f"{tuple(activations.shape)}"
        )
    summed = activations.abs().pow(power).sum(1)
    norm: Tensor = torch.linalg.vector_norm(summed, dim=(1, 2), keepdim=True)
    return summed / (norm + EPS)


def attention_loss(student: Tensor, teacher: Tensor, power: float = 2.0) -> Tensor:
    """Return the mean squared difference of the maps, over images and positions.

    Maps have unit norm, so the same beta weighs a 4x4 map 64 times as much as a 32x32 one; the
    published betas come with the published stage sizes.
    """
    return functional.mse_loss(attention_map(student, power), attention_map(teacher, power))
