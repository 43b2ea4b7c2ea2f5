"""K-Arm: a scanner that spends its steps on the label whose trigger promises most.

Shen et al., ICML 2021, as released. Clean images tell which labels are worth a look: one that is
likely for all images may have a universal trigger, one that is likely wherever a certain other is
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

from harness import Access, Defense, Fraction, NotInKey, Result
from harness.learn import ImageSet, to_float
from plugins.parts.counting import FORWARD
from plugins.parts.inversion import Found, Inversion, Rule
from plugins.parts.per_class import some_of_each
from plugins.parts.ranges import Count, Positive, Share

PUBLISHED = 224 * 224
"""Pixels of the images that the published numbers are for; sizes are brought to it before they
enter a formula.
"""
PROMISE = 2500.0
"""Size from which an arm's progress is measured."""
EAGER = 1e4
"""Weight of a small size against fast progress."""
LIKELY = 1e-8
"""Sum and median that the probability of a pair's label must exceed."""
VICTIMS = 3
"""Pairs that a target label has at most."""
WARM = 2
"""Successes of every arm before the bandit begins."""
DROPS = ((20, 0.3), (200, 0.8))
"""Pairs whose last success is below the second number after so many steps are given up."""
SIDE = 50 / 224
"""Side of the square, relative to the image, in which the mask of a pair starts."""
INSIDE, OUTSIDE = 0.98, 0.02
"""Values of that mask in and around the square; the tanh of plain 1 and 0 would hardly move."""


@dataclass(frozen=True)
class Arm:
    """A trigger to look for: to `target`, from the class `source`, or from all (None)."""

    target: int
    source: int | None = None


class KArm(Defense):
    """Scan for universal and pairwise triggers with a bandit (Shen et al. 2021).

    The result is a verdict without a model.
    """

    citation = (
        "Shen et al.: Backdoor Scanning for Deep Neural Networks through K-Arm Optimization, "
        "ICML 2021"
    )

    per_class: Count | None = 20
    """clean images of each class that are used; none: all that are granted"""
    screen: bool = True
    """look for triggers only where clean images make them look possible, as published (for the
    networks of TrojAI); false: for a universal trigger to every label
    """
    likely: Share = 0.25
    """share of the labels that count as likely for an image, rounded; two where there are no more
    than 8
    """
    everywhere: Share = 0.95
    """a label that is likely for more than this share of the images may have a universal trigger"""
    together: Share = 0.9
    """a label that is likely for this share of the images predicted as another may have a trigger
    for that pair
    """
    steps: Count = 1000
    """steps of all arms together, each over all images of its arm"""
    batch: Count = 32
    """images of one optimiser step"""
    lr: Positive = 0.1
    """learning rate of Adam"""
    bound: Share = 0.99
    """share of a step's images that must get the label for the step to succeed"""
    cost: Positive = 1e-3
    """weight of the mask's size after the first `patience` successes; none before"""
    patience: Count = 5
    """successes, or failures, in a row after which the cost moves"""
    up: Annotated[float, Field(gt=1)] = 1.5
    """factor by which the cost is multiplied or divided"""
    random: Fraction = 0.3
    """share of the steps that go to an arm drawn at random"""
    universal: Share = 1720 / PUBLISHED
    """share of the image below which a universal trigger gives the model away: 1720 pixels of 224 x
    224; published bounds were set on benign models of TrojAI, others need their own
    """
    pair: Share = 1000 / PUBLISHED
    """the same for the trigger of a pair: 1000 pixels of 224 x 224"""
    asymmetry: Positive = 10.0
    """least ratio of the size of the way back's trigger to a pair's own for the pair to count"""
    at_once: Annotated[int, Field(ge=1), NotInKey] = 1000
    """images that go through the network together where they need no gradient; moves rounding
    errors only
    """

    def defend(self, access: Access) -> Result:
        """Choose the arms, pull them, judge the smallest trigger.

        `score` is above 1 where the model is flagged.
        """
        model = access.victim().requires_grad_(False)
        data = some_of_each(access.clean(), self.per_class, access.generator("images"))
        data = data.to(access.device)
        arms = self._arms(access, model, data)
        best: tuple[Arm, Found] | None = None
        steps = 0
        if arms:
            best, steps = self._smallest(access, model, data, arms)
        record = {"arms": float(len(arms)), "steps": float(steps)}
        if best is None:
            return Result(flagged=False, score=0.0, record=record)

        arm, trigger = best
        share = max(trigger.size / trigger.mask.numel(), torch.finfo().eps)
        record["share"] = share
        if arm.source is None:
            score = self.universal / share
        else:
            score = self.pair / share
            if score > 1:
                asymmetry = self._way_back(access, model, data, arm) / trigger.size
                record["asymmetry"] = asymmetry
                score = min(score, asymmetry / self.asymmetry)

        flagged = score > 1
        targets = [arm.target] if flagged else []
        return Result(flagged=flagged, score=score, targets=targets, record=record)

    @torch.no_grad()
    def _arms(self, access: Access, model: nn.Module, data: ImageSet) -> list[Arm]:
        """Return the triggers that clean images make look possible.

        They are universal ones, and pairs only where there is none of these.
        """
        if not self.screen:
            return [Arm(label) for label in range(access.task.classes)]
        chunks = torch.split(data.images, self.at_once)
        logits = [model(to_float(images)).float() for images in chunks]
        probabilities = functional.softmax(torch.cat(logits), dim=1).cpu()
        classes = probabilities.shape[1]
        count = likely_count(classes, self.likely)
        access.tick(len(data) // FORWARD)
        universal = everywhere_likely(probabilities, count, self.everywhere)
        if universal:
            return [Arm(label) for label in universal]

        assert data.labels is not None
        present = set(data.labels.tolist())
        sums, medians = together_likely(probabilities, count, self.together)
        arms: list[Arm] = []
        for target in range(classes):
            sources = pairs_of(sums[target], medians[target])
            arms.extend(Arm(target, source) for source in sources if source in present)
        return arms

    def _smallest(
        self, access: Access, model: nn.Module, data: ImageSet, arms: Sequence[Arm]
    ) -> tuple[tuple[Arm, Found] | None, int]:
        """Pull the arms; return the one with the smallest trigger that meets the bound, and steps.

        None stands for no arm that meets it.
        """
        inversion = self._inversion(access, model, data, arms, "forward")
        order = access.generator("order")
        choice = access.generator("choice")
        alive = list(range(len(arms)))
        step = 0
        while alive and step < self.steps:
            pulled = self._next(inversion, alive, choice)
            inversion.step([pulled], self._round(data, arms[pulled], order))
            if arms[pulled].source is not None:
                steps = inversion.controllers[pulled].steps
                if hopeless(steps, inversion.success[pulled]):
                    alive.remove(pulled)
            step += 1
            access.tick(done=step, of=self.steps)

        best: tuple[Arm, Found] | None = None
        for number in alive:
            trigger = inversion.found(number)
            if trigger.reached and (best is None or trigger.size < best[1].size):
                best = (arms[number], trigger)
        return best, step

    def _next(self, inversion: Inversion, alive: Sequence[int], generator: torch.Generator) -> int:
        """Choose the arm to pull.

        While any is not warm yet, it is the least used of these; later one at random, or the best
        bet.
        """
        cold = []
        for arm in alive:
            controller = inversion.controllers[arm]
            if controller.wins < WARM:
                cold.append((controller.steps, arm))
        if cold:
            return min(cold)[1]
        if float(torch.rand((), generator=generator)) < self.random:
            place = int(torch.randint(len(alive), (), generator=generator))
            return alive[place]

        height, width = inversion.images.shape[1:3]
        sizes = []
        velocities = []
        for arm in alive:
            controller = inversion.controllers[arm]
            size = controller.best * PUBLISHED / (height * width)
            sizes.append(size)
            velocities.append(velocity(size, controller.wins, controller.steps))
        return alive[bet(velocities, sizes)]

    def _way_back(self, access: Access, model: nn.Module, data: ImageSet, arm: Arm) -> float:
        """Return the size of the trigger from a pair's target to its source.

        It is that of the image where no trigger is found.
        """
        assert arm.source is not None
        back = Arm(arm.source, arm.target)
        inversion = self._inversion(access, model, data, [back], "back")
        order = access.generator("order back")
        if len(self._places(data, back)) > 0:
            for step in range(self.steps):
                inversion.step([0], self._round(data, back, order))
                access.tick(done=step, of=self.steps)
        trigger = inversion.found(0)
        if trigger.reached:
            return trigger.size
        return float(trigger.mask.numel())

    def _inversion(
        self, access: Access, model: nn.Module, data: ImageSet, arms: Sequence[Arm], stream: str
    ) -> Inversion:
        """Begin the arms' triggers.

        Universal ones start at random, those of pairs as a square of one colour in the middle.
        """
        task = access.task
        size = (task.height, task.width)
        draw = access.generator(stream)
        masks = torch.rand(len(arms), 1, *size, generator=draw)
        patterns = torch.rand(len(arms), task.channels, *size, generator=draw)
        if arms and arms[0].source is not None:
            masks = middle(size).expand_as(masks)
            patterns = patterns[:, :, :1, :1]
        rule = Rule(self.bound, self.cost, "zero", self.patience, self.up, self.up, stop=None)
        targets = [arm.target for arm in arms]
        return Inversion(
            access, model, data.images, targets, (masks, patterns), rule, self.lr, self.at_once
        )

    def _places(self, data: ImageSet, arm: Arm) -> Tensor:
        """Return the places of an arm's images."""
        if arm.source is None:
            return torch.arange(len(data))
        assert data.labels is not None
        mine = data.labels.cpu() == arm.source
        return torch.nonzero(mine)[:, 0]

    def _round(self, data: ImageSet, arm: Arm, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield all images of an arm once, in batches."""
        places = self._places(data, arm)
        order = torch.randperm(len(places), generator=generator)
        for chosen in torch.split(order, self.batch):
            yield places[chosen][None]


def likely_count(classes: int, share: float) -> int:
    """Return how many labels count as likely for an image."""
    if classes <= 8:
        return 2
    return max(1, round(share * classes))


def everywhere_likely(probabilities: Tensor, count: int, share: float) -> list[int]:
    """Return the labels that are among the `count` likeliest for more than this share of images.

    `probabilities` are (n, classes).
    """
    often = _among_likeliest(probabilities, count).double().mean(0)
    return [int(label) for label in torch.nonzero(often > share)]


def together_likely(probabilities: Tensor, count: int, share: float) -> tuple[Tensor, Tensor]:
    """Return sum and (lower) median of label j's probability over the images predicted as i.

    Both are [j, i]: 0 where j is i, or is not among the likeliest for this share of those images.
    """
    among = _among_likeliest(probabilities, count)
    predicted = probabilities.argmax(1)
    classes = probabilities.shape[1]
    sums, medians = torch.zeros(2, classes, classes, dtype=probabilities.dtype)
    for source in sorted(set(predicted.tolist())):
        mine = predicted == source
        often = among[mine].double().mean(0) >= share
        often[source] = False
        theirs = probabilities[mine][:, often]
        sums[often, source] = theirs.sum(0)
        medians[often, source] = theirs.median(0).values
    return sums, medians


def pairs_of(sums: Tensor, medians: Tensor) -> list[int]:
    """Return the sources of a target label, those first where it is most probable."""
    likely = (sums > LIKELY) & (medians > LIKELY)
    sources = torch.nonzero(likely)[:, 0]
    order = torch.argsort(medians[sources], descending=True, stable=True)
    return [int(source) for source in sources[order[:VICTIMS]]]


def hopeless(steps: int, success: float) -> bool:
    """Tell whether a pair is given up."""
    return any(steps >= after and success < least for after, least in DROPS)


def velocity(size: float, wins: int, steps: int) -> float:
    """Return an arm's progress so far; `size` is in pixels of 224 x 224."""
    return (PROMISE - size) / (wins + steps / 2)


def bet(velocities: Sequence[float], sizes: Sequence[float]) -> int:
    """Return the place of the arm that promises most; sizes are in pixels of 224 x 224."""
    promises = []
    for speed, size in zip(velocities, sizes, strict=True):
        promises.append(speed + EAGER / max(size, 1.0))
    return promises.index(max(promises))


def middle(size: tuple[int, int]) -> Tensor:
    """Return a mask (1, h, w) that is on in the middle."""
    mask = torch.full((1, *size), OUTSIDE)
    rows, columns = (
        slice(round(side * (1 - SIDE) / 2), round(side * (1 + SIDE) / 2)) for side in size
    )
    mask[:, rows, columns] = INSIDE
    return mask


def _among_likeliest(probabilities: Tensor, count: int) -> Tensor:
    """Mark the likeliest labels of each image: boolean (n, classes)."""
    likeliest = probabilities.topk(count, 1).indices
    marks = torch.zeros_like(probabilities, dtype=torch.bool)
    return marks.scatter_(1, likeliest, True)
