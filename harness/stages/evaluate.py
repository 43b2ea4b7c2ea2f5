"""Stage `evaluate`: a model's answers to clean and triggered test images, one for each sample.

Leaves `predictions.safetensors`: `labels`, `clean`, `mapped` (and `triggered`, `variant.<name>`)
int64 (n), `logits` half precision (n, classes). Counts and rates are derived from these, so a new
metric needs no second evaluation.
"""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from torch import nn

from harness.components import Attack, load_component
from harness.errors import Incompatible
from harness.learn.evaluation import predict
from harness.stages.artefacts import MODEL_FILE, PREDICTIONS_FILE, VARIANT, split_file
from harness.stages.job import Job
from harness.stages.materials import open_model, open_oracle, seed_everything, stage_context
from harness.stages.payloads import EvaluatePayload


def run(job: Job[EvaluatePayload]) -> None:
    """Predict the clean test set, then the test set under each trigger."""
    payload = job.payload
    source = job.inputs / "model" / MODEL_FILE
    if not source.exists():
        raise Incompatible("the defense gave a verdict and no model")
    context = stage_context(job, payload.context)
    task = context.task
    seed_everything(context.coordinates)
    model = open_model(source, payload.structure, task, job.device)
    test_file = job.inputs / "test" / split_file("test")
    oracle = open_oracle(job.inputs / "truth", test_file, payload.component, task, job.device)
    test = oracle.test
    assert test.labels is not None
    clean, logits = predict(model, test.images, classes=task.classes, device=job.device)
    tensors = {
        "labels": test.labels,
        "clean": clean,
        "logits": logits,
        "mapped": torch.tensor(oracle.label_table)[test.labels],
    }
    triggers: dict[str, nn.Module] = {}
    if oracle.trigger is not None:
        attack = load_component(payload.component)
        assert isinstance(attack, Attack)
        triggers["triggered"] = oracle.trigger
        for name, variant in attack.variants(oracle.trigger).items():
            triggers[f"{VARIANT}{name}"] = variant
        for name, trigger in triggers.items():
            tensors[name], _ = predict(
                model,
                test.images,
                classes=task.classes,
                device=job.device,
                trigger=trigger,
                quantise=attack.test_quantise,
            )
    job.record["images"] = len(test) * (1 + len(triggers))
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, job.out / PREDICTIONS_FILE)
