"""MOTH: move the classes of a network apart, by training on small patches between pairs of them.

Tao et al., S&P 2022 (Model Orthogonalization), as its code runs. After a warm-up on one universal
trigger a class, a pair of classes is hardened for a few steps at a time: two triggers are inverted
on images of the batch, one for each way; some images get them, keep their labels, and the network
makes a step on the batch. Pairs whose distance has grown most are taken most.

Three accidents of the released code are left out. It draws plain batches, in which pairs often have
too few images for a single stamp; here each batch holds enough of both classes. It keeps triggers
by the unordered pair and starts some searches from the wrong way's; here each way has its own. Its
second version leaves BatchNorm in evaluation mode by forgetting it, which is a choice here (`bn`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import Access, Part, Recipe, Result, Use, use
from plugins.parts.fine_tuning import Augmented
from plugins.parts.hardening_settings import HardeningSettings
from plugins.parts.inversion import Found, blend
from plugins.parts.pair_choice import Pair, Stored
from plugins.parts.pair_hardening import PairHardening, Way
from plugins.parts.pair_inversion import PairSettings, two_way
from plugins.parts.ranges import Count, Positive, Share
from plugins.parts.universal_triggers import Triggers


class MOTH(HardeningSettings, Augmented):
    """Enlarge the distance between pairs of classes (Tao et al. 2022)."""

    citation = (
        "Tao, Liu, Shen, Xu, An, Zhang, Zhang: Model Orthogonalization - Class Distance Hardening "
        "in Neural Networks for Better Security, S&P 2022"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "moth": {},
        "deck": {},
        # The released code has two versions, for Keras (the default here) and for torch.
        "torch": {
            "lr": 1e-4,
            "bn": "frozen",
            "again_steps": 50,
            "again_cost": 1e-2,
            "largest": 0.25,
        },
    }

    triggers: Use[Part] = use("universal-triggers", preset="moth")
    """part that inverts a trigger for each class; the released code inverts a class's on the
    network that the classes before it have warmed up
    """
    first_steps: Count = 200
    """steps of the inversion in the first step of a period"""
    first_cost: Positive = 1e-3
    """first weight of the mask's size, summed over the channels, against the sum of the
    cross-entropies, in the first step of a period
    """
    again_steps: Count = 40
    """steps of the inversion in later steps of a period"""
    again_cost: Positive = 0.2
    """the same weight there"""
    bound: Share = 0.9
    """share of the images that must get the label"""
    patience: Count = 10
    """successes, or failures, in a row after which the cost moves"""
    up: Annotated[float, Field(gt=1)] = 1.5
    """what the cost is multiplied by; it is divided by up^1.5"""
    inversion_lr: Positive = 0.1
    """learning rate of Adam, which inverts"""
    largest: Share = 1.0
    """share of the image above which a trigger is not stamped"""

    def defend(self, access: Access) -> Result:
        """Harden, and record how many periods there were and how many searches failed.

        Raises Incompatible where a class has no clean image.
        """
        model = access.victim()
        triggers = PatchTriggers(self, access, model, access.part("triggers"))
        hardening = PairHardening(
            self,
            access,
            model,
            access.clean(),
            Recipe(**self.augmentation(access.task)),
            triggers,
        )
        for _ in access.steps(self.steps, hardening.kept()):
            hardening.step()
        record = dict(hardening.record)
        record["distance"] = hardening.distance
        return Result(model=model.eval(), record=record)

    def inversion(self, again: bool) -> PairSettings:
        """Return the settings of an inversion, the first of a period or a later one."""
        return PairSettings(
            steps=self.again_steps if again else self.first_steps,
            cost=self.again_cost if again else self.first_cost,
            lr=self.inversion_lr,
            bound=self.bound,
            patience=self.patience,
            up=self.up,
        )


class PatchTriggers:
    """Generates patches: see `PairTriggers`."""

    def __init__(
        self, settings: MOTH, access: Access, model: nn.Module, universal: Triggers
    ) -> None:
        self.settings = settings
        self.access = access
        self.model = model
        self.universal_triggers = universal
        self.stored = Stored()
        self.now: dict[str, Any] = {"pair": [0, 0], "triggers": [None, None], "again": False}
        """The pair of the period, and the last trigger of each way in it."""
        self._start = access.generator("start")

    def kept(self) -> Mapping[str, object]:
        """See `PairTriggers`."""
        return {"stored": self.stored, "patches": self.now}

    def universal(self, target: int) -> Way:
        """See `PairTriggers`: the part's, whether it met its bound or not."""
        stamp = self.universal_triggers.trigger(target).to(self.access.device)
        return Way(stamp, self.access.task.channels * self.universal_triggers.norms[target])

    def begin(self, pair: Pair) -> None:
        """See `PairTriggers`."""
        self.now["pair"] = list(pair)
        self.now["triggers"] = [None, None]
        self.now["again"] = False

    def both(self, images: Tensor) -> list[Way]:
        """See `PairTriggers`: search both triggers, and record those that met the bound."""
        first, second = self.now["pair"]
        pair = (first, second)
        ways = (pair, (second, first))
        starts = [self._begin(number, way) for number, way in enumerate(ways)]
        masks = torch.stack([mask for mask, _ in starts])
        patterns = torch.stack([pattern for _, pattern in starts])
        settings = self.settings.inversion(self.now["again"])
        self.now["again"] = True
        found = two_way(
            self.access, self.model, images, pair, (masks, patterns), settings, self._start
        )
        for number, trigger in enumerate(found):
            if trigger.reached:
                self.stored.add(ways[number], trigger)
                self.now["triggers"][number] = [trigger.mask, trigger.pattern]
        return [self._way(trigger) for trigger in found]

    def _begin(self, number: int, way: Pair) -> tuple[Tensor, Tensor]:
        """Return where a search starts: at the period's last trigger of this way, else at the
        largest of all periods, else anywhere.
        """
        task = self.access.task
        mask = torch.rand(1, task.height, task.width, generator=self._start)
        pattern = torch.rand(task.image_shape, generator=self._start)
        last = self.now["triggers"][number]
        if last is not None:
            mask, pattern = last
        else:
            mask, pattern = self.stored.start(way, (mask, pattern))
        return mask.to(self.access.device), pattern.to(self.access.device)

    def _way(self, trigger: Found) -> Way:
        """Return what counts of a trigger: nothing of one that missed its bound."""
        if not trigger.reached:
            return Way(None, None)
        task = self.access.task
        distance = task.channels * trigger.size
        if trigger.size > self.settings.largest * task.height * task.width:
            return Way(None, distance)
        return Way(partial(blend, masks=trigger.mask, patterns=trigger.pattern), distance)
