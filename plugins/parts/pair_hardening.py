"""Moving classes apart: train on triggers between pairs of classes, the most promising pair first.

The loop of MOTH (Tao et al., S&P 2022), which DECK (Tao et al., NDSS 2024) follows with triggers of
another kind. After a warm-up on one universal trigger a class, a pair of classes is hardened for a
few steps at a time: a trigger is generated for each way between them, on images of the batch and
against the network as it is by then; some images get them, keep their labels, and the network makes
a step on the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import Incompatible, Recipe, Workbench
from harness.learn import Diverged, ImageSet, augment, evaluating, sent, to_float
from plugins.parts.counting import FORWARD
from plugins.parts.hardening_settings import HardeningSettings
from plugins.parts.pair_choice import Pair, PairChoice
from plugins.parts.pgd import LEVELS, pgd

WARM = 0.5
"""Share of a batch's images of other classes that the warm-up stamps."""


@dataclass(frozen=True)
class Way:
    """What was generated for one way between two classes."""

    stamp: Callable[[Tensor], Tensor] | None
    """puts the trigger on [0,1] images (n, c, h, w); None: there is none worth training on"""
    distance: float | None
    """how far the trigger moves images; None: it does not turn enough of them to count"""


class PairTriggers(Protocol):
    """Generates triggers of a kind against the network as it is."""

    def universal(self, target: int) -> Way:
        """Return a trigger that turns images of all other classes to `target`, with a distance."""

    def begin(self, pair: Pair) -> None:
        """Say that this pair is hardened from now on."""

    def both(self, images: Tensor) -> list[Way]:
        """Return a trigger for each way of the pair: the first class to the second, and back.

        `images` are uint8 (2, n, h, w, c), n of each class, on the device of the network.
        """

    def kept(self) -> Mapping[str, object]:
        """Return what changes from step to step, by name, for `access.steps`."""


class PairHardening:
    """A network in hardening, and what is known of its pairs of classes.

    `step` makes one training step of `model`. `recipe` says how images are augmented, and nothing
    else. What `kept` returns is to be kept by the loop around it. Raises Incompatible where a class
    has no image in `data`.
    """

    def __init__(
        self,
        settings: HardeningSettings,
        access: Workbench,
        model: nn.Module,
        data: ImageSet,
        recipe: Recipe,
        triggers: PairTriggers,
    ) -> None:
        assert data.labels is not None
        self.settings = settings
        self.access = access
        self.model = model
        self.triggers = triggers
        self.device = torch.device(access.device)
        self.images = data.images.to(self.device)
        self.labels = data.labels.cpu()
        self.classes = access.task.classes
        self.pools = [
            torch.nonzero(self.labels == label).flatten() for label in range(self.classes)
        ]
        for label, pool in enumerate(self.pools):
            if len(pool) == 0:
                raise Incompatible(f"there is no clean image of class {label}")
        self.optimiser = torch.optim.SGD(
            model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov and settings.momentum > 0,
        )
        self.choice = PairChoice(self.classes)
        self.now: dict[str, Any] = {"steps": 0, "sizes": []}
        """Steps so far, distances of the universal triggers; the pair of the period, and by way
        the distances that were found.
        """
        self.record = {"periods": 0.0, "failed_periods": 0.0, "skipped_steps": 0.0, "stamped": 0.0}
        self._recipe = recipe
        self._draws = access.generator("batches")
        self._augment = access.generator("augment")

    def kept(self) -> dict[str, object]:
        """Return all that steps change, by name, for `access.steps` or the `keep` of `fit`."""
        return {
            "model": self.model,
            "optimiser": self.optimiser,
            "choice": self.choice,
            "now": self.now,
            "hardening": self.record,
            **self.triggers.kept(),
        }

    @property
    def distance(self) -> float:
        """The mean over ordered pairs of the distance that was found last."""
        return float(self.choice.size.sum()) / (self.classes * (self.classes - 1))

    def step(self) -> None:
        """Make a training step: of the warm-up, one for each class, and then on pairs."""
        number = self.now["steps"]
        if number < self.classes:
            self.warm_up(number)
        else:
            self.harden(number - self.classes)
        self.now["steps"] = number + 1

    def warm_up(self, target: int) -> None:
        """Make a step on one class's universal trigger; record what each other class learns.

        The last of them is where pairs get their first distances.
        """
        universal = self.triggers.universal(target)
        count = min(self.settings.batch, len(self.labels))
        places = torch.randperm(len(self.labels), generator=self._draws)[:count]
        images, labels = self._batch(places)
        others = torch.nonzero(self.labels[places] != target).flatten()
        carriers = others[: int(len(others) * WARM)].to(self.device)
        if universal.stamp is not None and len(carriers):
            images[carriers] = universal.stamp(images[carriers])
            self.record["stamped"] += len(carriers)

        before = self._losses(images[carriers], labels[carriers])
        self._train(images, labels)
        after = self._losses(images[carriers], labels[carriers])
        sources = labels[carriers].cpu()
        for source in sorted(set(sources.tolist())):
            old = before[sources == source].mean()
            new = after[sources == source].mean()
            if old > 0:
                self.choice.learned[source, target] = float((old - new) / old)

        assert universal.distance is not None
        self.now["sizes"].append(universal.distance)
        if len(self.now["sizes"]) == self.classes:
            self.choice.begin(torch.tensor(self.now["sizes"], dtype=torch.float64))

    def harden(self, step: int) -> None:
        """Generate both ways of the period's pair, and train on them; `step` counts from 0."""
        place = step % self.settings.period
        if place == 0:
            pair = self._choose(step)
            self.triggers.begin(pair)
            self.now["pair"] = list(pair)
            self.now["distances"] = [[], []]
            self.record["periods"] += 1
        source, other = self.now["pair"]
        of_source = self._some(self.pools[source], self.settings.of_pair)
        of_other = self._some(self.pools[other], self.settings.of_pair)
        count = min(len(of_source), len(of_other))
        chosen = torch.cat([of_source[:count], of_other[:count]]).to(self.device)
        found = self.triggers.both(self.images[chosen].view(2, count, *self.images.shape[1:]))
        for distances, way in zip(self.now["distances"], found, strict=True):
            if way.distance is not None:
                distances.append(way.distance)
        if any(way.stamp is not None or way.distance is not None for way in found):
            images, labels = self.stamped((source, other), of_source, of_other, found)
            self._train(images, labels)
        else:
            # as MOTH's code: without a trigger the network stays as it is
            self.record["skipped_steps"] += 1
        if place == self.settings.period - 1:
            self._end_period((source, other))

    def stamped(
        self, pair: Pair, source: Tensor, other: Tensor, found: list[Way]
    ) -> tuple[Tensor, Tensor]:
        """Return a batch with its labels, in which some images of both classes are stamped.

        `source` and `other` are the places of the classes' images, which come first in this order;
        images of other classes fill the batch.
        """
        rest = [pool for label, pool in enumerate(self.pools) if label not in pair]
        places = torch.cat([source, other])
        missing = self.settings.batch - len(places)
        if rest and missing > 0:
            places = torch.cat([places, self._some(torch.cat(rest), missing)])
        images, labels = self._batch(places)
        begin = 0
        for carriers, way in zip((source, other), found, strict=True):
            if way.stamp is not None:
                share = self.settings.stamped * min(len(source), len(other))
                end = begin + max(1, int(share))
                images[begin:end] = way.stamp(images[begin:end])
                self.record["stamped"] += end - begin
            begin += len(carriers)
        return images, labels

    def _choose(self, step: int) -> Pair:
        by_chance = float(torch.rand((), generator=self._draws)) < self.settings.explore
        if by_chance:
            return self.choice.any(self._draws)
        return self.choice.best(self.choice.share(step, self.settings.ramp))

    def _some(self, pool: Tensor, count: int) -> Tensor:
        order = torch.randperm(len(pool), generator=self._draws)
        return pool[order[:count]]

    def _end_period(self, pair: Pair) -> None:
        """Record by how much the distances of the pair have grown."""
        failed = True
        for way, distances in zip((pair, (pair[1], pair[0])), self.now["distances"], strict=True):
            if distances:
                failed = False
                self.choice.record(way, sum(distances) / len(distances))
        self.record["failed_periods"] += failed

    def _batch(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return images, augmented and perhaps adversarial, with their labels."""
        images = to_float(self.images[places.to(self.device)])
        images = augment(images, self._recipe, self._augment)
        labels = self.labels[places].to(self.device)
        settings = self.settings
        if settings.pgd_eps == 0:
            return images, labels
        drawn = sent(torch.rand(images.shape, generator=self._draws), self.device)
        # in evaluation mode: BatchNorm's averages are to move with the step of training only
        with evaluating(self.model):
            moved = pgd(
                self.model,
                images,
                labels,
                eps=settings.pgd_eps / LEVELS,
                step=settings.pgd_step / LEVELS,
                steps=settings.pgd_steps,
                drawn=drawn,
            )
        self.access.tick(settings.pgd_steps * len(images))
        return moved, labels

    def _train(self, images: Tensor, labels: Tensor) -> None:
        """Make a step of the optimiser. Raises `Diverged` where the loss is not finite."""
        self.model.train(self.settings.bn == "trained")
        loss = functional.cross_entropy(self.model(images).float(), labels)
        if not torch.isfinite(loss):
            raise Diverged("the loss of hardening is not finite: lower `lr`")
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.access.tick(len(images))

    @torch.no_grad()
    def _losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropies (n,) in evaluation mode, on the CPU."""
        with evaluating(self.model):
            logits = self.model(images).float()
        self.access.tick(len(images) // FORWARD)
        return functional.cross_entropy(logits, labels, reduction="none").cpu()
