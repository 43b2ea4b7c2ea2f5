"""Triggers for pairs of classes: which small patch turns images of one class to another?

Tao et al., S&P 2022 (MOTH), as its code runs. The smallest mask that turns enough images of class i
to class j is the distance from i to j. It is summed over the colour channels, which are alike: of
three channels it is three times the size of one. Pairs are lanes of `inversion`, many at a time.

Hardening looks for two triggers at a time, one for each way between two classes, on the few images
of them in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from harness import Incompatible, Workbench
from harness.learn import ImageSet
from plugins.parts.inversion import Controller, Endless, Found, Inversion, Rule

Pair = tuple[int, int]
"""The class of the images, and the class that they are turned to."""

POWER = 1.5
"""MOTH's code divides the cost by this power of what it multiplies it with."""
NOISE = 0.01
"""Largest noise on a best trigger, in [0, 1], from which hardening goes on."""


@dataclass(frozen=True)
class PairSettings:
    """How pairs are searched; defaults are those of the distance that is released with MOTH."""

    images: int = 100
    """images of a class that are used; of a smaller class all"""
    steps: int = 1000
    """passes over them, each followed by a look at the cost"""
    batch: int = 32
    """images of one optimiser step; those that make no whole batch wait for another pass"""
    lr: float = 0.1
    """learning rate of Adam"""
    bound: float = 0.9
    """share of a step's images that must get the label for the step to succeed"""
    cost: float = 1e-3
    """first weight of the mask's size, which is summed over the channels, against the mean
    cross-entropy
    """
    patience: int = 10
    """successes, or failures, in a row after which the cost moves"""
    up: float = 1.5
    """what the cost is multiplied by; it is divided by up^1.5"""
    stop: int | None = None
    """steps without improvement after which a pair is done, once its cost has risen and fallen;
    none: all steps are made, as released
    """
    at_once: int = 320
    """images that go through the network together; moves rounding errors only"""

    def rule(self, channels: int) -> Rule:
        """Return the rule by which the cost of images with so many channels adapts."""
        return Rule(
            bound=self.bound,
            cost=self.cost * channels,
            start="cost",
            patience=self.patience,
            up=self.up,
            down=self.up**POWER,
            stop=self.stop,
        )


def pair_triggers(
    access: Workbench,
    model: nn.Module,
    data: ImageSet,
    pairs: Sequence[Pair],
    settings: PairSettings,
    stream: str,
) -> list[Found]:
    """Search a trigger for each ordered pair, all together, on labelled images.

    `model` is frozen for less memory by the caller, if that is wanted. `stream` names the draws:
    which images of a class are used, their order, and where searches start. Equal names give equal
    draws. Returns a `Found` for each pair, whose `reached` is False where no trigger met the bound.
    Raises Incompatible where a class of the pairs has no image.
    """
    task = access.task
    pools = _pools(access, data, pairs, settings.images, stream)
    batch = min(settings.batch, min(len(pool) for pool in pools.values()))
    batches = max(1, min(len(pool) for pool in pools.values()) // batch)
    masks: list[Tensor] = []
    patterns: list[Tensor] = []
    streams: list[Endless] = []
    for source, target in pairs:
        # Draws of its own, so that a pair's distance is the same whatever others are measured.
        draw = access.generator(f"{stream}/{source}/{target}")
        masks.append(torch.rand(1, task.height, task.width, generator=draw))
        patterns.append(torch.rand(task.image_shape, generator=draw))
        streams.append(Endless(pools[source], batch, draw))
    rule = settings.rule(task.channels)
    inversion = Inversion(
        access,
        model,
        data.images.to(access.device),
        [target for _, target in pairs],
        (torch.stack(masks), torch.stack(patterns)),
        [Controller(rule) for _ in pairs],
        settings.lr,
        settings.at_once,
    )
    steps = access.steps(settings.steps, {"lanes": inversion, "streams": tuple(streams)})
    for _ in steps:
        running = inversion.running
        inversion.step(running, _batches([streams[lane] for lane in running], batches))
        if not inversion.running:
            steps.end()
    return [inversion.found(lane) for lane in range(len(pairs))]


def pair_distances(
    access: Workbench,
    model: nn.Module,
    data: ImageSet,
    pairs: Sequence[Pair],
    settings: PairSettings,
    stream: str,
) -> np.ndarray:
    """Measure MOTH's distance of each ordered pair: float64 (pairs,), NaN where the search failed.

    A distance is the size of the smallest mask that met the bound, summed over the channels. One
    search for each pair; MOTH makes three and takes the smallest that succeeded. See
    `pair_triggers` for the arguments, and for what it raises.
    """
    found = pair_triggers(access, model, data, pairs, settings, stream)
    distances = np.full(len(pairs), np.nan)
    for place, trigger in enumerate(found):
        if trigger.reached:
            distances[place] = access.task.channels * trigger.size
    return distances


def _pools(
    access: Workbench, data: ImageSet, pairs: Sequence[Pair], count: int, stream: str
) -> dict[int, Tensor]:
    """Return the places of the images that are used of each source class."""
    assert data.labels is not None
    labels = data.labels.cpu()
    order = torch.randperm(len(labels), generator=access.generator(f"{stream}/images"))
    pools: dict[int, Tensor] = {}
    for source in sorted({source for source, _ in pairs}):
        places = order[labels[order] == source][:count]
        if len(places) == 0:
            raise Incompatible(f"there is no image of class {source} to measure a distance from")
        pools[source] = places
    return pools


def _batches(streams: Sequence[Endless], count: int) -> Iterator[Tensor]:
    """Yield so many batches, each (streams, b)."""
    for _ in range(count):
        yield torch.stack([next(stream) for stream in streams])


def two_way(
    access: Workbench,
    model: nn.Module,
    images: Tensor,
    pair: Pair,
    starts: tuple[Tensor, Tensor],
    settings: PairSettings,
    draw: torch.Generator,
) -> list[Found]:
    """Search two triggers, one for each way between the classes of a pair.

    `images` are uint8 (2, n, h, w, c), n of the first class and n of the second, on the device.
    All take part in every step, and the cross-entropy is their sum, not their mean. `starts` are
    masks (2, 1, h, w) and patterns (2, c, h, w) in [0, 1]. After each new best of one way, it goes
    on from that with noise out of `draw`, and the other from where it is; so does the released
    code. `settings.images` and `settings.batch` are not looked at. Returns the trigger that turns
    the first class to the second, then the other.
    """
    count = images.shape[1]
    # Adam sees no scale: a sum of n cross-entropies and a cost are their mean and an nth of it.
    rule = settings.rule(images.shape[-1])
    rule = Rule(**{**vars(rule), "cost": rule.cost / count})
    inversion = Inversion(
        access,
        model,
        images.flatten(0, 1),
        [pair[1], pair[0]],
        starts,
        [Controller(rule), Controller(rule)],
        settings.lr,
        settings.at_once,
    )
    places = torch.arange(2 * count).view(2, count)
    for _ in range(settings.steps):
        better = inversion.step([0, 1], [places])
        for lane in (0, 1):
            if better:
                _go_on(inversion, lane, lane in better, draw)
    return [inversion.found(lane) for lane in (0, 1)]


def _go_on(inversion: Inversion, lane: int, noisy: bool, draw: torch.Generator) -> None:
    """Start a lane anew from where it is, with noise or without."""
    trigger = inversion.now(lane, False)
    mask = trigger.mask
    pattern = trigger.pattern
    if noisy:
        mask = _disturbed(mask, draw)
        pattern = _disturbed(pattern, draw)
    inversion.restart(lane, mask.clamp(0, 1), pattern.clamp(0, 1))


def _disturbed(pixels: Tensor, draw: torch.Generator) -> Tensor:
    noise = (2 * torch.rand(pixels.shape, generator=draw) - 1) * NOISE
    return pixels + noise.to(pixels.device)
