"""Unlearning after a verdict: train the model to give images with inverted triggers true labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from harness import Access
from harness.learn import Batch, ImageSet, stamping_hook
from plugins.parts.fine_tuning import FineTuning
from plugins.parts.ranges import Count, CountOrZero, Share


class Unlearning(FineTuning):
    """A defense that judges a model by inverted triggers, and fine-tunes on images with them."""

    epochs: CountOrZero = 1
    """passes over the clean images; one in Neural Cleanse and in DECK's comparison"""
    batch: Count = 32
    """images a step"""
    unlearn: Literal["flagged", "always", "never"] = "flagged"
    """which triggers are unlearned: those that the verdict names; where it names none, the
    likeliest one all the same; none at all: a verdict without a model
    """
    stamped: Share = 0.2
    """share of the clean images that carries a trigger, with the true labels; each trigger has its
    own share as far as the images last
    """
    append: bool = False
    """keep those images without the trigger too, and let each trigger's share be drawn from all of
    them
    """

    @property
    def gives_model(self) -> bool:
        """Without unlearning the verdict is all."""
        return self.unlearn != "never"

    def unused(self) -> Mapping[str, str]:
        """Name the settings of an unlearning that never happens."""
        if self.unlearn != "never":
            return super().unused()
        return dict.fromkeys([*FineTuning.model_fields, "stamped", "append"], 'unlearn = "never"')

    def mended(
        self, access: Access, named: Sequence[nn.Module], likeliest: Sequence[nn.Module]
    ) -> nn.Module | None:
        """Return the victim without the triggers of its verdict.

        It is as it was where there are none to unlearn, and None for unlearn = "never".
        """
        if self.unlearn == "never":
            return None
        model = access.victim()
        chosen = list(named)
        if not chosen and self.unlearn == "always":
            chosen = list(likeliest)
        if not chosen:
            return model
        clean = access.clean()
        order = torch.randperm(len(clean), generator=access.generator("stamped"))
        data, carriers = self.lesson(clean, len(chosen), order)
        assert data.labels is not None
        hooks: list[Callable[[Batch], Batch]] = []
        for trigger, carrying in zip(chosen, carriers, strict=True):
            hooks.append(stamping_hook(trigger.to(access.device), carrying, data.labels))

        def stamp(batch: Batch) -> Batch:
            for hook in hooks:
                batch = hook(batch)
            return batch

        # After crop and flip, which would move an inverted trigger or cut it off: it lies in one
        # place.
        access.fit(model, data, self.tuning(access), after_augment=stamp)
        return model

    def lesson(self, data: ImageSet, triggers: int, order: Tensor) -> tuple[ImageSet, list[Tensor]]:
        """Return the images to train on, and for each trigger which of them carry it, boolean (n,).

        `order` (int64, as many as `data`) is the order in which images are taken.
        """
        count = max(1, round(self.stamped * len(data)))
        if self.append:
            # plain images first, then a share of copies for each trigger
            places = torch.arange(len(data), len(data) + triggers * count)
            copies = data.subset(order[:count])
            for _ in range(triggers):
                data = data.join(copies)
        else:
            count = min(count, len(data) // triggers)
            places = order
        carriers: list[Tensor] = []
        for number in range(triggers):
            share = places[number * count : (number + 1) * count]
            carrying = torch.zeros(len(data), dtype=torch.bool)
            carriers.append(carrying.index_fill(0, share, True))
        return data, carriers
