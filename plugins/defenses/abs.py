"""ABS: find neurons that alone turn images to one label, and the trigger that drives them.

Liu et al., CCS 2019, as released. Each channel is stimulated on a few clean images (in a residual
network each of a block's sum, and in any network each neuron of a hidden linear layer). For those
that turn nearly all images to one label a trigger is inverted, which raises that neuron above the
others of its layer and is kept small (a patch) or faithful to the image (a filter). The share of
images that a trigger turns to the neuron's label is its REASR; one above 0.8 gives the model away.
Unlearning is that of DECK's comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import Access, NotInKey, Result
from harness.learn import to_float
from plugins.parts.abs_triggers import Filters, FilterTrigger, Form, Patches
from plugins.parts.counting import FORWARD
from plugins.parts.per_class import some_of_each
from plugins.parts.ranges import Count, CountOrZero, Positive, Share
from plugins.parts.stimulation import (
    Candidate,
    Hook,
    Sums,
    channels_first,
    elevated,
    hooked,
    shortlist,
)
from plugins.parts.unlearning import Unlearning


@dataclass(frozen=True)
class Inverted:
    """An inverted trigger, the label that its neuron turns images to, and its REASR for it."""

    trigger: nn.Module
    label: int
    reasr: float


class ABS(Unlearning):
    """Stimulate neurons, invert triggers for suspicious ones, unlearn what works (Liu et al. 2019).

    Triggers are small patches or filters. Those whose REASR is above `bound` give the model away.
    """

    citation = (
        "Liu et al.: ABS - Scanning Neural Networks for Back-doors by Artificial Brain "
        "Stimulation, CCS 2019"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "abs": {},
        "abs-patch": {"kind": "patch"},
        "abs-filter": {"kind": "filter"},
        "deck": {"kind": "filter"},
    }

    kind: Literal["both", "patch", "filter"] = "both"
    """form of the triggers: a patch, a filter that maps a pixel and those around it to a colour, or
    one of each
    """
    corners: Annotated[int, Field(ge=1, le=4)] = 1
    """corners in which patches start, a patch for each: top left as released, bottom right, top
    right, bottom left. The penalty for size keeps a patch near where it started, so that a search
    from the top left seldom finds one that lies elsewhere
    """
    per_class: Count = 5
    """clean images of each class that neurons are judged and triggers inverted on"""
    dissent: CountOrZero = 2
    """images that may vote for another label than the rest"""
    neurons: Count = 21
    """neurons that triggers are inverted for; the released code means 20, and stops one later"""
    spread: CountOrZero = 11
    """number of these that are taken with no more than `per_layer` of one layer"""
    per_layer: Count = 3
    """neurons of one layer among the first `spread`"""
    steps: Count = 1000
    """optimiser steps of an inversion"""
    share: Share = 1 / 3
    """share of those images that triggers are inverted on, drawn once"""
    rate: Positive | None = None
    """learning rate of Adam for triggers; none: 0.1 for patches, 0.002 for filters"""
    area: Share = 64 / 1024
    """share of the image that a patch may cover unpunished: 64 pixels of 32 x 32"""
    window: Count = 12
    """side in pixels of the surroundings that a filter looks at"""
    bound: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """REASR above which a trigger counts"""
    at_once: Annotated[int, Field(ge=1), NotInKey] = 512
    """images that go through the network together; moves rounding errors only"""

    def defend(self, access: Access) -> Result:
        """Stimulate, invert, judge, unlearn; `targets` are labels of the triggers that count."""
        model = access.victim().requires_grad_(False)
        data = some_of_each(access.clean(), self.per_class, access.generator("images"))
        data = data.to(access.device)
        labels = data.labels
        assert labels is not None
        images = to_float(data.images)

        raised = elevated(access, model, images, labels, self.dissent, self.at_once)
        suspicious = shortlist(raised, self.neurons, self.spread, self.per_layer)
        judged = []
        for trigger, neuron in self._inverted(access, model, images, suspicious):
            rate = reasr(model, images, trigger, neuron.label)
            judged.append(Inverted(trigger, neuron.label, rate))
        access.tick(len(judged) * len(images) // FORWARD)

        ranked = sorted(judged, key=lambda inverted: -inverted.reasr)
        named: dict[int, nn.Module] = {}
        for inverted in ranked:
            if inverted.reasr > self.bound:
                named.setdefault(inverted.label, inverted.trigger)
        score = 0.0
        if ranked:
            score = ranked[0].reasr
        likeliest = [inverted.trigger for inverted in ranked[:1]]
        mended = self.mended(access, list(named.values()), likeliest)

        record = {"raised": float(len(raised)), "inverted": float(len(judged))}
        record.update(best_of_each_form(judged))
        return Result(
            model=mended, flagged=bool(named), score=score, targets=list(named), record=record
        )

    def _inverted(
        self, access: Access, model: nn.Module, images: Tensor, neurons: Sequence[Candidate]
    ) -> list[tuple[nn.Module, Candidate]]:
        """Invert a trigger of each form for each neuron.

        As many go through the network together as `at_once` allows.
        """
        order = torch.randperm(len(images), generator=access.generator("order"))
        count = max(1, round(self.share * len(images)))
        shown = images[order[:count].to(images.device)]
        starts = access.generator("start")
        together = max(1, self.at_once // len(shown))
        inverted = []
        for corner in self._corners():
            for first in range(0, len(neurons), together):
                part = neurons[first : first + together]
                form = self._form(corner, len(part), images, starts)
                parameters = []
                groups = []
                for parameter, rate in form.groups():
                    parameters.append(parameter)
                    groups.append({"params": [parameter], "lr": rate})
                optimiser = torch.optim.Adam(groups)
                keep = {"form": tuple(parameters), "adam": optimiser}
                for _ in access.steps(self.steps, keep=keep):
                    stamped = form.stamped(shown)
                    own, others = activations(model, stamped, part)
                    optimiser.zero_grad(set_to_none=True)
                    losses = form.loss(shown, stamped, own, others)
                    losses.sum().backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                    form.project()
                    access.tick(len(part) * len(shown))
                for number, neuron in enumerate(part):
                    inverted.append((form.trigger(number), neuron))
        return inverted

    def _corners(self) -> list[int | None]:
        """Return the corners that patches start in, and None for a filter."""
        corners: list[int | None] = []
        if self.kind != "filter":
            corners.extend(range(self.corners))
        if self.kind != "patch":
            corners.append(None)
        return corners

    def _form(
        self, corner: int | None, count: int, images: Tensor, starts: torch.Generator
    ) -> Form:
        """Make the triggers of `count` neurons: patches that start in a corner, or filters."""
        if corner is None:
            return Filters(count, images, self.window, self.rate or 0.002)
        return Patches(count, images, self.area, self.rate or 0.1, starts, corner)


def best_of_each_form(judged: Sequence[Inverted]) -> dict[str, float]:
    """Return the highest REASR by form of trigger."""
    best: dict[str, float] = {}
    for inverted in judged:
        form = "patch"
        if isinstance(inverted.trigger, FilterTrigger):
            form = "filter"
        best[form] = max(inverted.reasr, best.get(form, 0.0))
    return best


def activations(
    model: nn.Module, stamped: Tensor, neurons: Sequence[Candidate]
) -> tuple[Tensor, Tensor]:
    """Return the activation of each neuron and of the rest of its layer, both (k,).

    `stamped` holds the images that are meant for each neuron, (k, n, c, h, w). Activations are
    summed over images and places, before and after rectification. That of a block is its sum.
    """
    widths = {neuron.module: neuron.of for neuron in neurons}
    own: dict[int, Tensor] = {}
    others: dict[int, Tensor] = {}
    sums = Sums()

    def watch(name: str) -> Hook:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            whole = sums.of(output)
            maps = channels_first(module, output if whole is None else whole, widths[name])
            lanes = torch.split(maps, len(maps) // len(neurons))
            for place, neuron in enumerate(neurons):
                if neuron.module != name:
                    continue
                both = lanes[place] + lanes[place].relu()
                totals = both.transpose(0, 1).flatten(1).sum(1)
                own[place] = totals[neuron.channel]
                others[place] = totals.sum() - totals[neuron.channel]

        return hook

    hooks = [(name, watch(name)) for name in widths]
    with sums, hooked(model, hooks):
        model(stamped.flatten(0, 1))
    places = range(len(neurons))
    of_neurons = torch.stack([own[place] for place in places])
    of_layers = torch.stack([others[place] for place in places])
    return of_neurons, of_layers


@torch.no_grad()
def reasr(model: nn.Module, images: Tensor, trigger: nn.Module, label: int) -> float:
    """Return the share of images (n, c, h, w) that a trigger turns to a label."""
    answers = model(trigger(images)).argmax(1)
    turned = answers == label
    return float(turned.float().mean())
