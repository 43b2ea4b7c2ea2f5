"""Opening what the host copied into a stage's scratch folder, as the objects that components work
with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.access.context import Coordinates, StageContext
from harness.access.granted import Oracle
from harness.components import Attack, Defense, Model, Part, Task, load_component

if TYPE_CHECKING:
    from torch import nn

    from harness.learn.images import ImageSet
    from harness.stages import Job

RESULT = "result.json"


def stage_context(job: Job) -> StageContext:
    """What every access object has at hand, from the stage's payload."""
    from harness.learn.recipes import Recipe

    task = Task(**job.payload["task"])
    model = load_component(job.payload["model"]) if job.payload.get("model") else None
    assert model is None or isinstance(model, Model)
    coordinates = Coordinates(**job.payload["coordinates"])
    recipe = job.payload.get("recipe")
    return StageContext(
        task=task,
        model=model,
        recipe=None if recipe is None else Recipe.model_validate_json(json.dumps(recipe)),
        coordinates=coordinates,
        device=job.device,
        scratch=job.scratch,
        deadline=job.deadline,
        progress=job.progress,
        parts={
            name: _part_opener(job, task, name, part)
            for name, part in job.payload.get("parts", {}).items()
        },
    )


def seed_everything(coordinates: Coordinates) -> None:
    """Draws that a component makes without a generator (dropout, a library's) repeat too."""
    import random

    import numpy as np
    import torch

    start = coordinates.own("global")
    random.seed(start)
    np.random.seed(start % 2**32)
    torch.manual_seed(start)


def open_images(path: Path) -> ImageSet:
    """The image set in a `.safetensors` file."""
    from harness.learn.images import ImageSet

    return ImageSet.load(path)


def structure(payload: Mapping[str, Any], task: Task) -> nn.Module:
    """The network that a stored state is loaded into: the model, as every defense since has rebuilt
    it.
    """
    import torch

    model = load_component(payload["model"])
    assert isinstance(model, Model)
    with torch.random.fork_rng(devices=[]):
        network = model.build(task)
        for spec in payload["rebuilds"]:
            defense = load_component(spec)
            assert isinstance(defense, Defense)
            network = defense.rebuild(network)
    return network


def open_model(path: Path, payload: Mapping[str, Any], task: Task, device: str) -> nn.Module:
    """The stored model in eval mode on `device`."""
    from harness.learn.weights import load_state

    network = structure(payload, task)
    load_state(network, path)
    return network.to(device).eval()


def open_trigger(path: Path, attack: Attack, task: Task, device: str) -> nn.Module | None:
    """The trigger with its saved state, in eval mode; None for the attack that is none."""
    from harness.learn.weights import load_state

    trigger = attack.trigger(task)
    if trigger is None:
        return None
    load_state(trigger, path)
    return trigger.to(device).eval()


def open_oracle(
    folder: Path, test: Path, attack_spec: Mapping[str, Any], task: Task, device: str
) -> Oracle:
    """Trigger, label table and test set."""
    attack = load_component(attack_spec)
    assert isinstance(attack, Attack)
    trigger = open_trigger(folder / "trigger.safetensors", attack, task, device)
    truth = json.loads((folder / "truth.json").read_text())
    return Oracle(trigger, tuple(truth["label_table"]), open_images(test))


def images_of(folder: Path, task: Task) -> ImageSet:
    """A granted or part image set, resized to the task where it comes from another dataset."""
    from harness.learn.images import ImageSet, resize

    found = open_images(next(iter(sorted(folder.glob("*.safetensors")))))
    return ImageSet(resize(found.images, task.height, task.width, task.channels), found.labels)


def part_model(part: Part, payload: Mapping[str, Any], task: Task) -> nn.Module | None:
    """The network that `Part.build` is handed."""
    return (
        structure({"model": payload["model"], "rebuilds": []}, task)
        if "model" in part.needs
        else None
    )


def _part_opener(job: Job, task: Task, name: str, part: Mapping[str, Any]) -> Callable[[], Any]:
    """What opens the part that fills the parameter `name`."""
    folder = job.inputs / f"part.{name}"

    def open_part() -> Any:
        from harness.learn.weights import load_state

        if part["kind"] == "dataset":
            return images_of(folder, task)
        component = load_component(part["component"])
        if isinstance(component, Part):
            module = component.build(task, part_model(component, job.payload, task))
            load_state(module, folder / "model.safetensors")
            return module.to(job.device).eval()
        if isinstance(component, Model):
            import torch

            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(Coordinates(**job.payload["coordinates"]).own(f"part.{name}"))
                return component.build(task).to(job.device)
        return open_model(folder / "model.safetensors", part["structure"], task, job.device)

    return open_part


def finite(values: Mapping[str, Any], source: str) -> dict[str, float]:
    """`values` as floats. Raises ValueError naming the first that is no finite number."""
    import math
    import numbers

    checked: dict[str, float] = {}
    for name, value in values.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, numbers.Real)
            or not math.isfinite(value)
        ):
            raise ValueError(
                f"{source} gave {name or 'a value'} = {value!r}; a finite number is wanted"
            )
        checked[str(name)] = float(value)
    return checked


def whole(values: Sequence[Any], limit: int, source: str) -> list[int]:
    """`values` as ints within 0..limit-1. Raises ValueError naming the first that is not."""
    for value in values:
        if isinstance(value, bool) or int(value) != value or not 0 <= int(value) < limit:
            raise ValueError(
                f"{source} holds {value!r}; whole numbers from 0 to {limit - 1} are wanted"
            )
    return [int(value) for value in values]
