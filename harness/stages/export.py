"""Stage `export`: the poisoned training set as in-training defenses receive it.

Leaves `training.safetensors`, in an order that tells nothing about which images are poisoned, and,
for metrics alone, `poisoned.safetensors`, which does; cover images count as clean there. Where the
attack controls training, the set is stamped afterwards with the finished trigger, and its rows say
`static`.
"""

from __future__ import annotations

from harness.stages import Job


def run(job: Job) -> None:
    """Poison (or take what was poisoned), merge, permute, save."""
    import torch
    from safetensors.torch import save_file

    from harness.access.context import Coordinates
    from harness.learn.poisoning import PoisonedSet
    from harness.stages.materials import open_trigger
    from harness.stages.poison import check, open_attack

    made = job.inputs / "poison" / "poisoned.safetensors"
    attack, access = open_attack(job, poisoned=PoisonedSet.load(made) if made.exists() else None)
    train, mask = access.train, torch.zeros(len(access.train), dtype=torch.bool)
    if attack.has_trigger:
        if attack.training_controlled:
            final = job.inputs / "truth" / "trigger.safetensors"
            poisoned = attack.poison(access, open_trigger(final, attack, access.task, job.device))
            check(poisoned, train, access.task.classes)
        else:
            poisoned = access.poisoned
        train, mask = poisoned.merge(train), poisoned.mask(len(train))
    generator = torch.Generator().manual_seed(
        Coordinates(**job.payload["coordinates"]).shared("order")
    )
    order = torch.randperm(len(train), generator=generator)
    train.subset(order).save(job.out / "training.safetensors")
    save_file({"poisoned": mask[order]}, job.out / "poisoned.safetensors")
