"""What follows a verdict: train the model to give its true labels to images with the inverted
trigger on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import Access
from harness.learn import Batch, ImageSet, stamping_hook
from plugins.parts.fine_tuning import FineTuning


class Unlearning(FineTuning):
    """A defense that judges a model by inverted triggers, and fine-tunes on clean images that carry
    them.
    """

    epochs: Annotated[int, Field(ge=0)] = 1
    """passes over the clean images; one in Neural Cleanse and in DECK's comparison"""
    batch: Annotated[int, Field(ge=1)] = 32
    """images a step"""
    unlearn: Literal["flagged", "always", "never"] = "flagged"
    """which triggers are unlearned: those that the verdict names; where it names none, the
    likeliest one all the same; none at all: a verdict without a model
    """
    stamped: Annotated[float, Field(gt=0, le=1)] = 0.2
    """share of the clean images that carries a trigger, with the true labels; each trigger has its
    own share as far as the images last
    """
    append: bool = False
    """keep those images without the trigger too, and let each trigger's share be drawn from all of
    them
    """

    def mended(
        self, access: Access, named: Sequence[nn.Module], likeliest: Sequence[nn.Module]
    ) -> nn.Module | None:
        """The victim without the triggers of its verdict: as it is where there are none, None for
        unlearn = "never".
        """
        if self.unlearn == "never":
            return None
        model = access.victim()
        chosen = list(named) or (list(likeliest) if self.unlearn == "always" else [])
        if chosen:
            data = access.clean()
            order = torch.randperm(len(data), generator=access.generator("stamped"))
            data, carried = self.lesson(data, len(chosen), order)
            assert data.labels is not None
            hooks = [
                stamping_hook(trigger.to(access.device), mask, data.labels)
                for trigger, mask in zip(chosen, carried, strict=True)
            ]

            def stamp(batch: Batch) -> Batch:
                for hook in hooks:
                    batch = hook(batch)
                return batch

            # After crop and flip: what is inverted lies where it lies, and would be moved or cut
            # off by them.
            access.fit(model, data, self.tuning(access), after_augment=stamp)
        return model

    def lesson(self, data: ImageSet, triggers: int, order: Tensor) -> tuple[ImageSet, list[Tensor]]:
        """What is trained on, and for each trigger which of it carries that, boolean (n,).

        `order` (int64, as many as `data`) is the order in which images are taken.
        """
        count = max(1, round(self.stamped * len(data)))
        if self.append:
            first, copies = len(data), data.subset(order[:count])
            for _ in range(triggers):
                data = data.join(copies)
            shares = [
                torch.arange(first + n * count, first + (n + 1) * count) for n in range(triggers)
            ]
        else:
            count = min(count, len(data) // triggers)
            shares = [order[n * count : (n + 1) * count] for n in range(triggers)]
        return data, [
            torch.zeros(len(data), dtype=torch.bool).index_fill(0, share, True) for share in shares
        ]
