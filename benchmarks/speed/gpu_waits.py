"""The places where the host waits for the device: training needs one in each epoch, to see that the
loss is finite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from gpu_bench import RECIPE, TASK, Bench, Figure, stream
from torch import nn

from harness import Attack, Defense, Recipe
from harness.access.context import Coordinates, Deadline, StageContext
from harness.access.granted import Access, AttackAccess
from harness.learn import Hooks, ImageSet, stamping_hook, stepping
from harness.learn.training import fit
from plugins.attacks.badnets import BadNets
from plugins.attacks.iab import IAB
from plugins.attacks.wanet import WaNet
from plugins.defenses.abl import ABL
from plugins.defenses.anp import ANP
from plugins.defenses.bcu import BCU
from plugins.defenses.fine_pruning import FinePruning
from plugins.defenses.i_bau import IBAU
from plugins.defenses.mcr import MCR
from plugins.defenses.nad import NAD
from plugins.models.resnet18 import ResNet18

IMAGES = 1280
NONE = "there is none on a CPU"
SHOWN = 6
"""Places that are named of each method, the busiest first."""

METHODS: dict[str, Attack | Defense] = {
    "wanet": WaNet(),
    "iab": IAB(mask_epochs=2),
    "abl": ABL(isolation_epochs=2, epochs=2, unlearn_epochs=2, isolate=0.1),
    "anp": ANP(iterations=5),
    "bcu": BCU(epochs=2),
    "fine-pruning": FinePruning(epochs=2, prune="share"),
    "i-bau": IBAU(rounds=1, portion=0.1),
    "mcr": MCR(epochs=2),
    "nad": NAD(epochs=2),
}
"""Whole methods, as short as they can be."""


def waits(bench: Bench, work: Callable[[], object]) -> Counter[str]:
    """Count the lines of Python at which the host waited, as torch tells them; none on a CPU."""
    if not bench.cuda:
        work()
        return Counter()
    with stepping.waits() as places:
        work()
    return Counter(Path(place).name for place in places)


@dataclass(frozen=True)
class Training:
    """One way to train, whose waits are counted."""

    recipe: Recipe
    stepping: str
    hooks: Hooks = field(default_factory=Hooks)

    def run(self, bench: Bench, data: ImageSet, epochs: int) -> None:
        """Train a new network for so many epochs."""
        fit(
            bench.network(),
            data,
            self.recipe.replace(epochs=epochs),
            generator=stream,
            hooks=self.hooks,
            device=bench.device,
            stepping=self.stepping,
        )


def waiting(bench: Bench) -> Iterator[Figure]:
    """Count the waits of an epoch of `fit`: the difference between runs of six epochs and of
    two.
    """
    data = bench.pictures(min(IMAGES, bench.options.images))
    for name, training in trainings(bench, data).items():
        training.run(bench, data, epochs=1)
        short = waits(bench, lambda chosen=training: chosen.run(bench, data, epochs=2))
        long = waits(bench, lambda chosen=training: chosen.run(bench, data, epochs=6))
        each = (long.total() - short.total()) / 4
        reached = None
        note = NONE
        if bench.cuda:
            reached = each <= 1
            note = f"four epochs more: {busiest(long - short)}"
        yield Figure(f"waits of an epoch, {name}", each, "", "1", reached, note)


def trainings(bench: Bench, data: ImageSet) -> dict[str, Training]:
    """Return the ways to train on `data` whose waits are counted, by name."""
    assert data.labels is not None
    trigger = BadNets().trigger(TASK).to(bench.device)
    hook = stamping_hook(trigger, torch.arange(len(data)) % 10 == 0, data.labels)
    turned = RECIPE.replace(rotation=10.0, cutout=8, label_smoothing=0.1, clip_norm=1.0)
    adam = RECIPE.replace(optimizer="adam")
    fast = "graph" if bench.cuda else "eager"
    return {
        "plain": Training(RECIPE, "eager"),
        "recorded": Training(RECIPE, fast),
        "rotation, cutout, clipping": Training(turned, fast),
        "stamped before augmentation": Training(turned, fast, Hooks(before_augment=hook)),
        "stamped after augmentation": Training(adam, fast, Hooks(after_augment=hook)),
    }


def methods(bench: Bench) -> Iterator[Figure]:
    """Count the waits of whole methods on a few images, and say where they are. For reading; there
    is no goal.
    """
    data = bench.pictures(min(IMAGES, bench.options.images))
    for name, method in METHODS.items():
        title = f"waits in {name}"
        try:
            places = waits(bench, lambda chosen=method: carry_out(bench, chosen, data))
        except Exception as error:  # one method that cannot be run hides no other
            yield Figure(title, float("nan"), "", note=f"{type(error).__name__}: {error}")
            continue
        note = busiest(places) if bench.cuda else NONE
        yield Figure(title, places.total(), "", note=note)


def carry_out(bench: Bench, method: Attack | Defense, data: ImageSet) -> object:
    """Do what the stages of a method do, for `data` in place of all that it is granted."""

    def victim() -> nn.Module:
        return bench.network().to(bench.device).eval()

    if isinstance(method, Defense):
        opened = {
            "victim": victim,
            "clean-labelled": lambda: data,
            "clean-unlabelled": data.unlabelled,
            "training-set": lambda: data,
        }
        context = stage_context(bench, "defend", victim)
        return method.defend(Access(context, frozenset(opened), opened))
    selection = Coordinates(0, "noise", "poison", "any")
    access = AttackAccess(stage_context(bench, "victim", victim), method, data, None, selection)
    trigger = method.trigger(TASK)
    assert trigger is not None
    method.craft(access, trigger.to(bench.device))
    return method.implant(access, trigger)


def stage_context(bench: Bench, stage: str, victim: Callable[[], nn.Module]) -> StageContext:
    """Return a context for training of two epochs, with `victim` for every part."""
    return StageContext(
        task=TASK,
        model=ResNet18(width=bench.options.width),
        recipe=RECIPE.replace(epochs=2),
        coordinates=Coordinates(0, "noise", stage, "any"),
        device=str(bench.device),
        scratch=bench.folder,
        deadline=Deadline(None),
        progress=lambda done, of, loss: None,
        parts={"teacher": victim, "end": victim},
    )


def busiest(places: Counter[str]) -> str:
    """Name the busiest places."""
    return ", ".join(f"{place} {count}" for place, count in places.most_common(SHOWN))
