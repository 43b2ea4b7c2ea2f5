"""DECK's hardening: pairs of classes are moved apart by pervasive backdoors between them.

Tao et al., NDSS 2024, section IV: "DECK follows a similar training procedure as in MOTH by
proactively selecting a promising pair (with the largest distance enlargement)", and backdoors "are
continuously generated with respect to the current state of the model". No code is published; what
the text leaves open is MOTH's, or a choice that its field names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from harness import Fraction, Recipe, Workbench
from harness.learn import ImageSet
from plugins.parts.codec import Codec
from plugins.parts.hardening_settings import HardeningSettings
from plugins.parts.pair_choice import Pair
from plugins.parts.pair_hardening import PairHardening, Way
from plugins.parts.per_class import some_of_each
from plugins.parts.pervasive import standardised
from plugins.parts.pervasive_backdoors import Pervasive
from plugins.parts.pervasive_search import Lot, Search
from plugins.parts.pervasive_settings import PervasiveSettings
from plugins.parts.ranges import Count, Share
from plugins.parts.vgg_block import LEVELS


class PervasiveHardeningSettings(HardeningSettings, PervasiveSettings):
    """Settings of DECK's hardening and of the backdoors that it generates.

    The loss and its weights are the paper's; `steps`, `lr`, the optimiser and the choice of pairs
    are MOTH's, which the paper says it follows.
    """

    batch: Count = 128
    """images of a training step; a step of the generation takes all that the batch has of a class
    """
    of_pair: Count = 16
    """images of each class of the pair in a batch, of a smaller class all: our choice"""
    stamped: Share = 0.5
    """share of these that get a backdoor, at least one of each class: our choice"""

    warm_per_class: Count = 10
    """images of each other class that a universal backdoor of the warm-up is generated on, as many
    as MOTH takes
    """
    warm_epochs: Count = 40
    """passes over them: our choice"""
    first_epochs: Count = 40
    """steps of the generation in the first step of a period: our choice, a fifth of MOTH's, since a
    pair goes on from where it was left
    """
    again_epochs: Count = 10
    """steps of the generation in later steps of a period, a quarter as in MOTH"""
    least: Fraction = 0.5
    """share of the images that a backdoor must turn to be trained on; distances count from `bound`
    on, which is what MOTH asks for both. Our choice
    """


def pervasive_hardening(
    settings: PervasiveHardeningSettings,
    access: Workbench,
    model: nn.Module,
    codec: Codec,
    data: ImageSet,
    recipe: Recipe,
) -> PairHardening:
    """Return the hardening of a network, which `step` trains in place, on labelled images.

    `recipe` says how images are augmented. Raises Incompatible where a class has no image, or where
    the features of these images do not fall into `settings.z` x `settings.z` regions.
    """
    triggers = PervasiveTriggers(settings, access, model, codec, data)
    return PairHardening(settings, access, model, data, recipe, triggers)


@dataclass(frozen=True)
class Generated:
    """The end of a search: parameters of the backdoor, its distance whatever it turns, and what
    counts of it.
    """

    parameters: list[Tensor]
    distance: float
    way: Way


class PervasiveTriggers:
    """Generates DECK's backdoors: see `PairTriggers`."""

    def __init__(
        self,
        settings: PervasiveHardeningSettings,
        access: Workbench,
        model: nn.Module,
        codec: Codec,
        data: ImageSet,
    ) -> None:
        self.settings = settings
        self.access = access
        self.model = model
        self.data = data
        self.codec = codec.requires_grad_(False)
        self.codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        shrinks = codec.encoder.shrinks
        side = (access.task.height // shrinks, access.task.width // shrinks)
        self.backdoor = Pervasive(settings, codec, side)
        self.stored: dict[str, list[Tensor]] = {}
        """Parameters with which the last search of each ordered pair ended, on the CPU."""
        self.now: dict[str, int] = {"searches": 0, "source": 0, "other": 0, "place": 0}
        """Searches so far; the pair of the period, and how often it was searched."""
        self._warm = access.generator("warm-up")
        self._draws = access.generator("decoder")

    def kept(self) -> Mapping[str, object]:
        """See `PairTriggers`."""
        return {"stored": self.stored, "generating": self.now}

    def universal(self, target: int) -> Way:
        """See `PairTriggers`."""
        some = some_of_each(self.data, self.settings.warm_per_class, self._warm)
        assert some.labels is not None
        others = some.images[some.labels.cpu() != target].to(self.access.device)
        (found,) = self._generated(others[None], [(0, target)], [None], self.settings.warm_epochs)
        return Way(found.way.stamp, found.distance)

    def begin(self, pair: Pair) -> None:
        """See `PairTriggers`."""
        self.now.update(source=pair[0], other=pair[1], place=0)

    def both(self, images: Tensor) -> list[Way]:
        """See `PairTriggers`. Each way goes on from where its last search ended."""
        source, other = self.now["source"], self.now["other"]
        names = [f"{source}-{other}", f"{other}-{source}"]
        epochs = self.settings.first_epochs
        if self.now["place"] > 0:
            epochs = self.settings.again_epochs
        self.now["place"] += 1
        starts = [self.stored.get(name) for name in names]
        found = self._generated(images, [(0, other), (1, source)], starts, epochs)
        ways: list[Way] = []
        for name, generated in zip(names, found, strict=True):
            if generated.way.stamp is None:
                # what turns so few is no place to go on from
                self.stored.pop(name, None)
            else:
                self.stored[name] = [tensor.cpu() for tensor in generated.parameters]
            ways.append(generated.way)
        return ways

    def _generated(
        self,
        images: Tensor,
        pairs: Sequence[Pair],
        starts: Sequence[Sequence[Tensor] | None],
        epochs: int,
    ) -> list[Generated]:
        """Search a backdoor for each of `pairs`, (row of the images, target label)."""
        lot = Lot.of(images, self.codec.encoder, self.settings.at_once)
        streams = f"search/{self.now['searches']}"
        self.now["searches"] += 1
        search = Search(
            self.access,
            self.model,
            self.codec,
            self.settings,
            self.backdoor,
            lot,
            pairs,
            streams,
        )
        for lane, start in enumerate(starts):
            if start is not None:
                search.go_on(lane, start)
        # The weight of the terms starts anew each time: carried over, on so few images, it falls
        # until backdoors destroy the picture.
        steps = self.access.steps(epochs, keep={"search": search})
        for _ in steps:
            search.epoch()
            if not search.running:
                steps.end()
        return [self._judged(search, lane) for lane in range(len(pairs))]

    def _judged(self, search: Search, lane: int) -> Generated:
        """Judge what a lane found at rest: its best, or where it ended if nothing met the bound."""
        distance = search.distances[lane]
        parameters = [tensor[lane].detach() for tensor in search.best]
        reached = math.isfinite(distance)
        success = self.settings.bound
        if not reached:
            parameters = [tensor[lane].detach() for tensor in search.parameters]
            answer = search.ask([lane], search.parameters, search.lot)
            success = float(answer.success)
            distance = float(answer.distance)
        way = Way(
            partial(self._stamped, parameters) if success >= self.settings.least else None,
            distance if reached else None,
        )
        return Generated(parameters, distance, way)

    @torch.no_grad()
    def _stamped(self, parameters: Sequence[Tensor], images: Tensor) -> Tensor:
        """Put a backdoor on [0,1] images (n, c, h, w)."""
        levels = images * LEVELS
        draws = self.backdoor.draws(levels, self._draws, False)
        lanes = [tensor[None] for tensor in parameters]
        made = self.backdoor.applied(lanes, standardised(levels)[None], draws)[0]
        return made.clamp(0, LEVELS) / LEVELS
