"""The keys of one small grid, as they were when they were last looked at.

Whoever has a store pays again for everything whose key has moved. So if this fails, a change moved
keys: of their schema, a parameter's name or default, a recipe's field, a component's `version`, a
seed's coordinates or a stage's inputs. The failure lists what. If numbers really change, or may,
that is right: write the file anew with `python -m tests.harness.plan.test_golden_keys` and say in
the changelog what will be computed again. If they do not, take the change back, or make it so that
the settings of before give the key of before.

The sources of components and stages are in keys too, but their revisions are pinned here; see
tests/harness/sources/test_digests.py.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import grid
from harness.keys import digest
from harness.plan import plan
from harness.registry.discovery import discover
from harness.registry.memo import Memo
from harness.registry.names import Registered, Registry
from harness.registry.resolve import Resolver
from harness.sources.digests import Sources
from harness.stages.payloads import GrantPayload, Payload, WithContext
from harness.stages.wire import PAYLOADS
from tests.kit.one_child import answering
from tests.kit.places import ROOT

GOLDEN = Path(__file__).parent / "golden_keys.json"

GRID = """
[[dataset]]
name = "signs"
train = 400
test = 100
pool = 60
validation = 20
[[model]]
name = "small-cnn"
width = 8
[[attack]]
name = "none"
[[attack]]
name = "badnets"
preset = "anp"
target = 3
established = {asr = 0.9}
[[attack]]
name = "wanet"
training.epochs = 3
[defender]
clean = 0.1
[[defense]]
name = "none"
[[defense]]
name = "ft"
[[defense]]
name = "nad"
teacher = {name = "ft", epochs = 3}
[[defense]]
name = "ft"
as = "again"
on = "nad"
epochs = 4
grant.clean = {dataset = {name = "signs", train = 900}, count = 50}
[[defense]]
name = "retrain"
seeds = {victim = [1], defense = [2]}
[training]
epochs = 2
[[metric]]
name = "acc"
[[metric]]
name = "asr"
include_target = true
[[metric]]
name = "weight-norm"
[[block]]
attack = ["badnets"]
defense = ["none", "ft", "nad", "again"]
[[block]]
attack = ["wanet"]
defense = ["retrain"]
[[block]]
attack = ["none"]
defense = ["none"]
"""

PROBES = (
    ("defense", "retrain", "probes.retrain:Retrain"),
    ("metric", "weight-norm", "probes.norm:WeightNorm"),
)
"""What the box has none of yet: a defense that trains, and a metric that needs the model."""


class Pinned(Sources):
    """Says of every module that it is itself, in its first revision."""

    def of(self, module: str, packages: Iterable[str] = ()) -> dict[str, str]:
        return {module: "r1"}


def made(folder: Path) -> dict[str, dict[str, Any]]:
    """Spec, and for stages that draw the seeds of two streams, of every stage by key, upstream
    first; and recipes.
    """
    path, memo = folder / "grid.toml", Memo(folder / "memo")
    path.write_text(GRID)
    read = grid.read(path)
    with answering(ROOT / "tests"):
        box = discover(memo)
        probes = [
            Registered(kind, name, target, "probes", "1.0", "probes")
            for kind, name, target in PROBES
        ]
        registry = Registry([*box.entries(), *probes], map(box.recipe, box.recipes))
        resolver = Resolver(registry, Pinned(), memo)
        planned = plan.build(read, read.cells, registry, resolver, resolver.sources)
    stages, recipes = planned.graph.stages.items(), {}
    found = {
        key: {"spec": dict(stage.spec), "seeds": _seeds(stage.payload)} for key, stage in stages
    }
    for stage in found.values():  # most stages have a recipe, and most have the same
        context = stage["spec"].get("context", {})
        if recipe := context.get("recipe"):
            recipes[digest(recipe)[:8]] = recipe
            stage["spec"]["context"] = {**context, "recipe": digest(recipe)[:8]}
    return {
        **found,
        **{
            f"recipe {name}": {"spec": {"stage": "recipe", **fields}}
            for name, fields in recipes.items()
        },
    }


def _seeds(payload: Payload) -> dict[str, int]:
    if isinstance(payload, GrantPayload):
        at = payload.coordinates
    elif isinstance(payload, WithContext):
        at = payload.context.coordinates
    else:
        return {}
    return {"shared": at.shared("order"), "own": at.own("noise")}


def moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """What is different in each stage that has no equal, against the nearest of before. Inputs only
    repeat it.
    """
    for key, stage in after.items():
        kind, leaves = stage["spec"]["stage"], dict(_leaves(stage))
        if before.get(key) == stage:
            continue
        others = [dict(_leaves(one)) for one in before.values() if one["spec"]["stage"] == kind]
        nearest = max(others, key=lambda one: len(one.items() & leaves.items()), default={})
        names = sorted(
            {
                name
                for name, _ in nearest.items() ^ leaves.items()
                if not name.startswith(".spec.inputs.")
            }
        )
        yield from (
            f"{kind}: {name[1:]}: {nearest.get(name, '-')} -> {leaves.get(name, '-')}"
            for name in names
        )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _leaves(item, f"{path}.{name}")
    else:
        yield path, json.dumps(value)


def test_keys_are_those_of_before(tmp_path: Path) -> None:
    before, after = json.loads(GOLDEN.read_text()), json.loads(json.dumps(made(tmp_path)))
    assert list(dict.fromkeys(moved(before, after))) == []
    assert after.keys() == before.keys()


def test_every_stage_kind_that_the_box_uses_is_among_them() -> None:
    kinds = {stage["spec"]["stage"] for stage in json.loads(GOLDEN.read_text()).values()}
    bodies = set(PAYLOADS)
    # No component of the box has a part yet, and no cell asks for a preview.
    assert kinds - {"recipe"} == bodies - {"part", "preview", "show"}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            f"{json.dumps(key)}: {json.dumps(stage)}" for key, stage in made(Path(folder)).items()
        ]
        GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
