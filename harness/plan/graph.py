"""All stages of a plan, and the small things that laying them out needs at every turn.

`attacker`, `parts`, `defender` and `judging` lay out the stages themselves, one function for each
stage kind. Each is memoised on what determines the stage (`Graph.once`), so that a grid of ten
thousand cells asks ten thousand times and builds each stage once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from harness.access.context import Coordinates
from harness.components import AttackFacts, DatasetFacts, ModelFacts, Task
from harness.components.spec import ComponentSpec
from harness.learn.recipes import Numerics, Recipe
from harness.plan.titles import Titles
from harness.stages.artefacts import split_file
from harness.stages.payloads import ContextSpec, DataPayload, Filling, Payload, Structure
from harness.stages.stage import Input, Stage, StageSources, make

if TYPE_CHECKING:
    from harness.grid import Cell, Entry
    from harness.plan.binding import Binding
    from harness.registry.resolved import Resolved

Made = TypeVar("Made")


@dataclass(frozen=True)
class Setting:
    """The common ground of a cell's stages: dataset, model and attack as resolved, the recipe, the
    replicate of the victim. `title` names the victim, `attack_title` what is made for all models.
    """

    dataset: Entry
    data: Resolved[DatasetFacts]
    model: Resolved[ModelFacts]
    attack: Resolved[AttackFacts]
    recipe: Mapping[str, Any]
    task: Task
    victim_seed: int
    title: str
    attack_title: str

    @cached_property
    def numerics(self) -> Mapping[str, Any]:
        """What the recipe says of precision and determinism, as far as it is not the default."""
        defaults = Recipe().model_dump(mode="json")
        names = Numerics.__annotations__
        return {name: self.recipe[name] for name in names if self.recipe[name] != defaults[name]}

    @cached_property
    def name(self) -> tuple[Any, ...]:
        """A tuple that stands for the setting in memos."""
        return id(self.data), id(self.model), id(self.attack), id(self.recipe), self.victim_seed


@dataclass(frozen=True)
class Suspect:
    """A model on its way through a chain of defenses: the stage that made it, and the structure
    that its state fits.
    """

    stage: Stage
    structure: Structure


@dataclass
class Graph:
    """All stages so far, in topological order."""

    binding: Binding
    code: Callable[[str], Mapping[str, str]]
    """The sources of a stage kind, by its module's name."""
    titles: Titles
    stages: dict[str, Stage] = field(default_factory=dict)
    _memo: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def once(self, name: tuple[Any, ...], build: Callable[[], Made]) -> Made:
        """Return what `build` gave the first time it was asked for `name`.

        Names hold `id`s of components: the binding keeps them alive, so no `id` is used again.
        """
        if name not in self._memo:
            self._memo[name] = build()
        made: Made = self._memo[name]
        return made

    def add(
        self,
        title: str,
        payload: Payload,
        *,
        components: Sequence[Resolved],
        inputs: Sequence[Input],
        guarded: bool = True,
    ) -> Stage:
        """Add a stage; an equal one that is there already wins. `components`: those whose sources
        stand behind it. See `harness.stages.stage.make`.
        """
        name = ("sources", payload.kind, *map(id, components))
        sources = self.once(name, lambda: self._sources(payload.kind, components))
        stage = make(title, payload, sources, inputs=inputs, guarded=guarded)
        return self.stages.setdefault(stage.key, stage)

    def _sources(self, kind: str, components: Sequence[Resolved]) -> StageSources:
        # Following imports takes a millisecond and the answer is the same for all stages of a kind.
        code = self.once(("code", kind), lambda: self.code(f"harness.stages.{kind}"))
        return StageSources.of(code, components)

    def context(
        self,
        kind: str,
        component: Resolved,
        replicate: int | None,
        task: Task,
        *,
        model: ComponentSpec | None = None,
        recipe: Mapping[str, Any] | None = None,
        parts: Mapping[str, Filling] | None = None,
        numerics: Mapping[str, Any] | None = None,
    ) -> ContextSpec:
        """Describe the context of a stage. An unseeded component has no replicate.

        `numerics` are for what trains networks without knowing the recipe.
        """
        if not component.seeded:
            replicate = None
        coordinates = Coordinates(replicate, task.dataset, kind, component.name)
        told = {} if recipe is not None else numerics
        return ContextSpec(task, coordinates, model, recipe, parts or {}, told or {})

    def setting(self, cell: Cell) -> Setting:
        """Return what the stages of a cell share."""
        name = ("setting", cell.dataset, cell.model, cell.attack, cell.victim_seed)
        return self.once(name, lambda: self._setting(cell))

    def _setting(self, cell: Cell) -> Setting:
        binding = self.binding
        dataset = cell.dataset
        return Setting(
            dataset=dataset,
            data=binding.component(dataset, dataset),
            model=binding.component(cell.model, dataset),
            attack=binding.component(cell.attack, dataset),
            recipe=binding.recipes[dataset, cell.model, cell.attack],
            task=binding.task(dataset),
            victim_seed=cell.victim_seed,
            title=self.titles.cell(dataset, cell.model, cell.attack),
            attack_title=self.titles.cell(dataset, None, cell.attack),
        )

    # --- pictures, which both sides stand on ------------------------------------------------------

    def data(self, dataset: Resolved[DatasetFacts]) -> Stage:
        """Lay out the dataset's splits."""
        return self.once(("data", id(dataset)), lambda: self._data(dataset))

    def _data(self, dataset: Resolved[DatasetFacts]) -> Stage:
        return self.add(
            self.label_of(dataset),
            DataPayload(dataset.body, dataset.facts.fingerprint),
            components=[dataset],
            inputs=(),
            guarded=False,
        )

    def label_of(self, dataset: Resolved[DatasetFacts]) -> str:
        """Return the label of a dataset's entry; of one that only a grant names, its name, numbered
        where several have it.
        """
        labels = self.once(("labels of datasets",), lambda: _dataset_labels(self.binding))
        return labels.get(id(dataset), dataset.name)

    def split(self, dataset: Resolved[DatasetFacts], split: str, role: str) -> Input:
        """Return a split of the dataset as an input."""
        return Input(role, self.data(dataset).key, (split_file(split),))


def _dataset_labels(binding: Binding) -> Mapping[int, str]:
    """Return the labels of all datasets by `id`; the binding keeps the datasets alive."""
    labels: dict[int, str] = {}
    by_key_entry: dict[str, str] = {}
    for (entry, _), component in binding.components.items():
        if entry.kind == "dataset":
            labels[id(component)] = entry.label
            by_key_entry[component.key_entry.text] = entry.label
    for component in binding.grants.values():
        label = by_key_entry.get(component.key_entry.text)
        if label is None:
            label = component.name
            number = 1
            while label in by_key_entry.values():
                number += 1
                label = f"{component.name} ({number})"
            by_key_entry[component.key_entry.text] = label
        labels[id(component)] = label
    return labels
