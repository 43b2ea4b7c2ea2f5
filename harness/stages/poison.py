"""Stage `poison`: an attack crafts its trigger and, where the host trains the victim, poisons the
training set.

Leaves `trigger.safetensors` (the trigger's state), `truth.json` (`label_table`, and `rate`, `add`
of the poisoned set) and `poisoned.safetensors` (`images` uint8 NHWC, `labels`, `indices` into the
training set, `cover` if there is any), which a training-controlled attack has only once its trigger
is finished. No defense is ever given this object.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from harness.stages import Job

if TYPE_CHECKING:
    from harness.access.granted import AttackAccess
    from harness.components import Attack
    from harness.learn.images import ImageSet
    from harness.learn.poisoning import PoisonedSet


def open_attack(job: Job, *, poisoned: PoisonedSet | None) -> tuple[Attack, AttackAccess]:
    """The stage's attack and what it is granted."""
    from harness.access.context import Coordinates
    from harness.access.granted import AttackAccess
    from harness.components import Attack, load_component
    from harness.stages.materials import open_images, seed_everything, stage_context

    attack = load_component(job.payload["component"])
    assert isinstance(attack, Attack)
    context = stage_context(job)
    seed_everything(context.coordinates)
    train = open_images(job.inputs / "data" / "train.safetensors")
    selecting = Coordinates(**{**job.payload["coordinates"], "stage": "poison"})
    return attack, AttackAccess(context, attack, train, poisoned, selecting)


def run(job: Job) -> None:
    """Craft, poison, check, save."""
    from harness.learn.weights import save_state

    attack, access = open_attack(job, poisoned=None)
    trigger = attack.trigger(access.task)
    if trigger is None:
        name = job.payload["component"]["name"]
        raise ValueError(f"attack {name!r} says it has a trigger, but `trigger` returned None")
    trigger = trigger.to(access.device)
    attack.craft(access, trigger)
    save_state(trigger, job.out / "trigger.safetensors")
    truth: dict[str, Any] = {"label_table": list(access.label_table), "record": access.record}
    if not attack.training_controlled:
        poisoned = attack.poison(access, trigger)
        check(poisoned, access.train, access.task.classes)
        poisoned.save(job.out / "poisoned.safetensors")
        truth.update(rate=poisoned.rate(len(access.train)), add=poisoned.add)
    (job.out / "truth.json").write_text(json.dumps(truth))
    job.record.update(access.account())


def check(poisoned: PoisonedSet, train: ImageSet, classes: int) -> None:
    """An attack that returns something else than a poisoned set fails here, with what was seen."""
    from harness.learn.poisoning import PoisonedSet

    if not isinstance(poisoned, PoisonedSet):
        raise TypeError(f"`poison` returned {type(poisoned).__name__}; a PoisonedSet is wanted")
    images, labels, indices = poisoned.images, poisoned.labels, poisoned.indices
    if str(images.dtype) != "torch.uint8" or images.shape != (
        len(indices),
        *train.images.shape[1:],
    ):
        raise ValueError(
            f"poisoned images are {images.dtype} {tuple(images.shape)}; "
            f"uint8 {(len(indices), *train.images.shape[1:])} are wanted"
        )
    if len(labels) != len(indices) or (
        len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes
    ):
        raise ValueError(f"poisoned labels must be {len(indices)} classes from 0 to {classes - 1}")
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(train):
        raise ValueError(f"poisoned indices must lie in the training set, 0 to {len(train) - 1}")
    if poisoned.cover is not None and train.labels is not None:
        changed = int((labels != train.labels[indices])[poisoned.cover].sum())
        if changed:
            raise ValueError(
                f"cover keeps its true labels, but {changed} cover images have another one"
            )
