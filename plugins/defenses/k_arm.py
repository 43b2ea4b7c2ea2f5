"""K-Arm: a scanner that spends its steps on the label whose trigger promises most.

Shen et al., ICML 2021, as released. Clean images tell which labels are worth a look: one that is
among the likely ones everywhere may have a universal trigger, one that is so wherever another is
predicted may have a trigger for that pair. Each such label or pair is an arm of a bandit, with a
trigger as in Neural Cleanse. The verdict goes by the smallest trigger; for a pair also by how much
larger the trigger of the way back is. Nothing is mended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Access, Defense, NotInKey, Result
from harness.learn import ImageSet, to_float
from plugins.parts.counting import FORWARD
from plugins.parts.inversion import Found, Inversion, Rule
from plugins.parts.per_class import some_of_each

PUBLISHED = 224 * 224
"""Pixels of the images that the published numbers are for; sizes are brought to it before they
enter a formula.
"""
PROMISE = 2500.0
"""Size that an arm's progress is measured from."""
EAGER = 1e4
"""Weight of a small size against fast progress."""
LIKELY = 1e-8
"""Sum and median of its probability that a pair's label must have."""
VICTIMS = 3
"""Pairs that one target label has at most."""
WARM = 2
"""Successes of every arm before the bandit begins."""
DROPS = ((20, 0.3), (200, 0.8))
"""Pairs whose last success is below the second number after so many steps are given up."""
SIDE = 50 / 224
"""Side of the square, relative to the image, in which the mask of a pair starts."""
INSIDE, OUTSIDE = 0.98, 0.02
"""Where that mask starts in and around it; the tanh of plain 1 and 0 would hardly move."""


@dataclass(frozen=True)
class Arm:
    """A trigger to look for: to `target`, from the class `source`, or from all (None)."""

    target: int
    source: int | None = None


class KArm(Defense):
    """Scan for universal and pairwise triggers with a bandit; gives a verdict and no model (Shen et
    al. 2021).
    """

    citation = "Shen et al.: Backdoor Scanning for Deep Neural Networks through K-Arm Optimization, ICML 2021"

    per_class: Annotated[int, Field(ge=1)] | None = 20
    """clean images of each class that it looks at; none: all it is granted"""
    screen: bool = True
    """look only at labels and pairs that clean images make look possible, as published (for the
    networks of TrojAI); false: at a universal trigger for every label
    """
    likely: Annotated[float, Field(gt=0, le=1)] = 0.25
    """share of the labels that count as likely for an image, rounded; two where there are no more
    than 8
    """
    everywhere: Annotated[float, Field(gt=0, le=1)] = 0.95
    """a label that is likely for more than this share of the images may have a universal trigger"""
    together: Annotated[float, Field(gt=0, le=1)] = 0.9
    """a label that is likely for this share of the images predicted as another may have a trigger
    for that pair
    """
    steps: Annotated[int, Field(ge=1)] = 1000
    """steps of all arms together, each over all images of its arm"""
    batch: Annotated[int, Field(ge=1)] = 32
    """images of one optimiser step"""
    lr: Annotated[float, Field(gt=0)] = 0.1
    """learning rate of Adam"""
    bound: Annotated[float, Field(gt=0, le=1)] = 0.99
    """share of a step's images that must get the label for the step to succeed"""
    cost: Annotated[float, Field(gt=0)] = 1e-3
    """weight of the mask's size after the first `patience` successes; none before"""
    patience: Annotated[int, Field(ge=1)] = 5
    """successes, or failures, in a row after which the cost moves"""
    up: Annotated[float, Field(gt=1)] = 1.5
    """what the cost is multiplied, or divided, by"""
    random: Annotated[float, Field(ge=0, le=1)] = 0.3
    """share of the steps that go to an arm drawn at random"""
    universal: Annotated[float, Field(gt=0, le=1)] = 1720 / PUBLISHED
    """a universal trigger gives the model away if it is smaller than this share of the image: 1720
    pixels of 224 x 224; published bounds were set on benign models of TrojAI, others need their own
    """
    pair: Annotated[float, Field(gt=0, le=1)] = 1000 / PUBLISHED
    """the same for the trigger of a pair: 1000 pixels of 224 x 224"""
    asymmetry: Annotated[float, Field(gt=0)] = 10.0
    """how many times larger the trigger of the way back must be for a pair to count"""
    at_once: Annotated[int, Field(ge=1), NotInKey] = 1000
    """images that go through the network together where they need no gradient; moves rounding
    errors only
    """

    def defend(self, access: Access) -> Result:
        """Choose the arms, pull them, judge the smallest trigger. `score` is above 1 where the
        model is flagged.
        """
        model = access.victim().requires_grad_(False)
        data = some_of_each(access.clean(), self.per_class, access.generator("images")).to(
            access.device
        )
        arms = self._arms(access, model, data)
        best, steps = self._smallest(access, model, data, arms) if arms else (None, 0)
        record = {"arms": float(len(arms)), "steps": float(steps)}
        if best is None:
            return Result(flagged=False, score=0.0, record=record)
        arm, found = best
        share = max(found.size / found.mask.numel(), torch.finfo().eps)
        record["share"] = share
        score = (self.universal if arm.source is None else self.pair) / share
        if arm.source is not None and score > 1:
            record["asymmetry"] = self._way_back(access, model, data, arm) / found.size
            score = min(score, record["asymmetry"] / self.asymmetry)
        flagged = score > 1
        return Result(
            flagged=flagged, score=score, targets=[arm.target] if flagged else [], record=record
        )

    @torch.no_grad()
    def _arms(self, access: Access, model: nn.Module, data: ImageSet) -> list[Arm]:
        """What clean images make look possible: universal triggers, and pairs only where there is
        none of these.
        """
        if not self.screen:
            return [Arm(label) for label in range(access.task.classes)]
        logits = [
            model(to_float(images)).float() for images in torch.split(data.images, self.at_once)
        ]
        probabilities = functional.softmax(torch.cat(logits), dim=1).cpu()
        count = likely_count(probabilities.shape[1], self.likely)
        access.tick(len(data) // FORWARD)
        if found := everywhere_likely(probabilities, count, self.everywhere):
            return [Arm(label) for label in found]
        assert data.labels is not None
        sums, medians = together_likely(probabilities, count, self.together)
        seen = set(data.labels.tolist())
        return [
            Arm(j, i) for j in range(len(sums)) for i in pairs_of(sums[j], medians[j]) if i in seen
        ]

    def _smallest(
        self, access: Access, model: nn.Module, data: ImageSet, arms: Sequence[Arm]
    ) -> tuple[tuple[Arm, Found] | None, int]:
        """The arm with the smallest trigger that meets the bound, if any does, and the steps made."""
        inversion, step = self._inversion(access, model, data, arms, "forward"), 0
        order, choice = access.generator("order"), access.generator("choice")
        alive = list(range(len(arms)))
        while alive and step < self.steps:
            arm = self._next(inversion, alive, choice)
            inversion.step([arm], self._round(data, arms[arm], order))
            if arms[arm].source is not None and hopeless(
                inversion.controllers[arm].steps, inversion.success[arm]
            ):
                alive.remove(arm)
            step += 1
            access.tick(done=step, of=self.steps)
        found = [(inversion.found(n).size, n) for n in alive if inversion.found(n).reached]
        return ((arms[min(found)[1]], inversion.found(min(found)[1])) if found else None), step

    def _next(self, inversion: Inversion, alive: Sequence[int], generator: torch.Generator) -> int:
        """The arm to pull: one that is not warm yet, the one used least; else one at random, or the
        best bet.
        """
        booked = [inversion.controllers[arm] for arm in alive]
        cold = [(one.steps, arm) for one, arm in zip(booked, alive, strict=True) if one.wins < WARM]
        if cold:
            return min(cold)[1]
        if float(torch.rand((), generator=generator)) < self.random:
            return alive[int(torch.randint(len(alive), (), generator=generator))]
        height, width = inversion.images.shape[1:3]
        sizes = [one.best * PUBLISHED / (height * width) for one in booked]
        return alive[
            bet(
                [
                    velocity(size, one.wins, one.steps)
                    for size, one in zip(sizes, booked, strict=True)
                ],
                sizes,
            )
        ]

    def _way_back(self, access: Access, model: nn.Module, data: ImageSet, arm: Arm) -> float:
        """The size of the trigger from a pair's target to its source; that of the image where none
        is found.
        """
        assert arm.source is not None
        back = Arm(arm.source, arm.target)
        inversion, order = (
            self._inversion(access, model, data, [back], "back"),
            access.generator("order back"),
        )
        for step in range(self.steps if len(self._places(data, back)) else 0):
            inversion.step([0], self._round(data, back, order))
            access.tick(done=step, of=self.steps)
        found = inversion.found(0)
        return found.size if found.reached else float(found.mask.numel())

    def _inversion(
        self, access: Access, model: nn.Module, data: ImageSet, arms: Sequence[Arm], stream: str
    ) -> Inversion:
        """Universal triggers start at random, those of pairs as a square of one colour in the
        middle.
        """
        task, draw = access.task, access.generator(stream)
        size = (task.height, task.width)
        masks = torch.rand(len(arms), 1, *size, generator=draw)
        patterns = torch.rand(len(arms), task.channels, *size, generator=draw)
        if arms and arms[0].source is not None:
            masks, patterns = middle(size).expand_as(masks), patterns[:, :, :1, :1]
        rule = Rule(self.bound, self.cost, "zero", self.patience, self.up, self.up, stop=None)
        targets = [arm.target for arm in arms]
        return Inversion(
            access, model, data.images, targets, (masks, patterns), rule, self.lr, self.at_once
        )

    def _places(self, data: ImageSet, arm: Arm) -> Tensor:
        """The images of an arm."""
        assert data.labels is not None
        return (
            torch.arange(len(data))
            if arm.source is None
            else torch.nonzero(data.labels.cpu() == arm.source)[:, 0]
        )

    def _round(self, data: ImageSet, arm: Arm, generator: torch.Generator) -> Iterator[Tensor]:
        """All images of an arm once, in batches."""
        places = self._places(data, arm)
        order = torch.randperm(len(places), generator=generator)
        yield from (places[chosen][None] for chosen in torch.split(order, self.batch))


def likely_count(classes: int, share: float) -> int:
    """How many labels count as likely for an image."""
    return 2 if classes <= 8 else max(1, round(share * classes))


def everywhere_likely(probabilities: Tensor, count: int, share: float) -> list[int]:
    """The labels that are among the `count` likeliest for more than this share of the images; (n,
    classes) in.
    """
    often = _among_likeliest(probabilities, count).double().mean(0)
    return [int(label) for label in torch.nonzero(often > share)]


def together_likely(probabilities: Tensor, count: int, share: float) -> tuple[Tensor, Tensor]:
    """Sum and (lower) median of the probability of label j over the images predicted as i, both [j,
    i].

    0 where j is i, or is not among the likeliest for this share of those images.
    """
    among, predicted = _among_likeliest(probabilities, count), probabilities.argmax(1)
    classes = probabilities.shape[1]
    sums, medians = torch.zeros(2, classes, classes, dtype=probabilities.dtype)
    for source in sorted(set(predicted.tolist())):
        mine = predicted == source
        often = among[mine].double().mean(0) >= share
        often[source] = False
        sums[often, source] = probabilities[mine][:, often].sum(0)
        medians[often, source] = probabilities[mine][:, often].median(0).values
    return sums, medians


def pairs_of(sums: Tensor, medians: Tensor) -> list[int]:
    """The sources of one target label, those first where it is most probable."""
    sources = torch.nonzero((sums > LIKELY) & (medians > LIKELY))[:, 0]
    order = torch.argsort(medians[sources], descending=True, stable=True)[:VICTIMS]
    return [int(source) for source in sources[order]]


def hopeless(steps: int, success: float) -> bool:
    """Whether a pair is given up."""
    return any(steps >= after and success < least for after, least in DROPS)


def velocity(size: float, wins: int, steps: int) -> float:
    """An arm's progress so far; `size` in pixels of 224 x 224."""
    return (PROMISE - size) / (wins + steps / 2)


def bet(velocities: Sequence[float], sizes: Sequence[float]) -> int:
    """Which arm promises most; sizes in pixels of 224 x 224."""
    promise = [
        speed + EAGER / max(size, 1.0) for speed, size in zip(velocities, sizes, strict=True)
    ]
    return promise.index(max(promise))


def middle(size: tuple[int, int]) -> Tensor:
    """A mask (1, h, w) that is on in the middle."""
    mask = torch.full((1, *size), OUTSIDE)
    (top, bottom), (left, right) = (
        (round(side * (1 - SIDE) / 2), round(side * (1 + SIDE) / 2)) for side in size
    )
    mask[:, top:bottom, left:right] = INSIDE
    return mask


def _among_likeliest(probabilities: Tensor, count: int) -> Tensor:
    """Boolean (n, classes)."""
    return torch.zeros_like(probabilities, dtype=torch.bool).scatter_(
        1, probabilities.topk(count, 1).indices, True
    )
