"""ABS: find neurons that alone turn images to one label, and the trigger that drives them.

Liu et al., CCS 2019, as released. Each channel is stimulated on a few clean images; for those that
turn nearly all images to one label a trigger is inverted, which raises that neuron above the others
of its layer and is kept small (a patch) or faithful to the image (a filter). The share of images
that a trigger turns to the neuron's label is its REASR; one above 0.8 gives the model away.
Unlearning is that of DECK's comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import Access, NotInKey, Result
from harness.learn import to_float
from plugins.parts.abs_triggers import Filters, FilterTrigger, Form, Patches
from plugins.parts.counting import FORWARD
from plugins.parts.per_class import some_of_each
from plugins.parts.stimulation import Hook, Neuron, channels_first, elevated, hooked, shortlist
from plugins.parts.unlearning import Unlearning


class ABS(Unlearning):
    """Stimulate neurons, invert triggers for the suspicious ones, and unlearn what works (Liu et
    al. 2019).
    """

    citation = "Liu et al.: ABS - Scanning Neural Networks for Back-doors by Artificial Brain Stimulation, CCS 2019"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "abs": {},
        "abs-patch": {"kind": "patch"},
        "abs-filter": {"kind": "filter"},
        "deck": {"kind": "filter"},
    }

    kind: Literal["both", "patch", "filter"] = "both"
    """what is inverted: a patch, a filter that maps each pixel and its surroundings to a colour, or
    one of each
    """
    corners: Annotated[int, Field(ge=1, le=4)] = 1
    """corners in which patches start, a patch for each: top left as released, bottom right, top
    right, bottom left. The penalty for size keeps a patch near where it started, so that one found
    top left is seldom one that lies elsewhere
    """
    per_class: Annotated[int, Field(ge=1)] = 5
    """clean images of each class that neurons are judged and triggers inverted on"""
    dissent: Annotated[int, Field(ge=0)] = 2
    """images that may vote for another label than the rest"""
    neurons: Annotated[int, Field(ge=1)] = 21
    """neurons that triggers are inverted for; the released code means 20, and stops one later"""
    spread: Annotated[int, Field(ge=0)] = 11
    """of these, how many are taken with no more than `per_layer` of one layer"""
    per_layer: Annotated[int, Field(ge=1)] = 3
    """neurons of one layer among the first `spread`"""
    steps: Annotated[int, Field(ge=1)] = 1000
    """optimiser steps of an inversion"""
    share: Annotated[float, Field(gt=0, le=1)] = 1 / 3
    """of the images that triggers are inverted on, drawn once"""
    rate: Annotated[float, Field(gt=0)] | None = None
    """learning rate of Adam for triggers; none: 0.1 for patches, 0.002 for filters"""
    area: Annotated[float, Field(gt=0, le=1)] = 64 / 1024
    """share of the image that a patch may cover unpunished: 64 pixels of 32 x 32"""
    window: Annotated[int, Field(ge=1)] = 12
    """side in pixels of the surroundings that a filter looks at"""
    bound: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """REASR above which a trigger counts"""
    at_once: Annotated[int, Field(ge=1), NotInKey] = 512
    """images that go through the network together; moves rounding errors only"""

    def defend(self, access: Access) -> Result:
        """Stimulate, invert, judge, unlearn. `targets` are the labels of the triggers that count."""
        model = access.victim().requires_grad_(False)
        data = some_of_each(access.clean(), self.per_class, access.generator("images")).to(
            access.device
        )
        assert data.labels is not None
        images = to_float(data.images)
        raised = elevated(access, model, images, data.labels, self.dissent, self.at_once)
        chosen = shortlist(raised, self.neurons, self.spread, self.per_layer)
        found = [(one, n.label) for one, n in self._inverted(access, model, images, chosen)]
        rates = [reasr(model, images, trigger, label) for trigger, label in found]
        access.tick(len(found) * len(images) // FORWARD)
        order = sorted(range(len(found)), key=lambda n: -rates[n])
        named: dict[int, nn.Module] = {}
        for n in order:
            if rates[n] > self.bound:
                trigger, label = found[n]
                named.setdefault(label, trigger)
        return Result(
            model=self.mended(access, list(named.values()), [found[n][0] for n in order[:1]]),
            flagged=bool(named),
            score=max(rates, default=0.0),
            targets=list(named),
            record={
                "raised": float(len(raised)),
                "inverted": float(len(found)),
                **self._best(found, rates),
            },
        )

    def _best(
        self, found: Sequence[tuple[nn.Module, int]], rates: Sequence[float]
    ) -> dict[str, float]:
        """The highest REASR of each form of trigger."""
        best: dict[str, float] = {}
        for (trigger, _), rate in zip(found, rates, strict=True):
            name = "filter" if isinstance(trigger, FilterTrigger) else "patch"
            best[name] = max(rate, best.get(name, 0.0))
        return best

    def _forms(self) -> list[Callable[[int, Tensor, torch.Generator], Form]]:
        """What makes triggers for so many neurons: one after the other, each for all neurons."""

        def patches(corner: int) -> Callable[[int, Tensor, torch.Generator], Form]:
            return lambda count, images, start: Patches(
                count, images, self.area, self.rate or 0.1, start, corner
            )

        def filters(count: int, images: Tensor, start: torch.Generator) -> Form:
            return Filters(count, images, self.window, self.rate or 0.002)

        made = [patches(corner) for corner in range(self.corners)] if self.kind != "filter" else []
        return made + ([filters] if self.kind != "patch" else [])

    def _inverted(
        self, access: Access, model: nn.Module, images: Tensor, neurons: Sequence[Neuron]
    ) -> list[tuple[nn.Module, Neuron]]:
        """Triggers for each neuron, of each form; as many at a time as go through the network
        together.
        """
        order = torch.randperm(len(images), generator=access.generator("order"))
        shown = images[order[: max(1, round(self.share * len(images)))].to(images.device)]
        start, width = access.generator("start"), max(1, self.at_once // len(shown))
        forms = self._forms()
        parts = [
            (form, neurons[n : n + width]) for form in forms for n in range(0, len(neurons), width)
        ]
        done, of = 0, len(forms) * len(neurons) * self.steps
        found: list[tuple[nn.Module, Neuron]] = []
        for make, part in parts:
            form = make(len(part), images, start)
            optimiser = torch.optim.Adam(
                [{"params": [one], "lr": rate} for one, rate in form.groups()]
            )
            for _ in range(self.steps):
                stamped = form.stamped(shown)
                own, others = activations(model, stamped, part)
                optimiser.zero_grad(set_to_none=True)
                form.loss(shown, stamped, own, others).sum().backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                form.project()
                done += len(part)
                access.tick(len(part) * len(shown), done, of)
            found += [(form.trigger(number), neuron) for number, neuron in enumerate(part)]
        return found


def activations(
    model: nn.Module, stamped: Tensor, neurons: Sequence[Neuron]
) -> tuple[Tensor, Tensor]:
    """For each neuron and the images that are meant for it, (k, n, c, h, w): its sum and its
    layer's rest.

    Activations are summed over images and places, before and after rectification.
    """
    widths = {neuron.module: neuron.of for neuron in neurons}
    found: dict[int, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> Hook:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            maps = channels_first(module, output, widths[name])
            lanes = torch.split(maps, len(maps) // len(neurons))
            for place, neuron in enumerate(neurons):
                if neuron.module == name:
                    sums = (lanes[place] + lanes[place].relu()).transpose(0, 1).flatten(1).sum(1)
                    found[place] = sums[neuron.channel], sums.sum() - sums[neuron.channel]

        return hook

    with hooked(model, [(name, watch(name)) for name in widths]):
        model(stamped.flatten(0, 1))
    own, others = zip(*(found[place] for place in range(len(neurons))), strict=True)
    return torch.stack(own), torch.stack(others)


@torch.no_grad()
def reasr(model: nn.Module, images: Tensor, trigger: nn.Module, label: int) -> float:
    """The share of images (n, c, h, w) that a trigger turns to a label."""
    return float((model(trigger(images)).argmax(1) == label).float().mean())
