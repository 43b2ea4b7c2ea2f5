"""DFST: a style as trigger, and detoxification, so that no few neurons carry it.

Cheng et al., AAAI 2021, after the released TensorFlow code. A generator gives pictures the style of
a sunset; training of a clean network continues with stylised copies under the target label. A
network may learn such a trigger by a handful of shallow neurons, which a scanner finds. A round of
detoxification finds them first: it learns for each an injector that raises that neuron alone, and
where this suffices for the target label, training continues with injected pictures under their true
labels. The rounds leave a backdoor in deep features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from harness import AttackAccess, Incompatible, Part, Rates, Recipe, TargetedAttack, Task, Use, use
from harness.learn import (
    ImageSet,
    PoisonedSet,
    device_of,
    evaluating,
    global_random,
    predict,
    stamp,
    to_float,
    together,
)
from plugins.parts.cyclegan import Generator, PixelUnits
from plugins.parts.feature_injector import Effort, Injector, Neuron, train_injector
from plugins.parts.per_class import of_each_class
from plugins.parts.ranges import Count, CountOrZero, NotNegative, Positive
from plugins.parts.watched import watched

FLAT = (nn.Linear, nn.BatchNorm1d)
"""Layers without places to inject a feature at."""
BATCH = 250
"""Images in a forward pass."""
SLACK = 1e-9
"""Makes 0.7 of 10 equal 7, in spite of rounding."""


OF_DETOX = (
    "layers",
    "watched_per_class",
    "factor",
    "neurons",
    "seeds_per_class",
    "injector_steps",
    "injector_kernel",
    "injector_lr",
    "likeness",
    "unlikeness_weight",
    "flips",
    "checked_per_class",
    "injected_per_class",
    "detox_epochs",
    "detox_batch",
    "detox_rates",
)
"""Parameters of detoxification."""


class DFST(TargetedAttack):
    """Sunset style by a generator, then detoxification of shallow neurons (Cheng et al. 2021).

    The attacker controls training. The exported training set holds the stylised pictures alone.
    """

    needs: ClassVar[AbstractSet[str]] = frozenset({"model"})
    recipe = "dfst"
    citation = (
        "Cheng et al.: Deep Feature Space Trojan Attack of Neural Networks by Controlled "
        "Detoxification, AAAI 2021"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deck": {"detox": 1},
        "detox1": {"detox": 1},
        "detox3": {"detox": 3},
        # Our own, for 10,000 small images on a CPU: a tenth of them stylised, few small injectors,
        # which are kept more easily, and the grid's own rates.
        "fast": {
            "style": {"name": "style-generator", "preset": "fast"},
            "per_class": 100,
            "epochs": 10,
            "batch": 128,
            "rates": (),
            "neurons": 3,
            "seeds_per_class": 3,
            "injector_steps": 150,
            "injector_kernel": 5,
            "injector_lr": 3e-3,
            "likeness": 0.4,
            # at 3000 the neuron outweighs SSIM in images of 32 pixels
            "unlikeness_weight": 20000.0,
            "flips": 0.4,
            "detox_epochs": 6,
            "detox_batch": 128,
            "detox_rates": (),
        },
    }

    style: Use[Part] = use("style-generator")
    """the generator; pictures of its own style, or a ready one, are its parameters"""
    benign: Use[Part] = use("clean-model")
    """the network that training starts from, trained by the recipe"""
    per_class: Count = 500
    """stylised copies that are added of each attacked class, the target's own included; of a
    smaller class all
    """
    order: Literal["first", "random"] = "first"
    """images of a class that serve, for all purposes: the first in dataset order, or the first of
    a permutation
    """
    epochs: CountOrZero = 100
    """passes over training pictures and stylised copies, starting from the clean network"""
    batch: Count = 200
    """images a step of the same"""
    rates: Rates = ((0.0, 0.1), (20.0, 0.01), (80.0, 0.001))
    """(epoch, learning rate) of the same; empty: the recipe's own schedule, over these epochs"""

    detox: CountOrZero = 1
    """rounds of detoxification; DECK reports 1 and 3. A round that keeps no injector is the last"""
    layers: Count = 4
    """shallowest layers, of those that are not flat, whose neurons are examined; at most all there
    are
    """
    watched_per_class: Count = 100
    """images of each class that neurons are compared on, plain and stylised"""
    factor: NotNegative = 5.0
    """a neuron is compromised if its activation, summed over places, rises by more than so many
    times the highest one of its layer on plain images, and by more than itself; the authors'
    PyTorch version has 20
    """
    neurons: Count | None = None
    """most compromised neurons that get an injector in a round, those that rise most first; none:
    all
    """
    seeds_per_class: Count = 10
    """images of each class that an injector learns from"""
    injector_steps: Count = 1000
    """steps of an injector's Adam, each on all of them (2000, and a deeper U-Net, in an earlier
    version of the code)
    """
    injector_kernel: Annotated[int, Field(ge=3)] = 12
    """side of its kernels"""
    injector_lr: Positive = 1e-3
    """learning rate of the same"""
    likeness: Annotated[float, Field(ge=-1, le=1)] = 0.6
    """SSIM between plain and injected images that an injector must keep"""
    unlikeness_weight: NotNegative = 1e5
    """weight of SSIM in the injector's loss where it is lower than that; 100 elsewhere, 0.01 for
    the neuron's activations
    """
    flips: Annotated[float, Field(ge=0, lt=1)] = 0.7
    """share of images that an injector must turn to the target label to be kept"""
    checked_per_class: Count = 100
    """further images of each class on which it must do so again; the released code takes as many
    test images
    """
    injected_per_class: Count = 50
    """images of each class that are added with each kept injector, under their true labels"""
    detox_epochs: CountOrZero = 120
    """passes, after each round, over all that and the injected pictures so far, starting from the
    network as it is then
    """
    detox_batch: Count = 100
    """images a step of the same"""
    detox_rates: Rates = ((0.0, 0.1), (20.0, 0.01), (60.0, 0.001))
    """(epoch, learning rate) of the same; empty: the recipe's own schedule, over these epochs"""

    def unused(self) -> Mapping[str, str]:
        """Name the settings of detoxification where there is none."""
        unused = dict(super().unused())
        if not self.detox:
            unused.update(dict.fromkeys(OF_DETOX, "detox = 0"))
        return unused

    def trigger(self, task: Task) -> nn.Module:
        """Return the generator; `craft` fills it."""
        with global_random(0):
            return Generator(task.channels)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Take the trained generator's weights and units."""
        trained = access.part("style")
        trigger.load_state_dict(trained.state_dict())

    def poison(self, access: AttackAccess, trigger: nn.Module | None) -> PoisonedSet:
        """Return the same number of stylised copies of every class."""
        assert trigger is not None
        chosen = self._some(access, self.per_class)
        styled = stamp(trigger, access.train.images[chosen])
        return PoisonedSet(styled, mapped_labels(access, chosen), chosen, add=True)

    def implant(self, access: AttackAccess, trigger: nn.Module | None) -> nn.Module:
        """Train the clean network on, then detoxify it round by round."""
        assert isinstance(trigger, Generator)
        model: nn.Module = access.part("benign")
        data = self.poison(access, trigger).merge(access.train)
        recipe = further(access.recipe, self.epochs, self.batch, self.rates)
        access.fit(model, data, recipe)
        for number in range(1, self.detox + 1):
            neurons = self._compromised(access, model, trigger)
            injectors = self._kept(access, model, trigger.units, neurons, number)
            access.record[f"compromised_{number}"] = len(neurons)
            access.record[f"injectors_{number}"] = len(injectors)
            if not injectors:
                break
            data = data.join(self._injected(access, injectors))
            recipe = further(access.recipe, self.detox_epochs, self.detox_batch, self.detox_rates)
            access.fit(model, data, recipe)
        return model

    def _compromised(
        self, access: AttackAccess, model: nn.Module, trigger: nn.Module
    ) -> list[Neuron]:
        """Return the neurons that the style raises, those raised most first."""
        layers = self._shallow_layers(access, model)
        images = access.train.images[self._some(access, self.watched_per_class)]
        styled_images = stamp(trigger, images)
        plain = sums(access, model, layers, images)
        styled = sums(access, model, layers, styled_images)
        rises: dict[Neuron, float] = {}
        for layer in layers:
            before, highest = plain[layer]
            after, _ = styled[layer]
            raised = compromised(before, after, highest, self.factor)
            unit = highest or 1.0  # a layer that is silent on plain images has no scale of its own
            for channel in raised.nonzero().flatten().tolist():
                rise = float(after[channel] - before[channel])
                rises[Neuron(layer, channel)] = rise / unit
        most_first = sorted(rises, key=lambda neuron: -rises[neuron])
        return most_first[: self.neurons]

    def _shallow_layers(self, access: AttackAccess, model: nn.Module) -> list[str]:
        """Return the names of the shallowest layers with places. Raise Incompatible without any."""
        names = [unit.module for unit in access.units(model)]
        with_places = [name for name in names if not isinstance(model.get_submodule(name), FLAT)]
        if not with_places:
            raise Incompatible(
                "the network has no layers with places, so no neurons that a feature can be "
                "injected at"
            )
        return with_places[: self.layers]

    def _kept(
        self,
        access: AttackAccess,
        model: nn.Module,
        units: PixelUnits,
        neurons: Iterable[Neuron],
        number: int,
    ) -> list[Injector]:
        """Return injectors of these neurons that suffice for the target label, on their seeds and
        on other images.
        """
        chosen = self._some(access, self.seeds_per_class)
        seeds = ImageSet(access.train.images[chosen], mapped_labels(access, chosen))
        others = self._some(access, self.checked_per_class, skip=self.seeds_per_class)
        if not len(others):
            raise Incompatible(
                f"no class has more than {self.seeds_per_class} images, "
                "so none are left to check with"
            )
        effort = Effort(
            self.injector_steps,
            self.injector_lr,
            self.likeness,
            self.injector_kernel,
            self.unlikeness_weight,
        )
        kept: list[Injector] = []
        most = 0
        most_freely = 0
        for neuron in neurons:
            stream = f"injector {number} {neuron.layer} {neuron.channel}"
            sought = train_injector(access, model, neuron, seeds, units, effort, stream)
            most = max(most, sought.flipped)
            most_freely = max(most_freely, sought.freely)
            if sought.flipped < enough(len(seeds), self.flips):
                continue
            if self._flipped(access, model, sought.injector, others) > self.flips:
                kept.append(sought.injector)
        access.record[f"flipped_{number}"] = most / len(seeds)
        # counts states that change the pictures too much, so that a record tells what was missing
        access.record[f"flipped_freely_{number}"] = most_freely / len(seeds)
        return kept

    def _flipped(
        self, access: AttackAccess, model: nn.Module, injector: Injector, chosen: Tensor
    ) -> float:
        """Return the share of these training images that an injector turns to the target label."""
        images = access.train.images[chosen]
        answers, _ = predict(
            model,
            images,
            trigger=injector,
            quantise="none",
            device=access.device,
            batch=min(BATCH, together(images, access.device)),
        )
        hits = answers == mapped_labels(access, chosen)
        return float(hits.float().mean())

    def _injected(self, access: AttackAccess, injectors: Sequence[nn.Module]) -> ImageSet:
        """Return pictures through each injector, with their true labels."""
        assert access.train.labels is not None
        chosen = self._some(access, self.injected_per_class)
        images = access.train.images[chosen]
        injected = [stamp(injector, images) for injector in injectors]
        labels = access.train.labels[chosen]
        return ImageSet(torch.cat(injected), labels.repeat(len(injectors)))

    def _some(self, access: AttackAccess, count: int, skip: int = 0) -> Tensor:
        """Return the indices of `count` training images of each attacked class, after the first
        `skip`.
        """
        labels = access.train.labels
        assert labels is not None
        order = None
        if self.order == "random":
            order = torch.randperm(len(labels), generator=access.selection())
        chosen = of_each_class(labels, count, order, skip)
        return chosen[mapped_labels(access, chosen) >= 0]


def further(recipe: Recipe, epochs: int, batch: int, rates: Rates) -> Recipe:
    """Return the recipe by which training goes on: the given one, except for its length, its
    batches and, where there are any, its rates.
    """
    changed = recipe.replace(epochs=epochs, steps=None, horizon=None, batch=batch)
    if not rates:
        return changed
    return changed.replace(schedule="table", rates=rates)


def mapped_labels(access: AttackAccess, indices: Tensor) -> Tensor:
    """Return the labels that these training images should get under the trigger, -1 where they are
    not attacked.
    """
    assert access.train.labels is not None
    table = torch.tensor(access.label_table)
    return table[access.train.labels[indices]]


@torch.no_grad()
def sums(
    access: AttackAccess, model: nn.Module, layers: Sequence[str], images: Tensor
) -> dict[str, tuple[Tensor, float]]:
    """Return for each layer its channels' activations, summed over places, mean over uint8 images;
    and the highest of all.
    """
    total = {layer: torch.zeros((), dtype=torch.float64) for layer in layers}
    highest = dict.fromkeys(layers, 0.0)
    with evaluating(model), watched(model, layers) as seen:
        for part in torch.split(images, BATCH):
            pixels = to_float(part.to(device_of(model)))
            model(pixels)
            access.tick()
            for layer in layers:
                active = seen[layer].relu()
                in_part = active.double().sum((0, 2, 3))
                total[layer] = total[layer] + in_part.cpu()
                highest[layer] = max(highest[layer], float(active.max()))
    return {layer: (total[layer] / len(images), highest[layer]) for layer in layers}


def compromised(before: Tensor, after: Tensor, highest: float, factor: float) -> Tensor:
    """Mark the channels that the style raises: by more than `factor` times the layer's highest
    activation and than themselves.

    `before` and `after` are channels' sums over places on plain and on stylised images.
    """
    rise = after - before
    above_the_layer = rise > factor * highest
    return above_the_layer & (rise > before)


def enough(count: int, share: float) -> int:
    """Return how many of `count` images a share is, rounded down."""
    return math.floor(share * count + SLACK)
