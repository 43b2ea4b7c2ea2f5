"""Opening what the host copied into a stage's scratch folder, as the objects that components work
with.
"""

from __future__ import annotations

import json
import math
import numbers
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from harness.access.context import Coordinates, StageContext
from harness.access.granted import Oracle
from harness.components import Attack, Defense, Model, Part, Task, load_component
from harness.components.spec import ComponentSpec
from harness.errors import Incompatible
from harness.learn.images import ImageSet, resize
from harness.learn.layout import settle
from harness.learn.recipes import Recipe
from harness.learn.weights import load_state
from harness.stages.artefacts import MODEL_FILE, TRIGGER_FILE, TRUTH_FILE
from harness.stages.job import Job
from harness.stages.payloads import ContextSpec, Filling, Payload, Structure


def stage_context(job: Job[Payload], spec: ContextSpec) -> StageContext:
    """Return what every access object has at hand."""
    model = None if spec.model is None else _model(spec.model)
    recipe = None
    if spec.recipe is not None:
        recipe = Recipe.model_validate_json(json.dumps(spec.recipe))
    parts = {name: _part_opener(job, spec, name, part) for name, part in spec.parts.items()}
    return StageContext(
        task=spec.task,
        model=model,
        recipe=recipe,
        coordinates=spec.coordinates,
        device=job.device,
        scratch=job.scratch,
        deadline=job.deadline,
        progress=job.progress,
        parts=parts,
        numerics=spec.numerics,
        continuing=job.continuing,
    )


def seed_everything(coordinates: Coordinates) -> None:
    """Seed global generators: draws that a component makes without a generator of its own (dropout,
    a library's) repeat too.
    """
    start = coordinates.own("global")
    random.seed(start)
    np.random.seed(start % 2**32)
    torch.manual_seed(start)


# --- networks and triggers ------------------------------------------------------------------------


def network_of(structure: Structure, task: Task) -> nn.Module:
    """Build the network that a stored state is loaded into; global generators stay as they are."""
    model = _model(structure.model)
    with torch.random.fork_rng(devices=[]):
        network = model.build(task)
        for spec in structure.rebuilds:
            defense = load_component(spec)
            assert isinstance(defense, Defense)
            network = defense.rebuild(network)
    return settle(network, task)


def _model(spec: ComponentSpec) -> Model:
    model = load_component(spec)
    assert isinstance(model, Model)
    return model


def open_model(path: Path, structure: Structure, task: Task, device: str) -> nn.Module:
    """Return the stored model in eval mode on `device`."""
    network = network_of(structure, task)
    load_state(network, path)
    return network.to(device).eval()


def judged_model(inputs: Path, structure: Structure, task: Task, device: str) -> nn.Module:
    """Return the model that is judged, from the folder of its stage's inputs. Raises Incompatible
    where its stage left none.
    """
    path = inputs / "model" / MODEL_FILE
    if not path.exists():
        raise Incompatible("the defense gave a verdict and no model")
    return open_model(path, structure, task, device)


def open_trigger(path: Path, attack: Attack, task: Task, device: str) -> nn.Module | None:
    """Return the trigger with its saved state, in eval mode; None for the attack that is none."""
    trigger = attack.trigger(task)
    if trigger is None:
        return None
    load_state(trigger, path)
    return trigger.to(device).eval()


def open_oracle(
    folder: Path, test: Path, attack_spec: ComponentSpec, task: Task, device: str
) -> Oracle:
    """Return trigger, label table and test set, from the truth in `folder` and the file `test`."""
    attack = load_component(attack_spec)
    assert isinstance(attack, Attack)
    trigger = open_trigger(folder / TRIGGER_FILE, attack, task, device)
    truth = json.loads((folder / TRUTH_FILE).read_text())
    return Oracle(trigger, tuple(truth["label_table"]), ImageSet.load(test))


def granted_images(folder: Path, task: Task) -> ImageSet:
    """Return the image set in `folder`, granted or a part, resized to the task where it comes from
    another dataset.
    """
    first = min(folder.glob("*.safetensors"))
    found = ImageSet.load(first)
    images = resize(found.images, task.height, task.width, task.channels)
    return ImageSet(images, found.labels)


# --- parts ----------------------------------------------------------------------------------------


def part_model(part: Part, model: ComponentSpec | None, task: Task) -> nn.Module | None:
    """Build the network that `Part.build` is handed: of the cell's `model`, where the part asks for
    one.
    """
    if "model" not in part.needs:
        return None
    assert model is not None
    return network_of(Structure(model), task)


def _part_opener(
    job: Job[Payload], spec: ContextSpec, name: str, part: Filling
) -> Callable[[], Any]:
    """Return a function that opens what fills the parameter `name`."""
    folder = job.inputs / f"part.{name}"
    task = spec.task

    def open_part() -> Any:
        if part.component.kind == "dataset":
            return granted_images(folder, task)
        if part.structure is not None:  # the model that a defense left
            return open_model(folder / MODEL_FILE, part.structure, task, job.device)
        component = load_component(part.component)
        if isinstance(component, Part):
            module = component.build(task, part_model(component, spec.model, task))
            load_state(module, folder / MODEL_FILE)
            return module.to(job.device).eval()
        assert isinstance(component, Model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.coordinates.own(f"part.{name}"))
            network = component.build(task)
        return settle(network, task).to(job.device)

    return open_part


# --- numbers that plugins give --------------------------------------------------------------------


def finite(values: Mapping[str, Any], source: str) -> dict[str, float]:
    """Return `values` as floats. Raises ValueError naming the first that is no finite number."""
    checked: dict[str, float] = {}
    for name, value in values.items():
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise ValueError(
                f"{source} gave {name or 'a value'} = {value!r}; a finite number is expected"
            )
        checked[str(name)] = float(value)
    return checked


def whole(values: Sequence[Any], limit: int, source: str) -> list[int]:
    """Return `values` as ints within 0..limit-1. Raises ValueError naming the first that is not."""
    for value in values:
        is_whole = not isinstance(value, bool) and int(value) == value
        if not is_whole or not 0 <= int(value) < limit:
            raise ValueError(
                f"{source} holds {value!r}; whole numbers from 0 to {limit - 1} are expected"
            )
    return [int(value) for value in values]
