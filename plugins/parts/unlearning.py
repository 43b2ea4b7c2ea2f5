"""What follows a verdict: train the model to give its true labels to images with the inverted trigger on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.access import Access
from harness.learn.images import ImageSet
from harness.learn.poisoning import stamp
from plugins.parts.fine_tuning import FineTuning


class Unlearning(FineTuning):
    """A defense that judges a model by inverted triggers, and fine-tunes on clean images that carry them."""

    epochs: Annotated[int, Field(ge=0)] = 1
    """passes over the clean images; one in Neural Cleanse and in DECK's comparison"""
    batch: Annotated[int, Field(ge=1)] = 32
    """images a step"""
    unlearn: Literal["flagged", "always", "never"] = "flagged"
    """which triggers are unlearned: those that the verdict names; where it names none, the likeliest one all the same;
    none at all: a verdict without a model"""
    stamped: Annotated[float, Field(gt=0, le=1)] = 0.2
    """share of the clean images that carries a trigger, with the true labels; each trigger has its own share as far as
    the images last"""
    append: bool = False
    """keep those images without the trigger too, and let each trigger's share be drawn from all of them"""

    def mended(self, access: Access, named: Sequence[nn.Module], likeliest: Sequence[nn.Module]) -> nn.Module | None:
        """The victim without the triggers of its verdict: as it is where there are none, None for unlearn = "never"."""
        if self.unlearn == "never":
            return None
        model = access.victim()
        chosen = list(named) or (list(likeliest) if self.unlearn == "always" else [])
        if chosen:
            data = access.clean()
            order = torch.randperm(len(data), generator=access.generator("stamped"))
            access.fit(model, self.lesson(data, chosen, order), self.tuning(access))
        return model

    def lesson(self, data: ImageSet, triggers: Sequence[nn.Module], order: Tensor) -> ImageSet:
        """The clean images with the triggers on shares of them; `order` (n,) is the order in which they are taken."""
        count = max(1, round(self.stamped * len(data)))
        if self.append:
            for trigger in triggers:
                chosen = data.subset(order[:count])
                data = data.join(ImageSet(stamp(trigger, chosen.images, "round"), chosen.labels))
            return data
        images, count = data.images.clone(), min(count, len(data) // len(triggers))
        for place, trigger in enumerate(triggers):
            mine = order[place * count : (place + 1) * count]
            images[mine] = stamp(trigger, images[mine], "round")
        return ImageSet(images, data.labels)
