"""K-Arm: a scanner that spends its steps on the label whose trigger promises most.

Shen et al., ICML 2021, as released. Clean images tell which labels are worth a look: one that is
likely for all images may have a universal trigger, one that is likely wherever a certain other is
predicted may have a trigger for that pair. Each such label or pair is an arm of a bandit, with a
trigger as in Neural Cleanse. The verdict goes by the smallest trigger that any arm had at a step
that succeeded; for a pair also by how much larger the trigger of the way back is, after as many
steps as the pair itself had. Nothing is mended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from harness import Access, Defense, Fraction, NotInKey, Result
from harness.learn import ImageSet, to_float
from plugins.parts.bandit import Bandit, Hopeless, hopeless, hopeless_back, never
from plugins.parts.counting import FORWARD
from plugins.parts.inversion import Inversion, Rule
from plugins.parts.per_class import some_of_each
from plugins.parts.ranges import Count, Positive, Share

PUBLISHED = 224 * 224
"""Pixels of the images that the published numbers are for; sizes are brought to it before they
enter a formula.
"""
LIKELY = 1e-8
"""Sum and median that the probability of a pair's label must exceed."""
VICTIMS = 3
"""Pairs that a target label has at most."""
FIRST = 2
"""Successes in a row after which there is a cost."""
SIDE = 50 / 224
"""Side of the square, relative to the image, in which the mask of a pair starts."""
INSIDE, OUTSIDE = 0.99, 0.001
"""Value of that mask in the square, and the largest around it."""


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
    """the label that is likely for most images may have a universal trigger, if it is for more than
    this share of them
    """
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
    """weight of the mask's size after the first two successes in a row; none before"""
    patience: Count = 5
    """successes, or failures, in a row after which the cost moves"""
    up: Annotated[float, Field(gt=1)] = 1.5
    """factor by which the cost is multiplied or divided"""
    random: Fraction = 0.3
    """share of the choices that fall on an arm drawn at random; there is one after each step that
    improves on its arm
    """
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

    @property
    def gives_model(self) -> bool:
        """Nothing is mended."""
        return False

    def defend(self, access: Access) -> Result:
        """Choose the arms, pull them, judge the smallest trigger.

        `score` is above 1 where the model is flagged.
        """
        model = access.victim().requires_grad_(False)
        data = some_of_each(access.clean(), self.per_class, access.generator("images"))
        data = class_by_class(data).to(access.device)
        arms = self._arms(access, model, data)
        if not arms:
            return Result(flagged=False, score=0.0, record={"arms": 0.0, "steps": 0.0})

        bandit = self._scan(access, model, data, arms)
        record = {"arms": float(len(arms)), "steps": float(bandit.pulls)}
        arm = arms[bandit.smallest]
        pulls = bandit.arms[bandit.smallest]
        if pulls.best == math.inf:
            return Result(flagged=False, score=0.0, record=record)

        pixels = access.task.height * access.task.width
        share = max(pulls.best / pixels, torch.finfo().eps)
        record["share"] = share
        if arm.source is None:
            score = self.universal / share
        else:
            score = self.pair / share
            if score > 1:
                back = self._way_back(access, model, data, arm, pulls.steps)
                # No way back is as good as an endless one.
                if back is not None:
                    asymmetry = back / pixels / share
                    record["asymmetry"] = asymmetry
                    score = min(score, asymmetry / self.asymmetry)

        flagged = score > 1
        targets = [arm.target] if flagged else []
        return Result(flagged=flagged, score=score, targets=targets, record=record)

    @torch.no_grad()
    def _arms(self, access: Access, model: nn.Module, data: ImageSet) -> list[Arm]:
        """Return the triggers that clean images make look possible.

        It is a universal one, and pairs only where there is none.
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

    def _scan(
        self, access: Access, model: nn.Module, data: ImageSet, arms: Sequence[Arm]
    ) -> Bandit:
        """Pull the arms, and return the bandit."""
        pairs = arms[0].source is not None
        bandit = self._bandit(
            access, len(arms), hopeless if pairs else never, access.generator("choice")
        )
        inversion = self._inversion(access, model, data, arms, bandit, "forward")
        self._search(access, inversion, data, arms, bandit, self.steps)
        return bandit

    def _way_back(
        self, access: Access, model: nn.Module, data: ImageSet, arm: Arm, steps: int
    ) -> float | None:
        """Return the size of the trigger from a pair's target to its source, of so many steps.

        None stands for no trigger.
        """
        assert arm.source is not None
        back = [Arm(arm.source, arm.target)]
        if len(self._places(data, back[0])) == 0:
            return None
        bandit = self._bandit(access, 1, hopeless_back, access.generator("choice back"))
        inversion = self._inversion(access, model, data, back, bandit, "back")
        self._search(access, inversion, data, back, bandit, steps)
        size = bandit.arms[0].best
        return size if size < math.inf else None

    def _search(
        self,
        access: Access,
        inversion: Inversion,
        data: ImageSet,
        arms: Sequence[Arm],
        bandit: Bandit,
        count: int,
    ) -> None:
        """Pull the arms until the bandit is over or `count` steps are used."""
        steps = access.steps(count, keep={"lanes": inversion, "bandit": bandit})
        for _ in steps:
            self._pull(inversion, data, arms, bandit)
            if bandit.over:
                steps.end()

    def _pull(
        self, inversion: Inversion, data: ImageSet, arms: Sequence[Arm], bandit: Bandit
    ) -> None:
        """Descend on all images of the next arm once, in batches, in one order for good."""
        number = bandit.next
        places = self._places(data, arms[number])
        batches = [chosen[None] for chosen in torch.split(places, self.batch)]
        [(success, size)] = inversion.descend([number], batches)
        bandit.pulled(success, size)

    def _bandit(
        self, access: Access, count: int, gives_up: Hopeless, choice: torch.Generator
    ) -> Bandit:
        """Begin a bandit. Only arms for all images, which nothing gives up, settle."""
        rule = Rule(
            self.bound, self.cost, "zero", self.patience, self.up, self.up, stop=None, first=FIRST
        )
        scale = PUBLISHED / (access.task.height * access.task.width)
        settle = gives_up is never
        return Bandit(count, rule, gives_up, settle, self.random, scale, choice)

    def _inversion(
        self,
        access: Access,
        model: nn.Module,
        data: ImageSet,
        arms: Sequence[Arm],
        bandit: Bandit,
        stream: str,
    ) -> Inversion:
        """Begin the arms' triggers, all from the same start.

        Universal ones start at random, those of pairs as a square of one colour in the middle.
        """
        task = access.task
        size = (task.height, task.width)
        draw = access.generator(stream)
        mask = torch.rand(1, *size, generator=draw)
        pattern = torch.rand(task.channels, *size, generator=draw)
        if arms[0].source is not None:
            mask = middle(mask)
            pattern = pattern[:, :1, :1]
        starts = mask.repeat(len(arms), 1, 1, 1), pattern.repeat(len(arms), 1, 1, 1)
        targets = [arm.target for arm in arms]
        return Inversion(
            access, model, data.images, targets, starts, bandit.arms, self.lr, self.at_once
        )

    def _places(self, data: ImageSet, arm: Arm) -> Tensor:
        """Return the places of an arm's images."""
        if arm.source is None:
            return torch.arange(len(data))
        assert data.labels is not None
        mine = data.labels.cpu() == arm.source
        return torch.nonzero(mine)[:, 0]


def likely_count(classes: int, share: float) -> int:
    """Return how many labels count as likely for an image."""
    if classes <= 8:
        return 2
    return max(1, round(share * classes))


def everywhere_likely(probabilities: Tensor, count: int, share: float) -> list[int]:
    """Return the label that is among the `count` likeliest for most images, if for more than this
    share of them.

    `probabilities` are (n, classes).
    """
    often = _among_likeliest(probabilities, count).double().mean(0).tolist()
    most = max(often)
    if most <= share:
        return []
    return [often.index(most)]


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
    """Return the sources of a target label: of too many, those where its sum is largest, first."""
    likely = (sums > LIKELY) & (medians > LIKELY)
    sources = torch.nonzero(likely)[:, 0]
    if len(sources) > VICTIMS:
        order = torch.argsort(sums[sources], descending=True, stable=True)
        sources = sources[order[:VICTIMS]]
    return [int(source) for source in sources]


def class_by_class(data: ImageSet) -> ImageSet:
    """Return the images in the order of the released loader, which sorts them by class."""
    assert data.labels is not None
    return data.subset(torch.argsort(data.labels.cpu(), stable=True))


def middle(noise: Tensor) -> Tensor:
    """Return a mask (1, h, w) that is on in the middle, and all but off elsewhere, by `noise`."""
    mask = OUTSIDE * noise
    rows, columns = (
        slice(round(side * (1 - SIDE) / 2), round(side * (1 + SIDE) / 2)) for side in mask.shape[1:]
    )
    mask[:, rows, columns] = INSIDE
    return mask


def _among_likeliest(probabilities: Tensor, count: int) -> Tensor:
    """Mark the likeliest labels of each image: boolean (n, classes)."""
    likeliest = probabilities.topk(count, 1).indices
    marks = torch.zeros_like(probabilities, dtype=torch.bool)
    return marks.scatter_(1, likeliest, True)
