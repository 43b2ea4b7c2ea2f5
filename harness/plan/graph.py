"""From a cell to its stages: who is upstream of whom, and what enters which key.

One method a stage kind. Every method is memoised on what determines the stage, so a grid of ten
thousand cells asks ten thousand times and builds each stage once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from harness.components import Task
from harness.keys import Shared
from harness.plan.parts import fill, needs_model
from harness.stages import Input, Stage, StageComponents, make
from harness.stages.defend import FILES as DEFENDED
from harness.stages.materials import RESULT
from harness.stages.victim import MODEL, TRUTH

if TYPE_CHECKING:
    from harness.grid import Entry
    from harness.plan.binding import Binding
    from harness.registry.resolved import Resolved

Made = TypeVar("Made")

POISONED = ("trigger.safetensors", "truth.json", "poisoned.safetensors")


@dataclass(frozen=True)
class Setting:
    """What a cell's stages share: dataset, model and attack as resolved, the recipe, the replicate
    of the victim.
    """

    dataset: Entry
    data: Resolved
    model: Resolved
    attack: Resolved
    recipe: Mapping[str, Any]
    task: Task
    victim_seed: int

    @cached_property
    def shape(self) -> Shared:
        """The task, for the key of a stage whose inputs need not fix it (images granted from
        elsewhere).
        """
        return Shared(asdict(self.task))

    @cached_property
    def name(self) -> tuple[Any, ...]:
        """What stands for the setting in memos."""
        return id(self.data), id(self.model), id(self.attack), id(self.recipe), self.victim_seed


@dataclass(frozen=True)
class Suspect:
    """A model on its way through a chain of defenses: the stage that made it, and the structure its
    state fits.
    """

    stage: Stage
    structure: Mapping[str, Any]


@dataclass
class Graph:
    """All stages so far, in topological order."""

    binding: Binding
    code: Callable[[str], Mapping[str, str]]
    """The sources of a stage kind, by its module's name."""
    stages: dict[str, Stage] = field(default_factory=dict)
    _memo: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def once(self, name: tuple[Any, ...], build: Callable[[], Made]) -> Made:
        """What `build` gave the first time it was asked for `name`."""
        if name not in self._memo:
            self._memo[name] = build()
        made: Made = self._memo[name]
        return made

    def add(
        self, kind: str, title: str, *, components: Mapping[str, Resolved], **what: Any
    ) -> Stage:
        """A stage in the graph; an equal one that is there already wins."""
        cast = self.once(
            ("cast", kind, *components, *map(id, components.values())),
            lambda: self._cast(kind, components),
        )
        stage = make(kind, title, cast, **what)
        return self.stages.setdefault(stage.key, stage)

    def _cast(self, kind: str, components: Mapping[str, Resolved]) -> StageComponents:
        # Following imports takes a millisecond and the answer is the same for all stages of a kind.
        return StageComponents.of(
            components, self.once(("code", kind), lambda: self.code(f"harness.stages.{kind}"))
        )

    def data(self, dataset: Resolved) -> Stage:
        """The dataset's splits."""
        return self.once(
            ("data", id(dataset)),
            lambda: self.add(
                "data",
                f"data {dataset.name}",
                components={"component": dataset},
                inputs=(),
                choices={"fingerprint": dataset.facts["fingerprint"]},
                guarded=False,
            ),
        )

    # --- the attacker's side ----------------------------------------------------------------------

    def poison(self, at: Setting) -> Stage:
        """Trigger and poisoned set; knows the model only where the attack says so."""
        alone = ("poison", id(at.data), id(at.attack), at.victim_seed)
        return self.once(
            ("poison", *at.name) if needs_model(at.attack) else alone, lambda: self._poison(at)
        )

    def _poison(self, at: Setting) -> Stage:
        filled = fill(self, at.attack, at, {"train": self._train(at)}, at.victim_seed)
        components = {"component": at.attack, **filled.components}
        payload: dict[str, Any] = {"parts": filled.opened}
        choices: dict[str, Any] = {}
        if needs_model(at.attack):
            components["model"] = at.model
            choices = {"recipe": at.recipe}
            payload.update(choices)
        return self.add(
            "poison",
            f"poison {at.attack.called} on {at.data.name}, seed {at.victim_seed}",
            components=components,
            inputs=(self._train(at), *filled.inputs),
            choices=choices,
            **self.seeded("poison", at.attack, at.victim_seed, at.task, payload),
        )

    def victim(self, at: Setting) -> Suspect:
        """The backdoored model (the clean one, for the attack that is none)."""
        return self.once(("victim", *at.name), lambda: self._victim(at))

    def _victim(self, at: Setting) -> Suspect:
        filled = fill(self, at.attack, at, {"train": self._train(at)}, at.victim_seed)
        poison = (
            (Input("poison", self.poison(at).key, POISONED),)
            if at.attack.facts["has_trigger"]
            else ()
        )
        structure = {"model": at.model.body, "rebuilds": []}
        stage = self.add(
            "victim",
            f"train {at.model.name} on {at.data.name}, attack {at.attack.called}, seed {at.victim_seed}",
            components={"component": at.attack, "model": at.model, **filled.components},
            inputs=(self._train(at), *poison, *filled.inputs),
            choices={"recipe": at.recipe},
            **self.seeded(
                "victim",
                at.attack,
                at.victim_seed,
                at.task,
                {"parts": filled.opened, "recipe": at.recipe, "structure": structure},
            ),
        )
        return Suspect(stage, structure)

    def export(self, at: Setting) -> Stage:
        """The training set as in-training defenses get it."""
        return self.once(("export", *at.name), lambda: self._export(at))

    def _export(self, at: Setting) -> Stage:
        sources: tuple[Input, ...] = (self._train(at),)
        if at.attack.facts["training_controlled"]:
            sources += (Input("truth", self.victim(at).stage.key, TRUTH),)
        elif at.attack.facts["has_trigger"]:
            sources += (Input("poison", self.poison(at).key, POISONED),)
        filled = fill(self, at.attack, at, {"train": self._train(at)}, at.victim_seed)
        components = {"component": at.attack, **filled.components}
        payload: dict[str, Any] = {"parts": filled.opened}
        if needs_model(at.attack):
            components["model"] = at.model
            payload["recipe"] = at.recipe
        return self.add(
            "export",
            f"export {at.attack.called} on {at.data.name}, seed {at.victim_seed}",
            components=components,
            inputs=(*sources, *filled.inputs),
            choices={"recipe": payload.get("recipe")},
            **self.seeded("export", at.attack, at.victim_seed, at.task, payload),
        )

    # --- the defender's side ----------------------------------------------------------------------

    def defend(
        self,
        at: Setting,
        defense: Resolved,
        grants: Mapping[str, Input],
        suspect: Suspect,
        seed: int,
    ) -> Suspect:
        """One defense on one suspect. `grants` as `harness.plan.grants` has them."""
        granted = tuple(sorted((need, item.key) for need, item in grants.items()))
        name = ("defend", *at.name, id(defense), granted, suspect.stage.key, seed)
        return self.once(name, lambda: self._defend(at, defense, grants, suspect, seed))

    def _defend(
        self,
        at: Setting,
        defense: Resolved,
        grants: Mapping[str, Input],
        suspect: Suspect,
        seed: int,
    ) -> Suspect:
        granted = {**grants, "victim": Input("victim", suspect.stage.key, DEFENDED)}
        if "training-set" in defense.needs:
            granted["training-set"] = Input(
                "training", self.export(at).key, ("training.safetensors",)
            )
        mine = {need: granted[need] for need in defense.needs if need != "oracle"}
        filled = fill(self, defense, at, mine, seed, suspect, grants)
        oracle = self._oracle(at) if "oracle" in defense.needs else ()
        rebuilds = [
            *suspect.structure["rebuilds"],
            *([defense.body] if defense.facts["rebuilds"] else []),
        ]
        structure = {**suspect.structure, "rebuilds": rebuilds}
        payload = {
            "parts": filled.opened,
            "recipe": at.recipe,
            "granted": sorted(defense.needs),
            "structure": suspect.structure,
            "defended_structure": structure,
        }
        if oracle:
            payload["attack"] = at.attack.body
        stage = self.add(
            "defend",
            f"defend {defense.called} against {at.attack.called} on {at.data.name}/{at.model.name}"
            f", seeds {at.victim_seed}.{seed}",
            components={"component": defense, "model": at.model, **filled.components},
            inputs=(*mine.values(), *oracle, *filled.inputs),
            choices={"recipe": at.recipe, "task": at.shape},
            **self.seeded("defend", defense, seed, at.task, payload),
        )
        return Suspect(stage, structure)

    def grant(self, source: Resolved, split: str, count: int, labelled: bool, seed: int) -> Stage:
        """`count` images of a split, in the order of the defense seed."""
        return self.once(
            ("grant", id(source), split, count, labelled, seed),
            lambda: self.add(
                "grant",
                f"grant {count} {'labelled' if labelled else 'unlabelled'} of {source.name}, seed {seed}",
                components={},
                inputs=(Input("data", self.data(source).key, (f"{split}.safetensors",)),),
                seed={"replicate": seed, "dataset": source.name},
                choices={"count": count, "labelled": labelled, "split": split},
                payload={
                    "coordinates": {
                        "replicate": seed,
                        "dataset": source.name,
                        "stage": "grant",
                        "component": "",
                    },
                    "count": count,
                    "labelled": labelled,
                },
                guarded=False,
            ),
        )

    # --- judging ----------------------------------------------------------------------------------

    def evaluate(self, at: Setting, suspect: Suspect) -> Stage:
        """Predictions of a model."""
        name = ("evaluate", id(at.data), id(at.attack), suspect.stage.key)
        return self.once(name, lambda: self._evaluate(at, suspect))

    def _evaluate(self, at: Setting, suspect: Suspect) -> Stage:
        return self.add(
            "evaluate",
            f"evaluate {suspect.stage.title}",
            components={"component": at.attack},
            inputs=(Input("model", suspect.stage.key, MODEL), *self._oracle(at)),
            **self.seeded(
                "evaluate",
                at.attack,
                None,
                at.task,
                {"structure": suspect.structure, "attack": at.attack.body},
            ),
        )

    def score(self, evaluated: Stage, defended: Stage | None, metrics: Sequence[Resolved]) -> Stage:
        """Metrics of one distribution on predictions; `defended` is the stage whose record they may
        read.
        """
        named = {
            metric.called: metric for metric in sorted(metrics, key=lambda metric: metric.called)
        }
        result = (Input("result", defended.key, (RESULT,)),) if defended else ()
        return self.once(
            (
                "score",
                evaluated.key,
                defended and defended.key,
                tuple(named),
                tuple(map(id, named.values())),
            ),
            lambda: self.add(
                "score",
                f"score {', '.join(named)} of {evaluated.title.removeprefix('evaluate ')}",
                components={f"metric.{name}": metric for name, metric in named.items()},
                inputs=(Input("predictions", evaluated.key, ("predictions.safetensors",)), *result),
                payload={"metrics": {name: metric.body for name, metric in named.items()}},
            ),
        )

    def measure(
        self,
        at: Setting,
        suspect: Suspect,
        defended: Stage | None,
        metric: Resolved,
        reference: Stage | None,
    ) -> Stage:
        """A metric with the model or data in hand; `reference` is the same stage on the reference
        model.
        """
        filled = fill(self, metric, at, {}, at.victim_seed, suspect)
        inputs: list[Input] = [*filled.inputs]
        if "model" in metric.needs:
            inputs.append(Input("model", suspect.stage.key, MODEL))
        if "predictions" in metric.needs:
            inputs.append(
                Input("predictions", self.evaluate(at, suspect).key, ("predictions.safetensors",))
            )
        if "trigger" in metric.needs:
            inputs += self._oracle(at)
        elif "test" in metric.needs:
            inputs.append(Input("test", self.data(at.data).key, ("test.safetensors",)))
        if "validation" in metric.needs:
            inputs.append(Input("validation", self.data(at.data).key, ("validation.safetensors",)))
        if "training-set" in metric.needs:
            inputs.append(
                Input(
                    "training",
                    self.export(at).key,
                    ("training.safetensors", "poisoned.safetensors"),
                )
            )
        if defended and ("result" in metric.needs or "predictions" in metric.needs):
            inputs.append(Input("result", defended.key, (RESULT,)))
        if reference:
            inputs.append(Input("reference", reference.key, ("rows.json", "arrays.safetensors")))
        payload = {
            "row": metric.called,
            "structure": suspect.structure,
            "recipe": at.recipe,
            "parts": filled.opened,
        }
        payload["attack"] = at.attack.body
        return self.add(
            "measure",
            f"measure {metric.called} of {suspect.stage.title}",
            components={"component": metric, "model": at.model, **filled.components},
            inputs=tuple(inputs),
            choices={"recipe": at.recipe, "task": at.shape},
            **self.seeded("measure", metric, at.victim_seed, at.task, payload),
        )

    # --- what the methods above share -------------------------------------------------------------

    def _train(self, at: Setting) -> Input:
        return Input("data", self.data(at.data).key, ("train.safetensors",))

    def _oracle(self, at: Setting) -> tuple[Input, Input]:
        return (
            Input("truth", self.victim(at).stage.key, TRUTH),
            Input("test", self.data(at.data).key, ("test.safetensors",)),
        )

    def seeded(
        self,
        kind: str,
        component: Resolved,
        replicate: int | None,
        task: Task,
        payload: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Coordinates in key and payload; an unseeded component has no replicate."""
        replicate = replicate if component.seeded else None
        coordinates = {
            "replicate": replicate,
            "dataset": task.dataset,
            "stage": kind,
            "component": component.name,
        }
        seed = self.once(
            ("seed", replicate, task.dataset),
            lambda: Shared(replicate=replicate, dataset=task.dataset),
        )
        told = self.once(("task", task), lambda: asdict(task))
        return {"seed": seed, "payload": {"task": told, "coordinates": coordinates, **payload}}
