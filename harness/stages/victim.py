"""Stage `victim`: the attack implants its backdoor.

Leaves `model.safetensors`, all that a defense may ever get of this object, and the truth beside it:
`trigger.safetensors` (a training-controlled attack may have changed the trigger while it trained)
and `truth.json`. Weights and truth are one object so that they can never disagree; the host copies
file by file.
"""

from __future__ import annotations

import json

from torch import nn

from harness.components import Task
from harness.learn.evaluation import check_outputs
from harness.learn.rules import NOT_ATTACKED
from harness.learn.weights import same_logits, save_state
from harness.stages.artefacts import MODEL_FILE, TRIGGER_FILE, TRUTH_FILE
from harness.stages.job import Job
from harness.stages.materials import open_model, open_trigger
from harness.stages.payloads import Payload, Structure, VictimPayload
from harness.stages.poison import open_attack, stored_poison


def run(job: Job[VictimPayload]) -> None:
    """Train, prove that the stored state gives the same logits, save."""
    payload = job.payload
    attack, access = open_attack(job, payload.component, payload.context, stored_poison(job))
    crafted = job.inputs / "poison" / TRIGGER_FILE
    trigger = open_trigger(crafted, attack, access.task, job.device)
    victim = attack.implant(access, trigger)
    if not isinstance(victim, nn.Module):
        raise TypeError(f"`implant` returned {type(victim).__name__}; a torch module is expected")
    victim.eval()
    check_outputs(victim, access.task)
    save_state(victim, job.out / MODEL_FILE)
    prove_round_trip(job, victim, access.task, payload.structure)
    if trigger is None:
        table = [NOT_ATTACKED] * access.task.classes
    else:
        table = list(access.label_table)
        save_state(trigger, job.out / TRIGGER_FILE)
    truth = {"label_table": table, "record": access.record}
    (job.out / TRUTH_FILE).write_text(json.dumps(truth))
    job.record.update(access.account())


def prove_round_trip(job: Job[Payload], model: nn.Module, task: Task, structure: Structure) -> None:
    """Open the saved model again and compare answers: where they differ, the artefact would be
    another model. Raises ValueError then.
    """
    again = open_model(job.out / MODEL_FILE, structure, task, job.device)
    if not same_logits(model, again, task):
        raise ValueError(
            "the saved state, loaded into a fresh structure, gives other logits: there is state "
            "that `state_dict` does not hold, or an architecture that `rebuild` does not make"
        )
