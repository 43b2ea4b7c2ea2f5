"""Objects of the store as what they are: networks, triggers, predictions, images. Imports torch,
and the plugins of what it opens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from harness.access.predictions import Predictions
from harness.components import Attack, Task, load_component
from harness.components.spec import ComponentSpec
from harness.errors import BenchError
from harness.learn.images import ImageSet
from harness.stages.answers import open_predictions
from harness.stages.artefacts import (
    MODEL,
    MODEL_FILE,
    SPLITS,
    TRIGGER_FILE,
    TRUTH_FILE,
    split_file,
)
from harness.stages.materials import open_model, open_trigger
from harness.stages.payloads import Structure
from harness.stages.stage import Input
from harness.store.objects import Store
from harness.store.scratch import short_lived

NEEDED = frozenset({"answers", "again", "places"})
"""Roles of the inputs from which predictions are put together."""
ANSWERED = NEEDED | {"result"}
"""These, and the role of the input with the defense's record."""


def model(
    store: Store, key: str, structure: Structure, task: Task, device: str = "cpu"
) -> nn.Module:
    """Return the network that object `key` holds, in eval mode. Raises Damaged where it is not
    whole.
    """
    with _copied(store, key, MODEL) as folder:
        return open_model(folder / MODEL_FILE, structure, task, device)


def has_model(store: Store, key: str) -> bool:
    """Tell whether a defense left a model, and no verdict alone."""
    manifest = store.manifest(key)
    return manifest is not None and MODEL_FILE in manifest.files


def trigger(
    store: Store, key: str, attack: ComponentSpec, task: Task, device: str = "cpu"
) -> nn.Module:
    """Return the trigger that victim `key` holds, in eval mode. Raises Damaged where it is not
    whole.
    """
    opened = load_component(attack)
    assert isinstance(opened, Attack)
    with _copied(store, key, (TRIGGER_FILE,)) as folder:
        found = open_trigger(folder / TRIGGER_FILE, opened, task, device)
    assert found is not None
    return found


def label_map(store: Store, key: str) -> list[int]:
    """Return the label table of victim `key`. Raises Damaged where it is not whole."""
    table: list[int] = json.loads(store.read(key, TRUTH_FILE))["label_table"]
    return table


def predictions(store: Store, inputs: Iterable[Input]) -> Predictions:
    """Put predictions together from the inputs of a stage that reads them. Raises Damaged where one
    is not whole.
    """
    with short_lived("predictions") as folder:
        for item in inputs:
            store.fetch(item.key, item.files, folder / item.role)
        return open_predictions(folder)


def images(store: Store, key: str, split: str) -> ImageSet:
    """Return a split of the data in object `key`. Raises BenchError for one that there is not."""
    manifest = store.manifest(key)
    held = [name for name in SPLITS if manifest is not None and split_file(name) in manifest.files]
    if split not in held:
        raise BenchError(f"there is no split {split!r}. The dataset has: {', '.join(held)}")
    with _copied(store, key, (split_file(split),)) as folder:
        return ImageSet.load(folder / split_file(split))


@contextmanager
def _copied(store: Store, key: str, files: Sequence[str]) -> Iterator[Path]:
    """Copy files of an object, checking them, to a folder that is removed at the end."""
    with short_lived("opened") as folder:
        store.fetch(key, files, folder)
        yield folder
