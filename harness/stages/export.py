"""Stage `export`: the poisoned training set as in-training defenses receive it.

Leaves `training.safetensors`, in an order that tells nothing about which images are poisoned, and,
for metrics alone, `poisoned.safetensors`, which does; cover images count as clean there. Where the
attack controls training, the set is stamped afterwards with the finished trigger, and its rows say
`static`.
"""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from harness.learn.poisoning import PoisonedSet
from harness.stages.artefacts import POISONED_FILE, TRAINING_FILE, TRIGGER_FILE
from harness.stages.job import Job
from harness.stages.materials import open_trigger
from harness.stages.payloads import ExportPayload
from harness.stages.poison import check, open_attack, stored_poison


def run(job: Job[ExportPayload]) -> None:
    """Poison (or take what was poisoned), merge, permute, save."""
    payload = job.payload
    attack, access = open_attack(job, payload.component, payload.context, stored_poison(job))
    train = access.train
    mask = torch.zeros(len(train), dtype=torch.bool)
    if attack.has_trigger:
        poisoned: PoisonedSet
        if attack.training_controlled:
            final = job.inputs / "truth" / TRIGGER_FILE
            trigger = open_trigger(final, attack, access.task, job.device)
            poisoned = attack.poison(access, trigger)
            check(poisoned, train, access.task.classes)
        else:
            poisoned = access.poisoned
        mask = poisoned.mask(len(train))
        train = poisoned.merge(train)
    start = payload.context.coordinates.shared("order")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(start))
    train.subset(order).save(job.out / TRAINING_FILE)
    save_file({"poisoned": mask[order]}, job.out / POISONED_FILE)
