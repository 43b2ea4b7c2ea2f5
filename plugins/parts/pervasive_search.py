"""The search for pervasive backdoors, many pairs of classes at a time.

    min  CE(M(x^), t) + alpha (l0 content + l1 (1 - SSIM) + l2 smoothness + norm)       (Eq. 11)

A backdoor that is being optimised is a lane. Lanes share the networks and the decoder's draws, and
nothing else: a lane finds what it would find alone. What is optimised moves from batch to batch, so
a backdoor counts by what it does when it is asked again at rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import Workbench
from harness.learn import evaluating, to_float
from plugins.parts import pervasive
from plugins.parts.codec import Codec
from plugins.parts.inversion import BETAS, Controller
from plugins.parts.pair_search import Answer, Pictures
from plugins.parts.pervasive_backdoors import Backdoor, Draws, apart
from plugins.parts.pervasive_settings import PervasiveSettings
from plugins.parts.vgg_block import LEVELS


@dataclass(frozen=True)
class Lot:
    """Pictures of some classes, prepared: as many of each, n.

    All on one device: `levels` and `standard` (classes, n, c, h, w), `features` (classes, n, k, h,
    w) of the pictures as they are.
    """

    levels: Tensor
    standard: Tensor
    features: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, images: Tensor, encoder: nn.Module, at_once: int) -> Lot:
        """Prepare uint8 pictures (classes, n, h, w, c)."""
        levels = to_float(images.flatten(0, 1)) * LEVELS
        features = torch.cat([encoder(chunk) for chunk in torch.split(levels, at_once)])
        standard = pervasive.standardised(levels)
        shape = (images.shape[0], images.shape[1])
        return cls(apart(levels, shape), apart(standard, shape), apart(features, shape))

    @property
    def count(self) -> int:
        """Pictures of each class."""
        return self.levels.shape[1]

    def usual(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of channels, (classes, c): means over pictures of a class."""
        means, deviations = pervasive.moments(self.levels.flatten(0, 1))
        shape = (len(self.levels), self.count)
        return apart(means, shape).mean(1), apart(deviations, shape).mean(1)


class Search:
    """Lanes: one backdoor for each of `pairs`, (row of the lot, target label)."""

    def __init__(
        self,
        access: Workbench,
        model: nn.Module,
        codec: Codec,
        settings: PervasiveSettings,
        backdoor: Backdoor,
        lot: Lot,
        pairs: Sequence[tuple[int, int]],
        streams: str,
    ) -> None:
        """Start all lanes. `streams` names the draws: equal names give equal draws.

        Raises ValueError where the backdoor does not fit the pictures.
        """
        self.access = access
        self.model = model
        self.codec = codec
        self.settings = settings
        self.backdoor = backdoor
        self.lot = lot
        self.streams = streams
        self.at_once = settings.at_once
        self.batch = min(settings.batch, lot.count)
        """Pictures of a step."""
        device = lot.levels.device
        self.rows = torch.tensor([row for row, _ in pairs], device=device)
        self.targets = torch.tensor([target for _, target in pairs], device=device)
        means, deviations = lot.usual()
        self.usual = (means[self.rows], deviations[self.rows])
        started = backdoor.start(self.usual, access.generator(f"{streams}/start"))
        self.parameters = [nn.Parameter(tensor) for tensor in started]
        groups: list[dict[str, Any]] = []
        for parameter, rate in zip(self.parameters, backdoor.rates, strict=True):
            groups.append({"params": [parameter], "lr": rate})
        self.optimiser = torch.optim.Adam(groups, betas=BETAS)
        self.controllers = [Controller(settings.weighing()) for _ in pairs]
        self.best = [tensor.detach().clone() for tensor in self.parameters]
        """Parameters of the smallest distance at which a lane succeeded at rest, else the start."""
        self._order = access.generator(f"{streams}/order")
        self._noise = torch.Generator(device).manual_seed(access.seed(f"{streams}/noise"))

    def state_dict(self) -> dict[str, Any]:
        """Return all that epochs change, for `access.steps`, but the order's own generator."""
        return {
            "parameters": self.parameters,
            "optimiser": self.optimiser.state_dict(),
            "controllers": [controller.state_dict() for controller in self.controllers],
            "best": self.best,
            "noise": self._noise.get_state(),
            "at_once": self.at_once,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for own, kept in zip(self.parameters, state["parameters"], strict=True):
            own.copy_(kept)
        for here, there in zip(self.best, state["best"], strict=True):
            here.copy_(there)
        self.optimiser.load_state_dict(state["optimiser"])
        for controller, kept in zip(self.controllers, state["controllers"], strict=True):
            controller.load_state_dict(kept)
        self._noise.set_state(state["noise"])
        self.at_once = state["at_once"]

    @torch.no_grad()
    def go_on(self, lane: int, parameters: Sequence[Tensor]) -> None:
        """Start a lane from other parameters, which lack the axis of lanes."""
        for own, best, given in zip(self.parameters, self.best, parameters, strict=True):
            own[lane] = given
            best[lane] = given

    @property
    def running(self) -> list[int]:
        """The lanes that have not ended."""
        return [lane for lane, control in enumerate(self.controllers) if not control.stopped]

    @property
    def distances(self) -> list[float]:
        """The smallest distance of each lane at which it succeeded at rest; infinite: at none."""
        return [control.best for control in self.controllers]

    @property
    def steps(self) -> list[int]:
        """Steps of the optimiser that each lane has made."""
        batches = -(-self.lot.count // self.batch)
        return [control.steps * batches for control in self.controllers]

    def epoch(self) -> None:
        """Go once through all pictures with the lanes that are running, then judge each."""
        lanes = self.running
        order = torch.randperm(self.lot.count, generator=self._order)
        success = torch.zeros(len(lanes))
        distance = torch.zeros(len(lanes))
        with evaluating(self.model):
            for places in torch.split(order, self.batch):
                hits, sizes = self._descend(lanes, places.to(self.rows.device))
                success += hits * len(places) / self.lot.count
                distance += sizes * len(places) / self.lot.count
        self._judge(lanes, success, distance)

    def ask(self, lanes: Sequence[int], parameters: Sequence[Tensor], lot: Lot) -> Answer:
        """Ask backdoors of some lanes at rest, on any lot with the same classes.

        `parameters` are those of all lanes. The decoder's draws are the same at each call.
        """
        lanes = list(lanes)
        device = self.rows.device
        generator = torch.Generator(device).manual_seed(self.access.seed(f"{self.streams}/asked"))
        total = torch.zeros(3, len(lanes), device=device)
        with torch.no_grad(), evaluating(self.model):
            for places in torch.split(torch.arange(lot.count, device=device), self.batch):
                draws = self._draws(len(places), generator, False)
                answer = partial(self._answer, parameters, lot, places, draws)
                total += self._together(lanes, len(places), answer) * len(places) / lot.count
        success, distance, alike = total.cpu()
        return Answer(success, distance, alike)

    def further(self, pictures: Pictures) -> Answer:
        """Ask the best backdoor of each lane about other pictures of the same classes."""
        lot = Lot.of(pictures.images, self.codec.encoder, self.at_once)
        return self.ask(range(len(self.controllers)), self.best, lot)

    def _judge(self, lanes: list[int], success: Tensor, distance: Tensor) -> None:
        """Move the weights of lanes, and keep what is best at rest.

        A lane is asked again only where what was seen on the way promises a new best.
        """
        promising: list[int] = []
        for place, lane in enumerate(lanes):
            enough = float(success[place]) >= self.settings.bound
            if enough and float(distance[place]) < self.controllers[lane].best:
                promising.append(place)
        if promising:
            asked = [lanes[place] for place in promising]
            answer = self.ask(asked, self.parameters, self.lot)
            success[promising] = answer.success
            distance[promising] = answer.distance
        for place, lane in enumerate(lanes):
            control = self.controllers[lane]
            if control.update(float(success[place]), float(distance[place])):
                for best, now in zip(self.best, self.parameters, strict=True):
                    best[lane] = now[lane].detach()
            control.cost = max(control.cost, self.settings.floor)

    def _together(
        self, lanes: list[int], pictures: int, work: Callable[[list[int]], Tensor]
    ) -> Tensor:
        """Do some work for as many lanes at a time as `at_once` allows, with `pictures` each.

        Fewer go together where memory does not suffice. Returns what the work gives, (..., lanes).
        """
        outcomes: list[Tensor] = []
        done = 0
        while done < len(lanes):
            part = lanes[done : done + max(1, self.at_once // pictures)]
            try:
                outcome = work(part)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self.at_once = pictures * (len(part) // 2)
            else:
                outcomes.append(outcome)
                done += len(part)
        return torch.cat(outcomes, dim=-1)

    def _descend(self, lanes: list[int], places: Tensor) -> tuple[Tensor, Tensor]:
        """Make a step of the optimiser; return success and distance before it, both (lanes,)."""
        draws = self._draws(len(places), self._noise, True)
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        outcome = self._together(lanes, len(places), partial(self._pass, places, draws))
        self.optimiser.step()
        self.access.tick(len(lanes) * len(places))
        success, distance = outcome.cpu()
        return success, distance

    def _draws(self, count: int, generator: torch.Generator, search: bool) -> Draws:
        """Draw for `count` pictures, the same for all lanes."""
        like = self.lot.levels[0, :1].expand(count, -1, -1, -1)
        return self.backdoor.draws(like, generator, search)

    def _pass(self, places: Tensor, draws: Draws, lanes: list[int]) -> Tensor:
        """Leave these lanes' gradients where the optimiser looks for them.

        Returns success and distance of each, (2, lanes).
        """
        index = torch.tensor(lanes, device=self.rows.device)
        own = [parameter.detach()[index].requires_grad_() for parameter in self.parameters]
        rows = self.rows[index][:, None]
        original = self.lot.levels[rows, places]
        usual = (self.usual[0][index], self.usual[1][index])
        changed = self.backdoor.applied(own, self.lot.standard[rows, places], draws)
        errors, hits = self._classified(changed, self.targets[index])
        features = self._encoded(changed)
        far = pervasive.content(features, self.lot.features[rows, places])
        settings = self.settings
        terms = settings.content * far
        if settings.ssim:
            terms = terms + settings.ssim * pervasive.unlike(changed, original)
        if settings.smooth:
            terms = terms + settings.smooth * pervasive.roughness(changed)
        if settings.norm:
            terms = terms + settings.norm * pervasive.unusual(own[0], own[1], usual)
        alphas = far.new_tensor([self.controllers[lane].cost for lane in lanes])
        losses = errors.mean(1) + alphas * terms
        gradients = torch.autograd.grad(losses.sum(), own)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            assert parameter.grad is not None
            parameter.grad[index] = gradient
        return torch.stack([hits.float().mean(1), pervasive.UNIT * far.detach()])

    def _answer(
        self,
        parameters: Sequence[Tensor],
        lot: Lot,
        places: Tensor,
        draws: Draws,
        lanes: list[int],
    ) -> Tensor:
        """Return success, distance and similarity of lanes at rest, (3, lanes)."""
        index = torch.tensor(lanes, device=self.rows.device)
        own = [tensor.detach()[index] for tensor in parameters]
        rows = self.rows[index][:, None]
        changed = self.backdoor.applied(own, lot.standard[rows, places], draws)
        _, hits = self._classified(changed, self.targets[index])
        far = pervasive.content(self._encoded(changed), lot.features[rows, places])
        alike = 1 - pervasive.unlike(changed, lot.levels[rows, places])
        return torch.stack([hits.float().mean(1), pervasive.UNIT * far, alike])

    def _classified(self, levels: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return cross-entropy and whether the target is predicted, both (lanes, b)."""
        lanes, count = levels.shape[:2]
        images = (levels / LEVELS).flatten(0, 1)
        logits = self.model(images.contiguous(memory_format=torch.channels_last)).float()
        labels = targets.repeat_interleave(count)
        errors = functional.cross_entropy(logits, labels, reduction="none")
        hits = logits.argmax(1) == labels
        return errors.view(lanes, count), hits.view(lanes, count)

    def _encoded(self, levels: Tensor) -> Tensor:
        features = self.codec.encoder(levels.flatten(0, 1))
        return apart(features, (levels.shape[0], levels.shape[1]))
