"""Where the host waits for the device: once an epoch is what training needs, to see that the loss
is finite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from gpu_bench import RECIPE, TASK, Bench, Figure, stream

from harness.access.context import Coordinates, Deadline, StageContext
from harness.access.granted import Access, AttackAccess
from harness.components import Attack, Defense
from harness.learn import stepping
from harness.learn.poisoning import stamping_hook
from harness.learn.recipes import Recipe
from harness.learn.training import Hooks, fit
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
"""Places that are told of each method, the busiest first."""


def waits(bench: Bench, work: Callable[[], object]) -> Counter[str]:
    """The lines of Python at which the host waited, as torch tells them; none on a CPU."""
    if not bench.cuda:
        work()
        return Counter()
    with stepping.waits() as places:
        work()
    return Counter(Path(place).name for place in places)


def waiting(bench: Bench) -> Iterator[Figure]:
    """Of an epoch of `fit`: the difference between runs of six epochs and of two."""
    data = bench.pictures(min(IMAGES, bench.asked.images))
    assert data.labels is not None
    trigger = BadNets().trigger(TASK).to(bench.device)
    hook = stamping_hook(trigger, torch.arange(len(data)) % 10 == 0, data.labels)
    turned = RECIPE.replace(rotation=10.0, cutout=8, label_smoothing=0.1, clip_norm=1.0)
    fast = "graph" if bench.cuda else "eager"
    tried: dict[str, tuple[Recipe, Hooks, str]] = {
        "plain": (RECIPE, Hooks(), "eager"),
        "recorded": (RECIPE, Hooks(), fast),
        "rotation, cutout, clipping": (turned, Hooks(), fast),
        "stamped before augmentation": (turned, Hooks(before_augment=hook), fast),
        "stamped after augmentation": (
            RECIPE.replace(optimizer="adam"),
            Hooks(after_augment=hook),
            fast,
        ),
    }
    for name, (recipe, hooks, way) in tried.items():

        def run(epochs: int, recipe: Recipe = recipe, hooks: Hooks = hooks, way: str = way) -> None:
            fit(
                bench.network(), data, recipe.replace(epochs=epochs), generator=stream, hooks=hooks,
                device=bench.device, stepping=way,
            )  # fmt: skip

        run(1)
        short, long = waits(bench, lambda: run(2)), waits(bench, lambda: run(6))
        each = (long.total() - short.total()) / 4
        note = f"four epochs more: {told(long - short)}" if bench.cuda else NONE
        yield Figure(
            f"waits of an epoch, {name}", each, "", "1", each <= 1 if bench.cuda else None, note
        )


def methods(bench: Bench) -> Iterator[Figure]:
    """Of whole methods on a few images: how many waits, and where. For reading; there is no goal."""
    data = bench.pictures(min(IMAGES, bench.asked.images))

    def around(stage: str) -> StageContext:
        return StageContext(
            task=TASK, model=ResNet18(width=bench.asked.width), recipe=RECIPE.replace(epochs=2),
            coordinates=Coordinates(0, "noise", stage, "any"), device=str(bench.device), scratch=bench.folder,
            deadline=Deadline(None), progress=lambda done, of, loss: None, parts={"teacher": victim, "end": victim},
        )  # fmt: skip

    def victim() -> torch.nn.Module:
        return bench.network().to(bench.device).eval()

    opened = {
        "victim": victim,
        "clean-labelled": lambda: data,
        "clean-unlabelled": data.unlabelled,
        "training-set": lambda: data,
    }

    def defended(defense: Defense) -> object:
        return defense.defend(Access(around("defend"), frozenset(opened), opened))

    def implanted(attack: Attack) -> object:
        access = AttackAccess(
            around("victim"), attack, data, None, Coordinates(0, "noise", "poison", "any")
        )
        trigger = attack.trigger(TASK)
        assert trigger is not None
        attack.craft(access, trigger.to(bench.device))
        return attack.implant(access, trigger)

    tried: dict[str, Callable[[], object]] = {
        "wanet": lambda: implanted(WaNet()),
        "iab": lambda: implanted(IAB(mask_epochs=2)),
        "abl": lambda: defended(ABL(isolation_epochs=2, epochs=2, unlearn_epochs=2, isolate=0.1)),
        "anp": lambda: defended(ANP(iterations=5)),
        "bcu": lambda: defended(BCU(epochs=2)),
        "fine-pruning": lambda: defended(FinePruning(epochs=2, prune="share")),
        "i-bau": lambda: defended(IBAU(rounds=1, portion=0.1)),
        "mcr": lambda: defended(MCR(epochs=2)),
        "nad": lambda: defended(NAD(epochs=2)),
    }
    for name, work in tried.items():
        try:
            found = waits(bench, work)
        except Exception as error:  # one method that cannot be run hides no other
            yield Figure(
                f"waits in {name}", float("nan"), "", note=f"{type(error).__name__}: {error}"
            )
            continue
        yield Figure(
            f"waits in {name}", found.total(), "", note=told(found) if bench.cuda else NONE
        )


def told(found: Counter[str]) -> str:
    """The busiest places."""
    return ", ".join(f"{place} {count}" for place, count in found.most_common(SHOWN))
