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
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Access, Context, Fraction, Incompatible, Part, Recipe, Result, Use, use
from harness.learn import Diverged, ImageSet, augment, evaluating, sent, to_float
from plugins.parts.counting import FORWARD
from plugins.parts.fine_tuning import Augmented
from plugins.parts.inversion import Found, blend
from plugins.parts.pair_choice import Pair, PairChoice, Stored
from plugins.parts.pair_inversion import PairSettings, two_way
from plugins.parts.pgd import LEVELS, pgd
from plugins.parts.ranges import Count, Positive, Share
from plugins.parts.universal_triggers import Triggers

WARM = 0.5
"""Share of a batch's images of other classes that the warm-up stamps."""


class MOTH(Augmented):
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
    steps: Count = 780
    """training steps in all, one for each class in the warm-up: two passes over CIFAR-10, as
    released, which suit 5 % of it too
    """
    batch: Count = 128
    """images a step"""
    of_pair: Count = 13
    """images of each class of the pair in a batch, as many as a plain batch of CIFAR-10 has; of a
    smaller class all
    """
    stamped: Share = 0.1
    """share of these that get a trigger, at least one of each class"""
    lr: Positive = 1e-3
    """learning rate of SGD"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """of SGD"""
    nesterov: bool = True
    """look ahead, of SGD"""
    bn: Literal["trained", "frozen"] = "trained"
    """BatchNorm while the network is trained: training mode, or evaluation mode, in which scales
    and shifts learn and averages stand still
    """

    period: Count = 3
    """steps that a pair is hardened for"""
    explore: Fraction = 0.3
    """probability that a pair is drawn at random"""
    ramp: Count = 1000
    """steps after the warm-up until pairs are chosen by the growth of their distance alone"""

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

    pgd_eps: Annotated[float, Field(ge=0, le=255)] = 0.0
    """train on adversarial images, which move by so many grey levels of 0..255, and stamp these:
    for networks that were trained so (`on = "at"`); 0: on images as they are
    """
    pgd_step: Positive = 2.0
    """how far a step of the adversary moves a pixel, in grey levels"""
    pgd_steps: Count = 7
    """steps of the adversary"""

    def compatible(self, context: Context) -> str | None:
        """Refuse a single class."""
        if context.task.classes < 2:
            return "a distance is between two classes, and there is one"
        return super().compatible(context)

    def unused(self) -> Mapping[str, str]:
        """Name the settings of an adversary that there is not."""
        unused = dict(super().unused())
        if self.pgd_eps == 0:
            unused["pgd_step"] = "pgd_eps = 0"
            unused["pgd_steps"] = "pgd_eps = 0"
        return unused

    def defend(self, access: Access) -> Result:
        """Harden, and record how many periods there were and how many searches failed.

        Raises Incompatible where a class has no clean image.
        """
        data = access.clean()
        triggers = cast(Triggers, access.part("triggers"))
        hardening = Hardening(self, access, access.victim(), data)
        norms = torch.tensor(triggers.norms, dtype=torch.float64)
        hardening.choice.begin(access.task.channels * norms)
        keep = {
            "model": hardening.model,
            "optimiser": hardening.optimiser,
            "choice": hardening.choice,
            "stored": hardening.stored,
            "now": hardening.now,
            "record": hardening.record,
        }
        classes = access.task.classes
        for step in access.steps(self.steps, keep):
            if step < classes:
                hardening.warm_up(step, triggers)
            else:
                hardening.harden(step - classes)
        record = dict(hardening.record)
        record["distance"] = float(hardening.choice.size.sum()) / (classes * (classes - 1))
        return Result(model=hardening.model.eval(), record=record)

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


class Hardening:
    """The network in hardening, and what is known of the pairs."""

    def __init__(self, settings: MOTH, access: Access, model: nn.Module, data: ImageSet) -> None:
        assert data.labels is not None
        self.settings = settings
        self.access = access
        self.model = model
        self.device = torch.device(access.device)
        self.images = data.images.to(self.device)
        self.labels = data.labels.cpu()
        classes = access.task.classes
        self.pools = [torch.nonzero(self.labels == label).flatten() for label in range(classes)]
        for label, pool in enumerate(self.pools):
            if len(pool) == 0:
                raise Incompatible(f"there is no clean image of class {label}")
        self.optimiser = torch.optim.SGD(
            model.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            nesterov=settings.nesterov and settings.momentum > 0,
        )
        self.choice = PairChoice(classes)
        self.stored = Stored()
        self.now: dict[str, Any] = {}
        """The pair of the period; by way its last trigger, and the distances that were found."""
        self.record = {"periods": 0.0, "failed_periods": 0.0, "skipped_steps": 0.0, "stamped": 0.0}
        self._recipe = Recipe(**settings.augmentation(access.task))
        self._draws = access.generator("batches")
        self._augment = access.generator("augment")
        self._start = access.generator("start")

    def warm_up(self, target: int, triggers: Triggers) -> None:
        """Make a step on one class's universal trigger; record what each other class learns."""
        count = min(self.settings.batch, len(self.labels))
        places = torch.randperm(len(self.labels), generator=self._draws)[:count]
        images, labels = self._batch(places)
        others = torch.nonzero(self.labels[places] != target).flatten()
        carriers = others[: int(len(others) * WARM)].to(self.device)
        stamp = triggers.trigger(target).to(self.device)
        images[carriers] = stamp(images[carriers])
        self.record["stamped"] += len(carriers)

        before = self._losses(images[carriers], labels[carriers])
        self._step(images, labels)
        after = self._losses(images[carriers], labels[carriers])
        sources = labels[carriers].cpu()
        for source in sorted(set(sources.tolist())):
            old = before[sources == source].mean()
            new = after[sources == source].mean()
            if old > 0:
                self.choice.learned[source, target] = float((old - new) / old)

    def harden(self, step: int) -> None:
        """Invert both ways of the period's pair, and train on them; `step` counts from 0."""
        place = step % self.settings.period
        if place == 0:
            self.now["pair"] = list(self._choose(step))
            self.now["triggers"] = [None, None]
            self.now["distances"] = [[], []]
            self.record["periods"] += 1
        source, other = self.now["pair"]
        of_source = self._some(self.pools[source], self.settings.of_pair)
        of_other = self._some(self.pools[other], self.settings.of_pair)
        found = self._invert((source, other), of_source, of_other, place > 0)
        if found[0].reached or found[1].reached:
            self._train((source, other), of_source, of_other, found)
        else:
            # as released: without a trigger the network stays as it is
            self.record["skipped_steps"] += 1
        if place == self.settings.period - 1:
            self._end_period((source, other))

    def _choose(self, step: int) -> Pair:
        by_chance = float(torch.rand((), generator=self._draws)) < self.settings.explore
        if by_chance:
            return self.choice.any(self._draws)
        return self.choice.best(self.choice.share(step, self.settings.ramp))

    def _some(self, pool: Tensor, count: int) -> Tensor:
        order = torch.randperm(len(pool), generator=self._draws)
        return pool[order[:count]]

    def _invert(self, pair: Pair, source: Tensor, other: Tensor, again: bool) -> list[Found]:
        """Search both triggers on these images, as they are; record those that met the bound."""
        count = min(len(source), len(other))
        chosen = torch.cat([source[:count], other[:count]]).to(self.device)
        images = self.images[chosen].view(2, count, *self.images.shape[1:])
        ways = (pair, (pair[1], pair[0]))
        starts = [self._begin(way, ways[way]) for way in (0, 1)]
        masks = torch.stack([mask for mask, _ in starts])
        patterns = torch.stack([pattern for _, pattern in starts])
        settings = self.settings.inversion(again)
        found = two_way(
            self.access, self.model, images, pair, (masks, patterns), settings, self._start
        )
        channels = self.access.task.channels
        for way, trigger in enumerate(found):
            if trigger.reached:
                self.stored.add(ways[way], trigger)
                self.now["triggers"][way] = [trigger.mask, trigger.pattern]
                self.now["distances"][way].append(channels * trigger.size)
        return found

    def _begin(self, number: int, way: Pair) -> tuple[Tensor, Tensor]:
        """Return where a search starts: at the period's last trigger of this way, else at the
        largest of all periods, else anywhere.
        """
        task = self.access.task
        mask = torch.rand(1, task.height, task.width, generator=self._start).to(self.device)
        pattern = torch.rand(task.image_shape, generator=self._start).to(self.device)
        last = self.now["triggers"][number]
        if last is not None:
            mask, pattern = last
        else:
            mask, pattern = self.stored.start(way, (mask, pattern))
        return mask.to(self.device), pattern.to(self.device)

    def _train(self, pair: Pair, source: Tensor, other: Tensor, found: list[Found]) -> None:
        """Stamp some images of both classes, and make a step on them among others."""
        rest = [pool for label, pool in enumerate(self.pools) if label not in pair]
        places = torch.cat([source, other])
        missing = self.settings.batch - len(places)
        if rest and missing > 0:
            places = torch.cat([places, self._some(torch.cat(rest), missing)])
        images, labels = self._batch(places)
        area = self.access.task.height * self.access.task.width
        begin = 0
        for carriers, trigger in zip((source, other), found, strict=True):
            if trigger.reached and trigger.size <= self.settings.largest * area:
                share = self.settings.stamped * min(len(source), len(other))
                end = begin + max(1, int(share))
                images[begin:end] = blend(images[begin:end], trigger.mask, trigger.pattern)
                self.record["stamped"] += end - begin
            begin += len(carriers)
        self._step(images, labels)

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

    def _step(self, images: Tensor, labels: Tensor) -> None:
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
