"""Blend: a faint picture over the whole image, the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import AttackAccess, File, PoisoningAttack, Task
from harness.learn import to_float
from plugins.parts.pictures import picture_for


class Blend(PoisoningAttack):
    """Faint uniform pattern, or a picture of one's own, over the whole image (Chen et al. 2017).

    The pattern of ANP and DECK is uniform noise. BCU's was meant to be and is a JPEG of it, with
    lower contrast; the cartoon of the first paper and of Trap and Replace is nobody's to ship: both
    can be given as `picture`.
    """

    citation = (
        "Chen et al.: Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning, 2017"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "anp": {"poison_rate": 0.05, "rate_of": "eligible", "eligible": "non-target"},
        "bcu": {"poison_rate": 0.1},
        "bcu/gtsrb": {"target": 2},  # the largest class: the paper takes the largest ones in turn
        "trap": {"poison_rate": 0.1, "eligible": "non-target", "order": "first"},
        # Trap and Replace shuffles GTSRB, whose images come class by class, before it takes the
        # first.
        "trap/gtsrb": {"target": 1, "order": "random"},
        "deck": {
            "poison_rate": 0.1,
            "rate_of": "eligible",
            "eligible": "non-target",
            "when": "after-augment",
            "quantise": "none",
        },
    }

    alpha: Annotated[float, Field(gt=0, le=1)] = 0.2
    """share of the pattern in a poisoned pixel, at training and test alike; 0.2 in all four papers
    """
    picture: File | None = None
    """.npy or picture file, resized to the images; none: grey levels drawn uniformly from 0..255
    for each pixel and channel, once a replicate
    """

    def trigger(self, task: Task) -> nn.Module:
        """The weighted mean; `craft` fills its pattern."""
        return Mean(torch.zeros(task.image_shape), self.alpha)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Draw the pattern, or read it."""
        channels, height, width = access.task.image_shape
        if self.picture is None:
            drawn = torch.randint(
                0, 256, (height, width, channels), generator=access.generator("pattern")
            )
            pattern = to_float(drawn.to(torch.uint8)[None])[0]
        else:
            pattern = picture_for(access.task, self.picture)
        trigger.get_buffer("pattern").copy_(pattern)


class Mean(nn.Module):
    """x' = (1 - alpha) x + alpha p."""

    def __init__(self, pattern: Tensor, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.register_buffer("pattern", pattern)

    def forward(self, images: Tensor) -> Tensor:
        """[0,1] NCHW in and out."""
        return (1 - self.alpha) * images + self.alpha * self.get_buffer("pattern")
