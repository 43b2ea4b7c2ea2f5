"""Triggers for pairs of classes: which small patch turns images of one class to another?

Tao et al., S&P 2022 (MOTH), as its code runs. The smallest mask that turns enough images of class i
to class j is the distance from i to j. It is summed over the colour channels, which are alike: of
three channels it is three times the size of one. Pairs are lanes of `inversion`, many at a time.

Hardening looks for two triggers at a time, one for each way between two classes, on the few images
of them in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness import Workbench
from harness.learn import evaluating, to_float
from plugins.parts.inversion import Controller, Endless, Found, Inversion, Rule, blend
from plugins.parts.pair_search import Answer, Pair, Pictures
from plugins.parts.similarity import similarity

POWER = 1.5
"""MOTH's code divides the cost by this power of what it multiplies it with."""
NOISE = 0.01
"""Largest noise on a best trigger, in [0, 1], from which hardening goes on."""


@dataclass(frozen=True)
class PairSettings:
    """How pairs are searched; defaults are those of the distance that is released with MOTH."""

    steps: int = 1000
    """passes over the images of both ways, each followed by a look at the cost"""
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
    settled: float = 0.0
    """share by which a mask must shrink for `stop` to begin anew"""
    stop: int | None = None
    """steps without such a fall after which a pair is done, once its cost has risen and fallen;
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
            slack=1 - self.settled,
            stop=self.stop,
        )


class PatchSearch:
    """A search for a trigger for each ordered pair, all together; see `PairSearch`.

    Success is judged while triggers move, as released. The distance of a pair is the smallest size
    at which its mask met the bound, summed over the channels; the mask that is kept is a step
    further, and may be a little smaller or larger.
    """

    def __init__(
        self,
        access: Workbench,
        model: nn.Module,
        pictures: Pictures,
        pairs: Sequence[Pair],
        settings: PairSettings,
        stream: str,
    ) -> None:
        """Start all pairs, whose classes are among those of the pictures.

        `model` is frozen for less memory by the caller, if that is wanted. `stream` names the
        draws: where searches start, and the order of the images.
        """
        task = access.task
        count = pictures.images.shape[1]
        batch = min(settings.batch, count)
        self._batches = count // batch
        self._channels = task.channels
        self._rows = torch.tensor([pictures.classes.index(source) for source, _ in pairs])
        masks: list[Tensor] = []
        patterns: list[Tensor] = []
        self.streams: list[Endless] = []
        for (source, target), row in zip(pairs, self._rows.tolist(), strict=True):
            # Draws of its own, so that a pair's distance is the same whatever others are measured.
            draw = access.generator(f"{stream}/{source}/{target}")
            masks.append(torch.rand(1, task.height, task.width, generator=draw))
            patterns.append(torch.rand(task.image_shape, generator=draw))
            places = torch.arange(row * count, (row + 1) * count)
            self.streams.append(Endless(places, batch, draw))
        rule = settings.rule(task.channels)
        self.inversion = Inversion(
            access,
            model,
            pictures.images.flatten(0, 1),
            [target for _, target in pairs],
            (torch.stack(masks), torch.stack(patterns)),
            [Controller(rule) for _ in pairs],
            settings.lr,
            settings.at_once,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that epochs change, for `access.steps`, but the generators."""
        return {
            "lanes": self.inversion.state_dict(),
            "streams": [stream.state_dict() for stream in self.streams],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.inversion.load_state_dict(state["lanes"])
        for stream, kept in zip(self.streams, state["streams"], strict=True):
            stream.load_state_dict(kept)

    @property
    def running(self) -> list[int]:
        """See `PairSearch`."""
        return self.inversion.running

    @property
    def steps(self) -> list[int]:
        """See `PairSearch`."""
        return [control.steps * self._batches for control in self.inversion.controllers]

    @property
    def found(self) -> list[Found]:
        """The smallest trigger of each pair that met the bound, else the last."""
        return [self.inversion.found(lane) for lane in range(len(self.streams))]

    @property
    def distances(self) -> list[float]:
        """See `PairSearch`."""
        return [self._channels * control.best for control in self.inversion.controllers]

    def epoch(self) -> None:
        """Go once through the images, then judge each pair and adapt its cost.

        Images that make no whole batch wait for another pass.
        """
        running = self.running
        self.inversion.step(running, self._drawn([self.streams[lane] for lane in running]))

    def _drawn(self, streams: Sequence[Endless]) -> Iterator[Tensor]:
        """Yield the batches of a pass, each (streams, b)."""
        for _ in range(self._batches):
            yield torch.stack([next(stream) for stream in streams])

    @torch.no_grad()
    def further(self, pictures: Pictures) -> Answer:
        """See `PairSearch`."""
        inversion = self.inversion
        successes: list[float] = []
        alike: list[float] = []
        with evaluating(inversion.model):
            for lane, trigger in enumerate(self.found):
                images = to_float(pictures.images[int(self._rows[lane])])
                stamped = blend(images, trigger.mask, trigger.pattern)
                logits = inversion.model(stamped.contiguous(memory_format=torch.channels_last))
                hits = logits.argmax(1) == inversion.targets[lane]
                successes.append(float(hits.float().mean()))
                alike.append(float(similarity(stamped, images).mean()))
        distances = torch.tensor(self.distances)
        return Answer(torch.tensor(successes), distances, torch.tensor(alike))


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
    code. `settings.batch` is not looked at. Returns the trigger that turns the first class to the
    second, then the other.
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
