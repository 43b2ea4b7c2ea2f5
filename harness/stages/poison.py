"""Stage `poison`: an attack crafts its trigger and, where the host trains the victim, poisons the
training set.

Leaves `trigger.safetensors` (the trigger's state), `truth.json` (`label_table`, and `rate`, `add`
of the poisoned set) and `poisoned.safetensors` (`images` uint8 NHWC, `labels`, `indices` into the
training set, `cover` if there is any), which a training-controlled attack has only once its trigger
is finished. No defense is ever given this object.
"""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from harness.access.context import Coordinates
from harness.access.granted import AttackAccess
from harness.components import Attack, load_component
from harness.components.spec import ComponentSpec
from harness.learn.images import ImageSet
from harness.learn.poisoning import PoisonedSet
from harness.learn.weights import save_state
from harness.stages.artefacts import POISONED_FILE, TRIGGER_FILE, TRUTH_FILE, split_file
from harness.stages.job import Job
from harness.stages.materials import seed_everything, stage_context
from harness.stages.payloads import ContextSpec, Payload, PoisonPayload


def stored_poison(job: Job[Payload]) -> PoisonedSet | None:
    """Load what stage `poison` left upstream; None where it left nothing."""
    stored = job.inputs / "poison" / POISONED_FILE
    if not stored.exists():
        return None
    return PoisonedSet.load(stored)


def open_attack(
    job: Job[Payload], spec: ComponentSpec, context_spec: ContextSpec, poisoned: PoisonedSet | None
) -> tuple[Attack, AttackAccess]:
    """Return the stage's attack and what it is granted."""
    attack = load_component(spec)
    assert isinstance(attack, Attack)
    context = stage_context(job, context_spec)
    seed_everything(context.coordinates)
    train = ImageSet.load(job.inputs / "data" / split_file("train"))
    here = context.coordinates
    # All stages of an attack select by the permutation of its stage `poison`.
    selecting = Coordinates(here.replicate, here.dataset, "poison", here.component)
    return attack, AttackAccess(context, attack, train, poisoned, selecting)


def run(job: Job[PoisonPayload]) -> None:
    """Craft, poison, check, save."""
    spec = job.payload.component
    attack, access = open_attack(job, spec, job.payload.context, None)
    trigger = attack.trigger(access.task)
    if trigger is None:
        raise ValueError(f"attack {spec.name!r} says it has a trigger, but `trigger` returned None")
    trigger = trigger.to(access.device)
    attack.craft(access, trigger)
    save_state(trigger, job.out / TRIGGER_FILE)
    truth: dict[str, Any] = {"label_table": list(access.label_table), "record": access.record}
    if not attack.training_controlled:
        poisoned = attack.poison(access, trigger)
        check(poisoned, access.train, access.task.classes)
        poisoned.save(job.out / POISONED_FILE)
        truth["rate"] = poisoned.rate(len(access.train))
        truth["add"] = poisoned.add
    (job.out / TRUTH_FILE).write_text(json.dumps(truth))
    job.record.update(access.account())


def check(poisoned: PoisonedSet, train: ImageSet, classes: int) -> None:
    """Make an attack that returns something else than a poisoned set fail here, with what was seen.

    Raises TypeError or ValueError.
    """
    if not isinstance(poisoned, PoisonedSet):
        raise TypeError(f"`poison` returned {type(poisoned).__name__}; a PoisonedSet is expected")
    images = poisoned.images
    labels = poisoned.labels
    indices = poisoned.indices
    count = len(indices)
    shape = (count, *train.images.shape[1:])
    if str(images.dtype) != "torch.uint8" or images.shape != shape:
        raise ValueError(
            f"poisoned images are {images.dtype} {tuple(images.shape)}; uint8 {shape} are expected"
        )
    if len(labels) != count or not _within(labels, classes):
        raise ValueError(f"poisoned labels must be {count} classes from 0 to {classes - 1}")
    if not _within(indices, len(train)):
        raise ValueError(f"poisoned indices must lie in the training set, 0 to {len(train) - 1}")
    if poisoned.cover is not None and train.labels is not None:
        differing = labels != train.labels[indices]
        changed = int(differing[poisoned.cover].sum())
        if changed:
            raise ValueError(
                f"cover keeps its true labels, but {changed} cover images have another one"
            )


def _within(values: Tensor, limit: int) -> bool:
    """Tell whether all of `values` lie in 0 to `limit` - 1; none at all do."""
    if not len(values):
        return True
    return int(values.min()) >= 0 and int(values.max()) < limit
