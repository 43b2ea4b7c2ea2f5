"""Stage `preview`: a few images with and without an attack's trigger, for people to look at.

Leaves `panel.safetensors`: `clean` (uint8, n height width channels), and in grey levels of 0..255
(float32) `triggered` and `variant.<name>`, as tests of the victim stamp them; where that is not
what the victim trains on, `original` and `poisoned` training images (uint8), and `stamped`: the
originals as a test would stamp them (float32). `panel.json` says what they are and how far the
images of each pair are apart.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from harness.stages import Job

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from harness.components import Attack
    from harness.learn.images import ImageSet
    from harness.learn.poisoning import PoisonedSet

PANEL, FACTS = "panel.safetensors", "panel.json"

ROUNDING = 1.0
"""Grey levels by which training and test images may differ because one of them was rounded in
another way.
"""


def run(job: Job) -> None:
    """Choose test images, stamp them; the same for training images where the attack poisoned them
    otherwise.
    """
    import numpy as np
    import torch
    from safetensors.torch import save_file

    from harness.components import Attack, load_component
    from harness.errors import Incompatible
    from harness.learn.poisoning import PoisonedSet
    from harness.stages.materials import open_images, open_oracle, seed_everything, stage_context

    context, spec, data = stage_context(job), job.payload["component"], job.inputs / "data"
    seed_everything(context.coordinates)
    attack = load_component(spec)
    assert isinstance(attack, Attack)
    oracle = open_oracle(
        job.inputs / "truth", data / "test.safetensors", spec, context.task, job.device
    )
    assert oracle.trigger is not None
    assert oracle.test.labels is not None
    if not len(oracle.test):
        raise Incompatible("the data set has no test images")
    generator = np.random.Generator(np.random.PCG64(context.coordinates.shared("images")))
    labels, table = oracle.test.labels.numpy(), oracle.label_table
    rows = columns(labels, np.array(table)[labels] >= 0, job.payload["images"], generator)
    test = oracle.test.subset(torch.from_numpy(rows))
    tensors = {"clean": test.images}
    for name, trigger in {"triggered": oracle.trigger, **_variants(attack, oracle.trigger)}.items():
        tensors[name] = levels(attack, trigger.to(job.device), test.images)
    apart = {name: distance(tensors[name], test.images) for name in tensors if name != "clean"}
    facts: dict[str, Any] = {
        "labels": labels[rows].tolist(),
        "table": list(table),
        "apart": apart,
        "training": None,
    }
    made = job.inputs / "truth" / "poisoned.safetensors"
    if made.exists() and len(poisoned := PoisonedSet.load(made)):
        train = open_images(data / "train.safetensors")
        shown, facts["training"] = training(
            attack, oracle.trigger, train, poisoned, job.payload["images"], generator
        )
        tensors.update(shown)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, job.out / PANEL)
    (job.out / FACTS).write_text(json.dumps(facts))


def columns(
    labels: np.ndarray, attacked: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Which of the images to show: `count` of them at most, stratified, by label.

    Where the attack spares classes (`attacked` is False), they stand behind the others and are half
    of all at most.
    """
    import numpy as np

    from harness.stages.data import stratified

    order = stratified(labels, generator)
    hit, spared = order[attacked[order]], order[~attacked[order]]
    few = min(len(spared), max(count // 2, count - len(hit)))
    parts = (hit[: count - few], spared[:few])
    return np.concatenate([part[np.argsort(labels[part], kind="stable")] for part in parts])


def levels(attack: Attack, trigger: nn.Module, images: Tensor) -> Tensor:
    """Images (uint8 NHWC) with the trigger, as a test of the victim stamps them: grey levels,
    float32, on the CPU.

    Whole numbers unless the attack tests with floats, which may then lie outside 0..255 too.
    """
    import torch

    from harness.learn.device import device_of, evaluating
    from harness.learn.evaluation import stamped
    from harness.learn.images import SLACK, to_float

    with torch.no_grad(), evaluating(trigger):
        made = stamped(trigger, to_float(images.to(device_of(trigger))), attack.test_quantise)
    if not made.isfinite().all():
        raise ValueError(
            f"trigger {type(trigger).__name__} makes pixels that are no finite numbers"
        )
    found = made.float().cpu().permute(0, 2, 3, 1) * 255
    whole = found.round()
    # 7 / 255 * 255 is not quite 7: a pixel that the trigger left alone is not to look changed.
    return torch.where((found - whole).abs() < SLACK, whole, found)


def distance(one: Tensor, other: Tensor) -> dict[str, float]:
    """How many grey levels lie between two batches: `largest` and `mean` over pixels and channels."""
    apart = (one.float() - other.float()).abs()
    return {"largest": float(apart.max()), "mean": float(apart.mean())}


def training(
    attack: Attack,
    trigger: nn.Module,
    train: ImageSet,
    poisoned: PoisonedSet,
    count: int,
    generator: np.random.Generator,
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Some poisoned training images beside their originals, and what is to be said of them.

    Nothing where they are what the test images show already: stamped alike, and given another
    label.
    """
    import numpy as np
    import torch

    assert train.labels is not None
    before, after = train.labels[poisoned.indices].numpy(), poisoned.labels.numpy()
    rows = torch.from_numpy(columns(before, np.full(len(before), True), count, generator))
    original, made = train.images[poisoned.indices[rows]], poisoned.images[rows]
    kept = bool((before == after).all())
    stamped = levels(attack, trigger, original)
    beyond = distance(made, stamped)
    if not kept and beyond["largest"] <= ROUNDING:
        return {}, None
    facts = {
        "labels": before[rows].tolist(),
        "given": after[rows].tolist(),
        "kept": kept,
        "count": len(poisoned),
        "of": len(train),
        "apart": distance(made, original),
        "beyond": beyond if beyond["largest"] > ROUNDING else None,
    }
    return {"original": original, "poisoned": made, "stamped": stamped}, facts


def _variants(attack: Attack, trigger: nn.Module) -> dict[str, nn.Module]:
    from harness.stages.score import VARIANT

    return {f"{VARIANT}{name}": variant for name, variant in attack.variants(trigger).items()}
