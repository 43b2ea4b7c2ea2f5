"""Stage `victim`: the attack implants its backdoor.

Leaves `model.safetensors`, all that a defense may ever get of this object, and the truth beside it:
`trigger.safetensors` (a training-controlled attack may have changed the trigger while it trained)
and `truth.json`. Weights and truth are one object so that they can never disagree; the host copies
file by file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.stages import Job

if TYPE_CHECKING:
    from torch import nn

    from harness.components import Task

MODEL = ("model.safetensors",)
TRUTH = ("trigger.safetensors", "truth.json")


def run(job: Job) -> None:
    """Train, prove that the stored state gives the same logits, save."""
    from torch import nn

    from harness.learn.evaluation import check_outputs
    from harness.learn.poisoning import PoisonedSet
    from harness.learn.weights import save_state
    from harness.stages.materials import open_trigger
    from harness.stages.poison import open_attack

    source = job.inputs / "poison"
    made = source / "poisoned.safetensors"
    attack, access = open_attack(job, poisoned=PoisonedSet.load(made) if made.exists() else None)
    trigger = open_trigger(source / "trigger.safetensors", attack, access.task, job.device)
    victim = attack.implant(access, trigger)
    if not isinstance(victim, nn.Module):
        raise TypeError(f"`implant` returned {type(victim).__name__}; a torch module is wanted")
    victim.eval()
    check_outputs(victim, access.task)
    save_state(victim, job.out / "model.safetensors")
    prove_round_trip(job, victim, access.task, job.payload["structure"])
    table = [-1] * access.task.classes if trigger is None else list(access.label_table)
    if trigger is not None:
        save_state(trigger, job.out / "trigger.safetensors")
    (job.out / "truth.json").write_text(json.dumps({"label_table": table, "record": access.record}))
    job.record.update(access.account())


def prove_round_trip(job: Job, model: nn.Module, task: Task, structure: Mapping[str, Any]) -> None:
    """What was saved, opened again, must answer as the model does; else the artefact would be
    another model.
    """
    from harness.learn.weights import same_logits
    from harness.stages.materials import open_model

    again = open_model(job.out / "model.safetensors", structure, task, job.device)
    if not same_logits(model, again, task):
        raise ValueError(
            "the saved state, loaded into a fresh structure, gives other logits: there is state that `state_dict` does "
            "not hold, or an architecture that `rebuild` does not make"
        )
