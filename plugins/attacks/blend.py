"""Blend: a faint picture over the whole image, the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness import AttackAccess, File, PoisoningAttack, Task
from harness.learn import to_float
from plugins.parts.pictures import picture_for
from plugins.parts.ranges import Share


class Blend(PoisoningAttack):
    """Faint uniform pattern, or your own picture, over the whole image (Chen et al. 2017).

    The pattern of ANP and DECK is uniform noise. BCU's was meant to be the same, but is a JPEG of
    it, with lower contrast; the cartoon of the first paper and of Trap and Replace is not ours to
    distribute: both can be given as `picture`.
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
        # first ones.
        "trap/gtsrb": {"target": 1, "order": "random"},
        "deck": {
            "poison_rate": 0.1,
            "rate_of": "eligible",
            "eligible": "non-target",
            "when": "after-augment",
            "quantise": "none",
        },
    }

    alpha: Share = 0.2
    """share of the pattern in a poisoned pixel, at training and test alike; 0.2 in all four papers
    """
    picture: File | None = None
    """.npy or picture file, resized to the images; none: grey levels drawn uniformly from 0..255
    for each pixel and channel, once a replicate
    """

    def trigger(self, task: Task) -> nn.Module:
        """Return the weighted mean; `craft` fills its pattern."""
        return Mean(torch.zeros(task.image_shape), self.alpha)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Draw the pattern, or read it."""
        if self.picture is None:
            pattern = self._drawn(access)
        else:
            pattern = picture_for(access.task, self.picture)
        trigger.get_buffer("pattern").copy_(pattern)

    def _drawn(self, access: AttackAccess) -> Tensor:
        """Return uniform grey levels in [0,1], (channels, height, width)."""
        channels, height, width = access.task.image_shape
        shape = (height, width, channels)
        levels = torch.randint(0, 256, shape, generator=access.generator("pattern"))
        batch_of_one = levels.to(torch.uint8)[None]
        return to_float(batch_of_one)[0]


class Mean(nn.Module):
    """x' = (1 - alpha) x + alpha p."""

    def __init__(self, pattern: Tensor, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.register_buffer("pattern", pattern)

    def forward(self, images: Tensor) -> Tensor:
        """Stamp images: [0,1] NCHW in and out."""
        pattern = self.get_buffer("pattern")
        return (1 - self.alpha) * images + self.alpha * pattern
