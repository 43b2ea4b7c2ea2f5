"""One universal trigger a class, which turns images of all classes to it.

Neural Cleanse judges these triggers, and MOTH begins with them. The published loop shuffles all
images of the defender, those of the target class included, takes a fixed number of them a step, and
adapts the cost after each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import Incompatible, NotInKey, Part, Task
from plugins.parts.inversion import Controller, Endless, Inversion, Rule
from plugins.parts.patterns import Stamp
from plugins.parts.per_class import some_of_each
from plugins.parts.ranges import Count, Positive, Share

if TYPE_CHECKING:
    from harness import PartAccess
    from harness.learn import ImageSet

POWER = 1.5
"""The released code divides the cost by the power of what it multiplies it with."""
CONSTANT = 1.0
"""Masks and patterns at the start, before the tanh, in the toolbox that compares defenses
(BackdoorBench).
"""


class Triggers(nn.Module):
    """A trigger for each class."""

    masks: Tensor
    """(classes, 1, h, w), in [0, 1]"""
    patterns: Tensor
    """(classes, c, h, w), in [0, 1]"""
    reached: Tensor
    """boolean (classes,): the trigger met its bound"""

    def __init__(self, classes: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        self.register_buffer("masks", torch.zeros(classes, 1, height, width))
        self.register_buffer("patterns", torch.zeros(classes, channels, height, width))
        self.register_buffer("reached", torch.zeros(classes, dtype=torch.bool))

    @property
    def norms(self) -> list[float]:
        """The sum of each mask."""
        norms: list[float] = self.masks.double().sum((1, 2, 3)).tolist()
        return norms

    def trigger(self, label: int) -> Stamp:
        """Return the trigger of one class."""
        mask = self.masks[label]
        return Stamp(mask.clone(), mask * self.patterns[label])


class UniversalTriggers(Part):
    """For each class the smallest patch found that turns clean images to it (Wang et al. 2019)."""

    needs: ClassVar[AbstractSet[str]] = frozenset({"victim", "clean-labelled"})
    citation = (
        "Wang et al.: Neural Cleanse - "
        "Identifying and Mitigating Backdoor Attacks in Neural Networks, S&P 2019"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nc": {},
        "nc-class": {"patience": 10, "up": 1.5, "slack": 0.99, "stop": 20},
        "backdoorbench": {
            "steps": 80,
            "batch": 256,
            "images": None,
            "bound": 0.98,
            "start": "cost",
            "slack": 0.99,
            "init": "constant",
        },
        # The warm-up of its hardening: a step sees all images, those of the class itself excepted.
        "moth": {
            "per_class": 10,
            "sources": "others",
            "steps": 500,
            "batch": 1_000_000,
            "images": None,
            "start": "cost",
            "patience": 10,
            "up": 1.5,
            "stop": None,
        },
    }

    steps: Count = 1000
    """steps at most, each followed by a look at the cost; 1000 in the example released with the
    code
    """
    images: Count | None = 1000
    """images a step, in whole batches, drawn from the grant in one shuffled round after another;
    none: one round
    """
    batch: Count = 32
    """images of one optimiser step, fewer where fewer are granted"""
    per_class: Count | None = None
    """images of each class that are used; none: the whole grant"""
    sources: Literal["all", "others"] = "all"
    """which images a trigger is to turn: all, as in the released code, or those of other classes
    than its own
    """
    lr: Positive = 0.1
    """learning rate of Adam"""
    init: Literal["uniform", "constant"] = "uniform"
    """masks and patterns at the start: uniform in (0, 1), or 1 before the tanh, which is a mask of
    0.88 everywhere
    """

    bound: Share = 0.99
    """share of a step's images that must get the label for the step to succeed"""
    cost: Positive = 1e-3
    """first weight of the mask's size"""
    start: Literal["zero", "cost"] = "zero"
    """weight of the size before `patience` steps have succeeded: none, as in the released code, or
    `cost`
    """
    patience: Count = 5
    """successes, or failures, in a row after which the cost moves; 10 is the default of the
    released class
    """
    up: Annotated[float, Field(gt=1)] = 2.0
    """what the cost is multiplied by; it is divided by up^1.5. 1.5 is the default of the released
    class
    """
    slack: Share = 1.0
    """a step improves on the smallest size where it comes below this multiple of it"""
    stop: Count | None = 25
    """steps without improvement after which a label is done; none: all `steps` are made"""
    at_once: Annotated[int, Field(ge=1), NotInKey] = 320
    """images that go through the network together, of as many labels as that makes; moves rounding
    errors only
    """

    def build(self, task: Task, model: nn.Module | None) -> nn.Module:
        """Make a `Triggers` for the task."""
        return Triggers(task.classes, task.image_shape)

    def make(self, access: PartAccess) -> nn.Module:
        """Invert all labels together. Raises Incompatible where a label has no images to turn."""
        task = access.task
        data = some_of_each(access.clean(), self.per_class, access.generator("images"))
        data = data.to(access.device)
        labels = range(task.classes)
        start = self._start(access.generator("start"), task)
        model = access.victim().requires_grad_(False)
        controllers = [Controller(self.rule()) for _ in labels]
        inversion = Inversion(
            access, model, data.images, labels, start, controllers, self.lr, self.at_once
        )
        pools = self._pools(data, task.classes)
        smallest = min(len(pool) for pool in pools)
        batch = min(self.batch, smallest)
        images = smallest if self.images is None else self.images
        batches = max(1, images // batch)
        streams: list[Endless] = []
        for number, pool in enumerate(pools):
            order = access.generator(f"order/{number}")
            streams.append(Endless(pool, batch, order))
        steps = access.steps(self.steps, {"lanes": inversion, "streams": tuple(streams)})
        for _ in steps:
            running = inversion.running
            inversion.step(running, _drawn(streams, running, batches))
            if not inversion.running:
                steps.end()
        triggers = Triggers(task.classes, task.image_shape).to(access.device)
        for label in labels:
            found = inversion.found(label)
            triggers.masks[label] = found.mask
            triggers.patterns[label] = found.pattern
            triggers.reached[label] = found.reached
        return triggers

    def rule(self) -> Rule:
        """Return the rule by which the cost adapts."""
        down = self.up**POWER
        return Rule(
            self.bound, self.cost, self.start, self.patience, self.up, down, self.slack, self.stop
        )

    def _pools(self, data: ImageSet, classes: int) -> list[Tensor]:
        """Return the places of the images that each label is inverted on.

        It is a single pool where it is the same for all labels.
        """
        assert data.labels is not None
        labels = data.labels.cpu()
        if self.sources == "all":
            pools = [torch.arange(len(labels))]
        else:
            pools = [torch.nonzero(labels != label).flatten() for label in range(classes)]
        for pool in pools:
            if len(pool) == 0:
                raise Incompatible(
                    f"of the {len(labels)} clean images there is none "
                    "that a label could be inverted on"
                )
        return pools

    def _start(self, generator: torch.Generator, task: Task) -> tuple[Tensor, Tensor]:
        """Return masks and patterns to start from, in (0, 1)."""
        triggers = Triggers(task.classes, task.image_shape)
        if self.init == "constant":
            masks = torch.full_like(triggers.masks, CONSTANT)
            patterns = torch.full_like(triggers.patterns, CONSTANT)
            return masks.tanh() / 2 + 0.5, patterns.tanh() / 2 + 0.5
        masks = torch.rand(triggers.masks.shape, generator=generator)
        patterns = torch.rand(triggers.patterns.shape, generator=generator)
        return masks, patterns


def _drawn(streams: list[Endless], lanes: list[int], batches: int) -> Iterator[Tensor]:
    """Yield batches for these lanes, (lanes, b), or (1, b) from a stream that all share."""
    asked = streams
    if len(streams) > 1:
        asked = [streams[lane] for lane in lanes]
    for _ in range(batches):
        places = [next(stream) for stream in asked]
        yield torch.stack(places)
