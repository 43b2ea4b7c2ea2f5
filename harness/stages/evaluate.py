"""Stage `evaluate`: a model's answers to clean and triggered test images, one a sample.

Leaves `predictions.safetensors`: `labels`, `clean`, `mapped` (and `triggered`, `variant.<name>`)
int64 (n), `logits` half precision (n, classes). Counts and rates are derived from these, so a new
metric needs no second evaluation.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from harness.stages import Job

if TYPE_CHECKING:
    from torch import nn


def run(job: Job) -> None:
    """Predict the clean test set, then the test set under each trigger."""
    import torch
    from safetensors.torch import save_file

    from harness.components import Attack, load_component
    from harness.errors import Incompatible
    from harness.learn.evaluation import predict
    from harness.stages.materials import open_model, open_oracle, seed_everything, stage_context
    from harness.stages.score import VARIANT

    source = job.inputs / "model" / "model.safetensors"
    if not source.exists():
        raise Incompatible("the defense gave a verdict and no model")
    context = stage_context(job)
    task = context.task
    seed_everything(context.coordinates)
    model = open_model(source, job.payload["structure"], task, job.device)
    oracle = open_oracle(
        job.inputs / "truth",
        job.inputs / "test" / "test.safetensors",
        job.payload["attack"],
        task,
        job.device,
    )
    test = oracle.test
    assert test.labels is not None
    answers = partial(predict, model, test.images, classes=task.classes, device=job.device)
    clean, logits = answers()
    tensors = {"labels": test.labels, "clean": clean, "logits": logits}
    tensors["mapped"] = torch.tensor(oracle.label_table)[test.labels]
    triggers: dict[str, nn.Module] = {}
    if oracle.trigger is not None:
        attack = load_component(job.payload["attack"])
        assert isinstance(attack, Attack)
        triggers["triggered"] = oracle.trigger
        triggers.update(
            {
                f"{VARIANT}{name}": trigger
                for name, trigger in attack.variants(oracle.trigger).items()
            }
        )
        for name, trigger in triggers.items():
            tensors[name], _ = answers(trigger=trigger, quantise=attack.test_quantise)
    job.record["images"] = len(test) * (1 + len(triggers))
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        job.out / "predictions.safetensors",
    )
