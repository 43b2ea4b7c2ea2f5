"""One universal trigger a class, which turns images of all classes to it: what Neural Cleanse
judges and MOTH warms up.

The published loop shuffles all images of the defender, those of the target class included, takes a
fixed number of them a step, and adapts the cost after each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import Incompatible, NotInKey, Part, Task
from plugins.parts.inversion import Inversion, Rule, endless
from plugins.parts.patterns import Stamp
from plugins.parts.per_class import some_of_each

if TYPE_CHECKING:
    from harness import PartAccess
    from harness.learn import ImageSet

POWER = 1.5
"""The released code divides the cost by the power of what it multiplies it with."""
CONSTANT = 1.0
"""Where the toolbox that compares defenses (BackdoorBench) starts masks and patterns, before the
tanh.
"""


class Triggers(nn.Module):
    """For each class a mask (1, h, w) and a pattern (c, h, w) in [0, 1], and whether the trigger
    met its bound.
    """

    masks: Tensor
    patterns: Tensor
    reached: Tensor

    def __init__(self, classes: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = shape
        self.register_buffer("masks", torch.zeros(classes, 1, height, width))
        self.register_buffer("patterns", torch.zeros(classes, channels, height, width))
        self.register_buffer("reached", torch.zeros(classes, dtype=torch.bool))

    @property
    def norms(self) -> list[float]:
        """The sum of each mask."""
        return [float(norm) for norm in self.masks.double().sum((1, 2, 3))]

    def stamp(self, label: int) -> Stamp:
        """The trigger of one class."""
        return Stamp(self.masks[label].clone(), self.masks[label] * self.patterns[label])


class UniversalTriggers(Part):
    """For each class the smallest patch found that turns clean images to it (Wang et al. 2019)."""

    needs: ClassVar[AbstractSet[str]] = frozenset({"victim", "clean-labelled"})
    citation = "Wang et al.: Neural Cleanse - Identifying and Mitigating Backdoor Attacks in Neural Networks, S&P 2019"
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

    steps: Annotated[int, Field(ge=1)] = 1000
    """steps at most, each followed by a look at the cost; 1000 in the example released with the
    code
    """
    images: Annotated[int, Field(ge=1)] | None = 1000
    """images a step, in whole batches, drawn from the grant in one shuffled round after another;
    none: one round
    """
    batch: Annotated[int, Field(ge=1)] = 32
    """images of one optimiser step, fewer where fewer are granted"""
    per_class: Annotated[int, Field(ge=1)] | None = None
    """take only so many images of each class; none: the grant"""
    sources: Literal["all", "others"] = "all"
    """which images a trigger is to turn: all, as in the released code, or those of other classes
    than its own
    """
    lr: Annotated[float, Field(gt=0)] = 0.1
    """learning rate of Adam"""
    init: Literal["uniform", "constant"] = "uniform"
    """masks and patterns at the start: uniform in (0, 1), or 1 before the tanh, which is a mask of
    0.88 everywhere
    """

    bound: Annotated[float, Field(gt=0, le=1)] = 0.99
    """share of a step's images that must get the label for the step to succeed"""
    cost: Annotated[float, Field(gt=0)] = 1e-3
    """first weight of the mask's size"""
    start: Literal["zero", "cost"] = "zero"
    """weight of the size before `patience` steps have succeeded: none, as in the released code, or
    `cost`
    """
    patience: Annotated[int, Field(ge=1)] = 5
    """successes, or failures, in a row after which the cost moves; 10 is the default of the
    released class
    """
    up: Annotated[float, Field(gt=1)] = 2.0
    """what the cost is multiplied by; it is divided by up^1.5. 1.5 is the default of the released
    class
    """
    slack: Annotated[float, Field(gt=0, le=1)] = 1.0
    """a step improves on the smallest size where it comes below this multiple of it"""
    stop: Annotated[int, Field(ge=1)] | None = 25
    """steps without improvement after which a label is done; none: all `steps` are made"""
    at_once: Annotated[int, Field(ge=1), NotInKey] = 320
    """images that go through the network together, of as many labels as that makes; moves rounding
    errors only
    """

    def build(self, task: Task, model: nn.Module | None) -> nn.Module:
        """A `Triggers` for the task."""
        return Triggers(task.classes, task.image_shape)

    def make(self, access: PartAccess) -> nn.Module:
        """Invert all labels together. Raises Incompatible where a label has no images to turn."""
        task = access.task
        data = some_of_each(access.clean(), self.per_class, access.generator("images")).to(
            access.device
        )
        labels = range(task.classes)
        start = self._start(access.generator("start"), task)
        model = access.victim().requires_grad_(False)
        inversion = Inversion(
            access, model, data.images, labels, start, self.rule(), self.lr, self.at_once
        )
        pools = self._pools(data, task.classes)
        batch = min(self.batch, *map(len, pools))
        count = max(1, (self.images or min(map(len, pools))) // batch)
        streams = [
            endless(pool, batch, access.generator(f"order/{n}")) for n, pool in enumerate(pools)
        ]
        for step in range(self.steps):
            if not (running := inversion.running):
                break
            inversion.step(running, _drawn(streams, running, count))
            access.tick(done=step + 1, of=self.steps)
        return self._kept(inversion, Triggers(task.classes, task.image_shape).to(access.device))

    def rule(self) -> Rule:
        """How the cost adapts."""
        down = self.up**POWER
        return Rule(
            self.bound, self.cost, self.start, self.patience, self.up, down, self.slack, self.stop
        )

    def _pools(self, data: ImageSet, classes: int) -> list[Tensor]:
        """The images that each label is inverted on; a single pool where it is the same for all."""
        assert data.labels is not None
        labels = data.labels.cpu()
        pools = [torch.arange(len(labels))]
        if self.sources == "others":
            pools = [torch.nonzero(labels != label).flatten() for label in range(classes)]
        if not all(map(len, pools)):
            raise Incompatible(
                f"of the {len(labels)} clean images there is none that a label could be inverted on"
            )
        return pools

    def _start(self, generator: torch.Generator, task: Task) -> tuple[Tensor, Tensor]:
        """Masks and patterns, in (0, 1)."""
        triggers = Triggers(task.classes, task.image_shape)
        shapes = triggers.masks.shape, triggers.patterns.shape
        if self.init == "constant":
            masks, patterns = (torch.full(shape, CONSTANT).tanh() / 2 + 0.5 for shape in shapes)
        else:
            masks, patterns = (torch.rand(shape, generator=generator) for shape in shapes)
        return masks, patterns

    def _kept(self, inversion: Inversion, triggers: Triggers) -> Triggers:
        for label in range(len(triggers.masks)):
            found = inversion.found(label)
            triggers.masks[label], triggers.patterns[label] = found.mask, found.pattern
            triggers.reached[label] = found.reached
        return triggers


def _drawn(streams: list[Iterator[Tensor]], lanes: list[int], count: int) -> Iterator[Tensor]:
    """`count` batches for each of these lanes, (lanes, b), or (1, b) from a stream that all share."""
    for _ in range(count):
        yield torch.stack(
            [
                next(stream)
                for stream in (streams if len(streams) == 1 else [streams[n] for n in lanes])
            ]
        )
