"""The grid of benchmarks/speed/scale.py, and a store that has all of it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import environment, grid
from harness.plan import plan
from harness.plan.plan import Plan
from harness.registry.discovery import discover
from harness.registry.memo import Memo
from harness.registry.resolve import Resolver
from harness.stages import artefacts
from harness.stages.stage import Stage
from harness.store.objects import Store

PER_SEED = 100
"""Cells."""

GRID = """
seeds = {seeds}
[[dataset]]
name = "signs"
pool = 200
[[model]]
name = "small-cnn"
[[attack]]
name = "badnets"
sweep.poison_rate = [0.02, 0.05, 0.1]
[[attack]]
name = "blend"
sweep.alpha = [0.1, 0.2]
[[attack]]
name = "sig"
sweep.delta = [20.0, 40.0]
[[attack]]
name = "wanet"
[[attack]]
name = "iab"
[[attack]]
name = "trojan-wm"
[[defense]]
name = "none"
[[defense]]
name = "ft"
sweep.lr = [0.01, 0.02, 0.05]
[[defense]]
name = "fine-pruning"
[[defense]]
name = "nad"
[[defense]]
name = "anp"
[[defense]]
name = "i-bau"
[[defense]]
name = "abl"
[[defense]]
name = "bcu"
[training]
recipe = "signs"
[[metric]]
name = "acc"
[[metric]]
name = "asr"
"""

LEFT = {
    "data": tuple(map(artefacts.split_file, ("train", "test", "pool", "validation"))),
    "poison": (artefacts.POISONED_FILE, artefacts.TRIGGER_FILE, artefacts.TRUTH_FILE),
    "victim": (artefacts.MODEL_FILE, artefacts.TRIGGER_FILE, artefacts.TRUTH_FILE),
    "export": (artefacts.TRAINING_FILE, artefacts.POISONED_FILE),
    "grant": (artefacts.IMAGES_FILE,),
    "part": (artefacts.MODEL_FILE, artefacts.RESULT_FILE),
    "defend": (artefacts.MODEL_FILE, artefacts.RESULT_FILE),
    "stamp": (artefacts.STREAM_FILE, artefacts.SAMPLE_FILE, artefacts.PLACES_FILE),
    "evaluate": (artefacts.ANSWERS_FILE,),
    "recheck": (artefacts.AGAIN_FILE,),
    "score": (artefacts.ROWS_FILE,),
}
"""Files that a stage of each kind leaves."""

RESULT = {
    "flagged": None,
    "score": None,
    "targets": [],
    "suspects": [],
    "record": {"images": 1000},
}
"""The content of a defense's result."""


def planned(path: Path) -> Plan:
    """Return the plan of a grid."""
    memo = Memo()
    registry = discover(memo)
    resolver = Resolver(registry, memo=memo)
    read = grid.read(path)
    return plan.build(read, read.cells, registry, resolver, resolver.sources)


def fill(stages: Mapping[str, Stage], store: Store) -> None:
    """Commit an object for each stage that has none: small files, but a record as a real stage has
    it.
    """
    held = store.held(stages)
    snapshot = environment.snapshot()
    with tempfile.TemporaryDirectory() as name:
        for number, (key, stage) in enumerate(stages.items()):
            if key in held:
                continue
            folder = Path(name) / key
            folder.mkdir()
            for file in LEFT[stage.kind]:
                (folder / file).write_text(content(file, number))
            parents = {item.role: (item.key, digest(store, item.key)) for item in stage.inputs}
            store.commit(
                key,
                folder,
                spec=stage.spec,
                code=stage.code,
                parents=parents,
                record=record(number, snapshot),
            )
            shutil.rmtree(folder)


def record(number: int, snapshot: Mapping[str, object]) -> dict[str, Any]:
    """Return a record such as a real stage has, a little different for each."""
    return {
        "seconds": 0.3 + number / 1e6,
        "cpu_seconds": 0.3,
        "peak_memory": 430_000_000 + number,
        "images": 1000,
        "precision": "bf16",
        "device": "cpu",
        "threads": 1,
        "host": "here",
        "finished": "2026-11-28T12:00:00+00:00",
        "environment": {**snapshot, "device": "cpu", "threads": 1, "cpu_capability": "AVX512"},
        "message": "",
        "type": "",
    }


def content(file: str, number: int) -> str:
    """Return what commands can read where they read it; the rest merely differs from object to
    object.
    """
    if file == artefacts.ROWS_FILE:
        rows = {"acc": {"": number % 100 + 0.25}, "asr": {"": 7 * number % 100 + 0.5}}
        return json.dumps(rows)
    if file == artefacts.RESULT_FILE:
        return json.dumps(RESULT)
    return f"{file} {number}"


def digest(store: Store, key: str) -> str:
    """Return the content digest of an object that is there."""
    manifest = store.manifest(key)
    assert manifest is not None
    return manifest.digest
