"""Stage `preview`: a few images with and without an attack's trigger, for people to look at.

Leaves `panel.safetensors`: `clean` (uint8, n height width channels), and in grey levels of 0..255
(float32) `triggered` and `variant.<name>`, as tests of the victim stamp them; where that is not
what the victim trains on, `original` and `poisoned` training images (uint8), and `stamped`: the
originals as a test would stamp them (float32). `panel.json` says what they are: `label_map`,
`notes`, and `sections` with `title`, `columns` and `rows`; a row has `caption`, `images` (a tensor)
and `less` (a tensor that it shows the difference from, or "").
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.components import Attack, load_component
from harness.errors import Incompatible
from harness.learn.device import device_of, evaluating
from harness.learn.evaluation import stamped
from harness.learn.images import SLACK, ImageSet, to_float
from harness.learn.poisoning import PoisonedSet
from harness.stages import artefacts
from harness.stages.artefacts import VARIANT, split_file
from harness.stages.job import Job
from harness.stages.materials import open_oracle, seed_everything, stage_context
from harness.stages.payloads import PreviewPayload
from harness.stages.sampling import stratified

ROUNDING = 1.0
"""Grey levels by which training and test images may differ for being rounded in another way."""


def run(job: Job[PreviewPayload]) -> None:
    """Stamp some test images; add training images where the attack poisons them in another way."""
    context = stage_context(job, job.payload.context)
    seed_everything(context.coordinates)
    attack = load_component(job.payload.component)
    assert isinstance(attack, Attack)
    data = job.inputs / "data"
    truth = job.inputs / "truth"
    test_file = data / split_file("test")
    oracle = open_oracle(truth, test_file, job.payload.component, context.task, job.device)
    trigger = oracle.trigger
    table = oracle.label_table
    test = oracle.test
    assert trigger is not None
    assert test.labels is not None
    if not len(test):
        raise Incompatible("the data set has no test images")
    generator = np.random.Generator(np.random.PCG64(context.coordinates.shared("images")))
    labels = test.labels.numpy()
    attacked = np.array(table)[labels] >= 0
    shown = sample(labels, attacked, job.payload.images, generator)
    tensors = {"clean": test.images[torch.from_numpy(shown)]}
    rows = [_row("clean", "clean")]
    triggers = {"triggered": trigger}
    for name, variant in attack.variants(trigger).items():
        triggers[f"{VARIANT}{name}"] = variant
    for name, stamping in triggers.items():
        tensors[name] = levels(attack, stamping.to(job.device), tensors["clean"])
        rows.append(_row(name.replace(VARIANT, "variant "), name))
        rows.append(_row("difference", name, "clean"))
    title = "test images: class -> label that the attack wants"
    if -1 in table:
        title += "; spared: it wants none"
    captions = [f"{old}, spared" if new < 0 else f"{old} -> {new}" for old, new in enumerate(table)]
    columns = [captions[label] for label in labels[shown]]
    sections = [{"title": title, "columns": columns, "rows": rows}]
    notes = []
    if (truth / artefacts.POISONED_FILE).exists():
        poisoned = PoisonedSet.load(truth / artefacts.POISONED_FILE)
        train = ImageSet.load(data / split_file("train"))
        added = training(attack, trigger, train, poisoned, job.payload.images, generator)
        if added is not None:
            section, note, training_tensors = added
            sections.append(section)
            notes.append(note)
            tensors.update(training_tensors)
    facts = {"label_map": label_map(table), "notes": notes, "sections": sections}
    save_file(tensors, job.out / artefacts.PANEL_FILE)
    (job.out / artefacts.PANEL_FACTS_FILE).write_text(json.dumps(facts))


def training(
    attack: Attack,
    trigger: nn.Module,
    train: ImageSet,
    poisoned: PoisonedSet,
    count: int,
    generator: np.random.Generator,
) -> tuple[dict[str, Any], str, dict[str, Tensor]] | None:
    """Return a section of at most `count` poisoned training images, a note, and their tensors; None
    where they are what test images show already: stamped alike, and given another label.
    """
    assert train.labels is not None
    before = train.labels[poisoned.indices].numpy()
    after = poisoned.labels.numpy()
    if not len(before):
        return None
    shown = sample(before, np.full(len(before), True), count, generator)
    original = train.images[poisoned.indices[shown]]
    made = poisoned.images[shown]
    triggered = levels(attack, trigger, original)
    kept = bool((before == after).all())
    alike = float((made.float() - triggered).abs().max()) <= ROUNDING
    if alike and not kept:
        return None
    note = f"{len(poisoned)} of {len(train)} training images are poisoned"
    rows = [_row("original", "original"), _row("poisoned", "poisoned")]
    rows.append(_row("difference", "poisoned", "original"))
    if kept:
        note += ", and keep their labels"
    if not alike:
        note += "; not by the trigger of the test images alone"
        rows.append(_row("difference from the triggered original", "poisoned", "stamped"))
    pairs = zip(before[shown], after[shown], strict=True)
    columns = [f"{old}, kept" if old == new else f"{old} -> {new}" for old, new in pairs]
    title = "training images: class -> label that they are given"
    section = {"title": title, "columns": columns, "rows": rows}
    return section, note, {"original": original, "poisoned": made, "stamped": triggered}


def sample(
    labels: np.ndarray, attacked: np.ndarray, count: int, generator: np.random.Generator
) -> np.ndarray:
    """Choose `count` images at most, stratified, ordered by label. Where the attack spares classes
    (`attacked` is False), their images stand behind the others and are half of all at most.
    """
    order = stratified(labels, generator)
    hit = order[attacked[order]]
    spared = order[~attacked[order]]
    few = min(len(spared), max(count // 2, count - len(hit)))
    parts = [hit[: count - few], spared[:few]]
    return np.concatenate([part[np.argsort(labels[part], kind="stable")] for part in parts])


def levels(attack: Attack, trigger: nn.Module, images: Tensor) -> Tensor:
    """Stamp images (uint8 NHWC) as a test of the victim does; return grey levels (float32, on the
    CPU): whole numbers unless the attack tests with floats, which may lie outside 0..255 too.
    """
    with torch.no_grad(), evaluating(trigger):
        pictures = to_float(images.to(device_of(trigger)))
        triggered = stamped(trigger, pictures, attack.test_quantise)
    if not triggered.isfinite().all():
        name = type(trigger).__name__
        raise ValueError(f"trigger {name} makes pixels that are no finite numbers")
    grey = triggered.float().cpu().permute(0, 2, 3, 1) * 255
    whole = grey.round()
    # 7 / 255 * 255 is not quite 7, but a pixel that the trigger left alone must not look changed.
    return torch.where((grey - whole).abs() < SLACK, whole, grey).contiguous()


def label_map(table: Sequence[int]) -> str:
    """Describe a label table, in which -1 stands for a class that is not attacked."""
    count = len(table)
    attacked = [str(label) for label in range(count) if table[label] >= 0]
    wanted = {label for label in table if label >= 0}
    if not attacked:
        return "no class is attacked"
    if count > 1 and list(table) == [*range(1, count), 0]:
        return "every class -> the next one"
    classes = "every class"
    if len(attacked) < count:
        noun = "class" if len(attacked) == 1 else "classes"
        classes = f"{noun} {', '.join(attacked)} of {count}"
    if len(wanted) == 1:
        return f"{classes} -> {wanted.pop()}"
    if len(wanted) == len(attacked):
        return f"{classes}, each with a label of its own"
    return f"{classes} -> one of {', '.join(map(str, sorted(wanted)))}"


def _row(caption: str, images: str, less: str = "") -> dict[str, str]:
    return {"caption": caption, "images": images, "less": less}
