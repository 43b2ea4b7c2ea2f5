"""All stages of a plan, and the small things that laying them out needs at every turn.

`attacker`, `parts`, `defender` and `judging` lay out the stages themselves, one function a stage
kind. Each is memoised on what determines the stage (`Graph.once`), so that a grid of ten thousand
cells asks ten thousand times and builds each stage once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from harness.access.context import Coordinates
from harness.components import AttackFacts, DatasetFacts, ModelFacts, Task
from harness.components.spec import ComponentSpec
from harness.keys import Shared
from harness.plan.titles import Titles
from harness.stages.artefacts import split_file
from harness.stages.payloads import ContextSpec, DataPayload, Filling, Payload, Structure
from harness.stages.stage import Input, Stage, StageComponents, make

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
    def task_in_key(self) -> Shared:
        """The task, for the key of a stage whose inputs need not fix it (images granted from
        elsewhere).
        """
        return Shared(asdict(self.task))

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
        """Return what `build` gave the first time it was asked for `name`."""
        if name not in self._memo:
            self._memo[name] = build()
        made: Made = self._memo[name]
        return made

    def add(
        self,
        title: str,
        payload: Payload,
        *,
        components: Mapping[str, Resolved],
        inputs: Sequence[Input],
        seed: Shared | None = None,
        choices: Mapping[str, Any] | None = None,
        guarded: bool = True,
    ) -> Stage:
        """Add a stage; an equal one that is there already wins. See `harness.stages.stage.make`."""
        kind = payload.kind
        name = ("components", kind, *components, *map(id, components.values()))
        combined = self.once(name, lambda: self._components(kind, components))
        stage = make(
            title, payload, combined, inputs=inputs, seed=seed, choices=choices, guarded=guarded
        )
        return self.stages.setdefault(stage.key, stage)

    def _components(self, kind: str, components: Mapping[str, Resolved]) -> StageComponents:
        # Following imports takes a millisecond and the answer is the same for all stages of a kind.
        code = self.once(("code", kind), lambda: self.code(f"harness.stages.{kind}"))
        return StageComponents.of(components, code)

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
    ) -> ContextSpec:
        """Describe the context of a stage. An unseeded component has no replicate."""
        if not component.seeded:
            replicate = None
        coordinates = Coordinates(replicate, task.dataset, kind, component.name)
        return ContextSpec(task, coordinates, model, recipe, parts or {})

    def seed(self, context: ContextSpec) -> Shared:
        """Return the coordinates of a stage's draws as its key holds them."""
        replicate = context.coordinates.replicate
        dataset = context.coordinates.dataset
        return self.once(
            ("seed", replicate, dataset), lambda: Shared(replicate=replicate, dataset=dataset)
        )

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
            dataset.name,
            DataPayload(dataset.body),
            components={"component": dataset},
            inputs=(),
            choices={"fingerprint": dataset.facts.fingerprint},
            guarded=False,
        )

    def split(self, dataset: Resolved[DatasetFacts], split: str, role: str) -> Input:
        """Return a split of the dataset as an input."""
        return Input(role, self.data(dataset).key, (split_file(split),))
