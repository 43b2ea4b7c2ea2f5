"""From a cell to its stages: who is upstream of whom, and what enters which key.

One method a stage kind. Every method is memoised on what determines the stage, so a grid of ten thousand cells asks ten
thousand times and builds each stage once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from harness.components import Task
from harness.errors import GridError, PluginError
from harness.stages import Input, Stage, body, make, row_name
from harness.stages.materials import RESULT
from harness.stages.victim import MODEL, TRUTH

if TYPE_CHECKING:
    from harness.binding import Binding
    from harness.grid import Entry
    from harness.resolve import Resolved

Made = TypeVar("Made")

POISONED = ("trigger.safetensors", "truth.json", "poisoned.safetensors")


@dataclass(frozen=True)
class Setting:
    """What a cell's stages share: dataset, model and attack as resolved, the recipe, the replicate of the victim."""

    dataset: Entry
    data: Resolved
    model: Resolved
    attack: Resolved
    recipe: Mapping[str, Any]
    task: Task
    victim_seed: int

    @property
    def name(self) -> tuple[Any, ...]:
        """What stands for the setting in memos."""
        return id(self.data), id(self.model), id(self.attack), id(self.recipe), self.victim_seed


@dataclass(frozen=True)
class Suspect:
    """A model on its way through a chain of defenses: the stage that made it, and the structure its state fits."""

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

    def add(self, kind: str, title: str, **what: Any) -> Stage:
        """A stage in the graph; an equal one that is there already wins."""
        # Following imports takes a millisecond and the answer is the same for all stages of a kind.
        code = self.once(("code", kind), lambda: self.code(f"harness.stages.{kind}"))
        stage = make(kind, title, code=code, **what)
        return self.stages.setdefault(stage.key, stage)

    def data(self, dataset: Resolved) -> Stage:
        """The dataset's splits."""
        return self.once(
            ("data", id(dataset)),
            lambda: self.add("data", f"data {dataset.name}", components={"component": dataset}, inputs=(), guarded=False),
        )

    # --- the attacker's side -------------------------------------------------------------------------------------

    def poison(self, at: Setting) -> Stage:
        """Trigger and poisoned set; knows the model only where the attack says so."""
        alone = ("poison", id(at.data), id(at.attack), at.victim_seed)
        return self.once(("poison", *at.name) if needs_model(at.attack) else alone, lambda: self._poison(at))

    def _poison(self, at: Setting) -> Stage:
        parts, opened = self._parts(at.attack, at, {"train": self._train(at)}, at.victim_seed)
        components = {"component": at.attack}
        payload: dict[str, Any] = {"parts": opened}
        choices: dict[str, Any] = {}
        if needs_model(at.attack):
            components["model"] = at.model
            choices = {"recipe": at.recipe}
            payload.update(choices)
        return self.add(
            "poison",
            f"poison {at.attack.name} on {at.data.name}, seed {at.victim_seed}",
            components=components,
            inputs=(self._train(at), *parts),
            choices=choices,
            **self._seeded("poison", at.attack, at.victim_seed, at.task, payload),
        )

    def victim(self, at: Setting) -> Suspect:
        """The backdoored model (the clean one, for the attack that is none)."""
        return self.once(("victim", *at.name), lambda: self._victim(at))

    def _victim(self, at: Setting) -> Suspect:
        parts, opened = self._parts(at.attack, at, {"train": self._train(at)}, at.victim_seed)
        poison = (Input("poison", self.poison(at).key, POISONED),) if at.attack.facts["has_trigger"] else ()
        structure = {"model": body(at.model), "rebuilds": []}
        stage = self.add(
            "victim",
            f"train {at.model.name} on {at.data.name}, attack {at.attack.name}, seed {at.victim_seed}",
            components={"component": at.attack, "model": at.model},
            inputs=(self._train(at), *poison, *parts),
            choices={"recipe": at.recipe},
            **self._seeded(
                "victim",
                at.attack,
                at.victim_seed,
                at.task,
                {"parts": opened, "recipe": at.recipe, "structure": structure},
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
        parts, opened = self._parts(at.attack, at, {"train": self._train(at)}, at.victim_seed)
        components = {"component": at.attack}
        payload: dict[str, Any] = {"parts": opened}
        if needs_model(at.attack):
            components["model"] = at.model
            payload["recipe"] = at.recipe
        return self.add(
            "export",
            f"export {at.attack.name} on {at.data.name}, seed {at.victim_seed}",
            components=components,
            inputs=(*sources, *parts),
            choices={"recipe": payload.get("recipe")},
            **self._seeded("export", at.attack, at.victim_seed, at.task, payload),
        )

    # --- the defender's side -------------------------------------------------------------------------------------

    def defend(self, at: Setting, defense: Resolved, grants: Mapping[str, Any], suspect: Suspect, seed: int) -> Suspect:
        """One defense on one suspect. `grants` as `grants_of` gives them."""
        name = ("defend", *at.name, id(defense), tuple(sorted((k, v.key) for k, v in grants.items())), suspect.stage.key, seed)
        return self.once(name, lambda: self._defend(at, defense, grants, suspect, seed))

    def _defend(self, at: Setting, defense: Resolved, grants: Mapping[str, Input], suspect: Suspect, seed: int) -> Suspect:
        granted = {**grants, "victim": Input("victim", suspect.stage.key, MODEL)}
        if "training-set" in defense.needs:
            granted["training-set"] = Input("training", self.export(at).key, ("training.safetensors",))
        mine = {need: granted[need] for need in defense.needs if need != "oracle"}
        parts, opened = self._parts(defense, at, mine, seed, suspect, grants)
        oracle = self._oracle(at) if "oracle" in defense.needs else ()
        rebuilds = [*suspect.structure["rebuilds"], *([body(defense)] if defense.facts["rebuilds"] else [])]
        structure = {**suspect.structure, "rebuilds": rebuilds}
        payload = {
            "parts": opened,
            "recipe": at.recipe,
            "granted": sorted(defense.needs),
            "structure": suspect.structure,
            "defended_structure": structure,
        }
        if oracle:
            payload["attack"] = body(at.attack)
        stage = self.add(
            "defend",
            f"defend {defense.name} against {at.attack.name} on {at.data.name}/{at.model.name}, seeds {at.victim_seed}.{seed}",
            components={"component": defense, "model": at.model},
            inputs=(*mine.values(), *oracle, *parts),
            choices={"recipe": at.recipe},
            **self._seeded("defend", defense, seed, at.task, payload),
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
                    "coordinates": {"replicate": seed, "dataset": source.name, "stage": "grant", "component": ""},
                    "count": count,
                    "labelled": labelled,
                },
                guarded=False,
            ),
        )

    # --- judging -------------------------------------------------------------------------------------------------

    def evaluate(self, at: Setting, suspect: Suspect) -> Stage:
        """Predictions of a model."""
        return self.once(("evaluate", id(at.data), id(at.attack), suspect.stage.key), lambda: self._evaluate(at, suspect))

    def _evaluate(self, at: Setting, suspect: Suspect) -> Stage:
        return self.add(
            "evaluate",
            f"evaluate {suspect.stage.title}",
            components={"component": at.attack},
            inputs=(Input("model", suspect.stage.key, MODEL), *self._oracle(at)),
            **self._seeded(
                "evaluate", at.attack, None, at.task, {"structure": suspect.structure, "attack": body(at.attack)}
            ),
        )

    def score(self, evaluated: Stage, defended: Stage | None, metrics: Sequence[Resolved]) -> Stage:
        """Metrics of one distribution on predictions; `defended` is the stage whose record they may read."""
        named = {row_name(metric): metric for metric in sorted(metrics, key=row_name)}
        result = (Input("result", defended.key, (RESULT,)),) if defended else ()
        return self.once(
            ("score", evaluated.key, defended and defended.key, tuple(named), tuple(map(id, named.values()))),
            lambda: self.add(
                "score",
                f"score {', '.join(named)} of {evaluated.title.removeprefix('evaluate ')}",
                components={f"metric.{name}": metric for name, metric in named.items()},
                inputs=(Input("predictions", evaluated.key, ("predictions.safetensors",)), *result),
                payload={"metrics": {name: body(metric) for name, metric in named.items()}},
            ),
        )

    def measure(
        self, at: Setting, suspect: Suspect, defended: Stage | None, metric: Resolved, reference: Stage | None
    ) -> Stage:
        """A metric with the model or data in hand; `reference` is the same stage on the reference model."""
        parts, opened = self._parts(metric, at, {}, at.victim_seed, suspect)
        inputs: list[Input] = [*parts]
        if "model" in metric.needs:
            inputs.append(Input("model", suspect.stage.key, MODEL))
        if "predictions" in metric.needs:
            inputs.append(Input("predictions", self.evaluate(at, suspect).key, ("predictions.safetensors",)))
        if "trigger" in metric.needs:
            inputs += self._oracle(at)
        elif "test" in metric.needs:
            inputs.append(Input("test", self.data(at.data).key, ("test.safetensors",)))
        if "validation" in metric.needs:
            inputs.append(Input("validation", self.data(at.data).key, ("validation.safetensors",)))
        if "training-set" in metric.needs:
            inputs.append(Input("training", self.export(at).key, ("training.safetensors", "poisoned.safetensors")))
        if defended and ("result" in metric.needs or "predictions" in metric.needs):
            inputs.append(Input("result", defended.key, (RESULT,)))
        if reference:
            inputs.append(Input("reference", reference.key, ("rows.json", "arrays.safetensors")))
        payload = {"row": row_name(metric), "structure": suspect.structure, "recipe": at.recipe, "parts": opened}
        payload["attack"] = body(at.attack)
        return self.add(
            "measure",
            f"measure {row_name(metric)} of {suspect.stage.title}",
            components={"component": metric, "model": at.model},
            inputs=tuple(inputs),
            choices={"recipe": at.recipe},
            **self._seeded("measure", metric, at.victim_seed, at.task, payload),
        )

    # --- what the methods above share ----------------------------------------------------------------------------

    def _train(self, at: Setting) -> Input:
        return Input("data", self.data(at.data).key, ("train.safetensors",))

    def _oracle(self, at: Setting) -> tuple[Input, Input]:
        return (
            Input("truth", self.victim(at).stage.key, TRUTH),
            Input("test", self.data(at.data).key, ("test.safetensors",)),
        )

    def _seeded(
        self, kind: str, component: Resolved, replicate: int | None, task: Task, payload: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Coordinates in key and payload; an unseeded component has no replicate."""
        replicate = replicate if component.seeded else None
        coordinates = {"replicate": replicate, "dataset": task.dataset, "stage": kind, "component": component.name}
        return {
            "seed": {"replicate": replicate, "dataset": task.dataset},
            "payload": {"task": self.once(("task", task), lambda: asdict(task)), "coordinates": coordinates, **payload},
        }

    def _parts(
        self,
        owner: Resolved,
        at: Setting,
        granted: Mapping[str, Input],
        seed: int,
        suspect: Suspect | None = None,
        grants: Mapping[str, Input] | None = None,
    ) -> tuple[tuple[Input, ...], dict[str, Any]]:
        """The upstream stages that fill `owner`'s parameters, and how its process opens them."""
        inputs: list[Input] = []
        opened: dict[str, Any] = {}
        for name, used in owner.uses.items():
            opened[name] = {"kind": used.kind, "component": body(used)}
            role = f"part.{name}"
            if used.kind == "dataset":
                inputs.append(Input(role, self.data(used).key, ("train.safetensors",)))
            elif used.kind == "part":
                stage = self._part(used, owner, at, granted, seed, suspect)
                inputs.append(Input(role, stage.key, ("model.safetensors",)))
            elif used.kind == "defense" and suspect is not None and grants is not None:
                if missing := set(used.needs) - set(owner.needs):
                    raise PluginError(
                        f"{owner.name}'s {name} = {used.name!r} needs {', '.join(sorted(missing))}, "
                        f"which {owner.name} itself is not granted"
                    )
                made = self.defend(at, used, {k: v for k, v in grants.items() if k in used.needs}, suspect, seed)
                inputs.append(Input(role, made.stage.key, MODEL))
                opened[name]["structure"] = made.structure
            elif used.kind != "model":
                raise PluginError(f"{owner.kind} {owner.name}: a {used.kind} cannot fill its parameter {name!r}")
        return tuple(inputs), opened

    def _part(
        self,
        part: Resolved,
        owner: Resolved,
        at: Setting,
        granted: Mapping[str, Input],
        seed: int,
        suspect: Suspect | None,
    ) -> Stage:
        """A part, made from at most what its owner is granted."""
        taken = {need: granted[need] for need in part.needs if need in granted}
        if missing := set(part.needs) - {"model"} - set(taken):
            raise PluginError(
                f"part {part.name!r} needs {', '.join(sorted(missing))}, which {owner.name} is not granted"
            )
        components = {"component": part}
        payload: dict[str, Any] = {"granted": sorted(part.needs), "model": None}
        task = at.task
        if "model" in part.needs:
            components["model"] = at.model
            payload.update(recipe=at.recipe, model=body(at.model))
        if not part.needs:
            # Made from nothing but its parameters: one for all datasets of this shape.
            task = Task("", task.classes, task.height, task.width, task.channels, 0)
        if suspect is not None:
            payload["structure"] = suspect.structure
        inner, opened = self._parts(part, at, granted, seed, suspect)
        return self.add(
            "part",
            f"part {part.name} of {owner.name}",
            components=components,
            inputs=(*taken.values(), *inner),
            choices={"task": asdict(task), "recipe": payload.get("recipe")},
            **self._seeded("part", part, seed, task, {**payload, "parts": opened}),
        )


def needs_model(component: Resolved) -> bool:
    """Whether it, or a component that fills its parameters, works with the cell's architecture."""
    return "model" in component.needs or any(map(needs_model, component.uses.values()))


def grants_of(graph: Graph, at: Setting, entry: Entry, defense: Resolved, seed: int) -> dict[str, Input]:
    """The image grants of one defense: what its entry says, else the grid's `[defender]`, else the whole pool.

    Raises GridError at the line that grants more than there is.
    """
    binding = graph.binding
    grants: dict[str, Input] = {}
    for need, role in (("clean-labelled", "clean"), ("clean-unlabelled", "unlabelled")):
        if need not in defense.needs:
            continue
        tables = ((entry.grant or {}, entry.at("grant")), (binding.grid.defender, binding.grid.place("defender")))
        value, place = next(
            ((table[k], place) for table, place in tables for k in (need, "clean") if k in table),
            (None, at.dataset.place),
        )
        source, split, available = at.data, "pool", binding.sizes(at.dataset).pool
        if isinstance(value, Mapping):
            from harness.binding import grant_name
            from harness.stages.data import sizes

            source, value = binding.grants[grant_name(value["dataset"])], value["count"]
            held = sizes(source.params, source.facts["train_count"], source.facts["test_count"])
            split, available = ("pool", held.pool) if held.pool else ("train", held.train)
        seen = binding.sizes(at.dataset)
        count = available if value is None else value if isinstance(value, int) else round(value * (seen.train + seen.pool))
        if not 0 < count <= available:
            raise GridError(
                place.problem(
                    f"{defense.name} needs {count or 'some'} clean images, and the {split} of {source.name!r} holds {available}",
                    f"set pool >= {max(count, 1)} in its [[dataset]], or grant less",
                )
            )
        stage = graph.grant(source, split, count, need == "clean-labelled", seed)
        grants[need] = Input(role, stage.key, ("images.safetensors",))
    return grants
