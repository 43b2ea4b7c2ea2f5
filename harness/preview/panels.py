"""What `bench preview` shows: which triggers of a grid, from which stages, and what is said of
each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.outcomes import Outcome
from harness.plan.binding import bind
from harness.plan.graph import POISONED, Graph, Setting
from harness.plan.parts import needs_model
from harness.plan.plan import Plan, incompatible, setting, untrainable
from harness.preview.sheet import Panel, Row, Section
from harness.stages import Input, Stage
from harness.stages.score import VARIANT
from harness.stages.victim import TRUTH

if TYPE_CHECKING:
    from harness.grid import Cell, Entry, Grid
    from harness.registry.resolve import Resolver
    from harness.store.objects import Store


@dataclass(frozen=True)
class Shown:
    """An attack on a dataset: the stage whose images are drawn, or why there is nothing to draw.

    `trained`: the trigger is that of a trained victim, for an attack that may change it while it
    trains.
    """

    cell: Cell
    at: Setting | None = None
    stage: Stage | None = None
    trained: bool = False
    reason: str = ""

    @property
    def name(self) -> str:
        """What it is called on the sheet."""
        return f"{self.cell.attack.label} on {self.cell.dataset.label}"


def chosen(read: Grid, cells: Iterable[Cell], resolver: Resolver) -> tuple[Graph, list[Shown]]:
    """Every attack of `cells` on every dataset, each as in its first cell that makes sense. Raises
    GridError.
    """
    pairs: dict[tuple[Entry, Entry], dict[Entry, Cell]] = {}
    for cell in cells:
        pairs.setdefault((cell.dataset, cell.attack), {}).setdefault(cell.model, cell)
    firsts = [cell for by_model in pairs.values() for cell in by_model.values()]
    binding = bind(read, firsts, resolver.registry, resolver)
    against = incompatible(binding, firsts, resolver)
    found: list[Shown] = []
    for by_model in pairs.values():
        reasons = {cell: against.get((*cell.entries[:3], None)) for cell in by_model.values()}
        sound = [cell for cell, reason in reasons.items() if reason is None]
        cell = sound[0] if sound else next(iter(reasons))
        at = setting(binding, cell)
        no_trigger = "" if at.attack.facts["has_trigger"] else "it has no trigger"
        reason = reasons[cell] or no_trigger or untrainable(at, ())
        found.append(Shown(cell, reason=reason) if reason else Shown(cell, at))
    return Graph(binding, resolver.sources.of), found


def lay_out(
    graph: Graph, found: Sequence[Shown], store: Store, images: int
) -> tuple[Plan, list[Shown]]:
    """What it takes to show these attacks, with `images` of each at most: a plan, and each with its
    stage.

    No victim is trained for the sake of a picture: where an attack controls training, its trigger
    is that of its victim if the store has one, else as it is before training.
    """
    plan = Plan(graph.binding.grid, (), graph)
    trained = _trained(plan, store, [shown.at for shown in found if shown.at])
    staged = [_staged(graph, shown, images, trained) for shown in found]
    plan.refresh(store, [shown.stage.key for shown in staged if shown.stage])
    # A victim that turns out to be damaged is not made again: the next preview shows the trigger
    # before training.
    plan.stages = {key: stage for key, stage in plan.stages.items() if stage.kind != "victim"}
    return plan, staged


def _trained(plan: Plan, store: Store, settings: Sequence[Setting]) -> set[str]:
    """The victims in the store, by key, of attacks that may change their trigger in training."""
    victims = [plan.graph.victim(at).stage.key for at in settings if _unfinished(at)]
    plan.refresh(store, victims)
    return {key for key in victims if plan.outcome[key] is Outcome.CACHED}


def _unfinished(at: Setting) -> bool:
    """Whether training may change the trigger that the stage `poison` leaves."""
    return bool(at.attack.facts["training_controlled"] and at.attack.facts["trains"])


def _staged(graph: Graph, shown: Shown, images: int, trained: set[str]) -> Shown:
    at = shown.at
    if at is None:
        return shown
    finished = _unfinished(at) and graph.victim(at).stage.key in trained
    truth = graph.victim(at).stage if finished else graph.poison(at)
    # An attack that controls training has no poisoned set to show beside its originals.
    splits = ("test.safetensors",) + ("train.safetensors",) * (
        not at.attack.facts["training_controlled"]
    )
    stage = graph.add(
        "preview",
        f"preview {at.attack.called} on {at.data.name}, seed {at.victim_seed}",
        components={"component": at.attack},
        inputs=(
            Input("truth", truth.key, TRUTH if finished else POISONED),
            Input("data", graph.data(at.data).key, splits),
        ),
        choices={"images": images},
        # No replicate: the same images for every attack on a dataset.
        **graph.seeded("preview", at.attack, None, at.task, {"images": images}),
    )
    return Shown(shown.cell, at, stage, finished)


# --- what is said ---------------------------------------------------------------------------------


def panel(shown: Shown, facts: Mapping[str, Any], amplify: float | None) -> Panel:
    """A panel of the sheet, from what the stage says of its images. `amplify` None: a factor for
    each difference.
    """
    assert shown.at is not None
    assert shown.stage is not None
    table = facts["table"]
    rows = [Row("clean", "clean")]
    for name, apart in facts["apart"].items():
        rows.append(Row(_spoken(name), name))
        rows.append(_difference(name, "clean", apart, amplify))
    labels = [
        f"{label} -> {table[label]}" if table[label] >= 0 else f"{label}, spared"
        for label in facts["labels"]
    ]
    title = "test images: class -> label that the attack wants" + (
        "; spared: it wants none" * (-1 in table)
    )
    sections = [Section(title, labels, rows)]
    if training := facts["training"]:
        given = zip(training["labels"], training["given"], strict=True)
        labels = [
            f"{label}, kept" if label == other else f"{label} -> {other}" for label, other in given
        ]
        rows = [Row("original", "original"), Row("poisoned", "poisoned")]
        rows.append(_difference("poisoned", "original", training["apart"], amplify))
        if training["beyond"]:
            what = "difference from the triggered original"
            rows.append(_difference("poisoned", "stamped", training["beyond"], amplify, what))
        sections.append(
            Section("training images: class -> label that they are given", labels, rows)
        )
    source = {
        "stage": shown.stage.key,
        "attack": shown.at.attack.called,
        "dataset": shown.at.data.called,
    }
    return Panel(shown.name, list(_notes(shown, facts)), sections, source)


def factor(largest: float) -> float:
    """By how much a difference is amplified: the largest whole number that keeps it within 255, at
    most 255.
    """
    return float(max(1, math.floor(min(255.0, 255 / largest)))) if largest > 0 else 1.0


def label_map(table: Sequence[int]) -> str:
    """A label table in words, in which -1 stands for a class that is not attacked."""
    wanted = {label for label in table if label >= 0}
    attacked = [label for label, mapped in enumerate(table) if mapped >= 0]
    if list(table) == [(label + 1) % len(table) for label in range(len(table))] and len(table) > 1:
        return "every class -> the next one"
    classes = f"class{'es' * (len(attacked) != 1)} {', '.join(map(str, attacked))}"
    who = "every class" if len(attacked) == len(table) else f"{classes} of {len(table)}"
    if not attacked:
        return "no class is attacked"
    return (
        f"{who} -> {wanted.pop()}" if len(wanted) == 1 else f"{who}, each with a label of its own"
    )


def _notes(shown: Shown, facts: Mapping[str, Any]) -> Iterator[str]:
    at = shown.at
    assert at is not None
    for_model = shown.trained or needs_model(at.attack)
    model = f", for {shown.cell.model.label}" if for_model else ""
    size = f"{at.task.height}x{at.task.width}, {at.task.channels} channel{'s' * (at.task.channels != 1)}"
    yield f"{at.attack.called}{model}, seed {at.victim_seed}; {size}; {label_map(facts['table'])}"
    if _unfinished(at):
        if shown.trained:
            yield "the trigger as it is after training, which this attack controls"
        else:
            yield "BEFORE TRAINING: this attack controls training, which may still change the trigger"
    if training := facts["training"]:
        told = f"{training['count']} of {training['of']} training images are poisoned"
        told += ", and keep their labels" if training["kept"] else ""
        told += "; not by the trigger of the test images alone" if training["beyond"] else ""
        yield told


def _difference(
    name: str,
    less: str,
    apart: Mapping[str, float],
    amplify: float | None,
    what: str = "difference",
) -> Row:
    largest, mean = apart["largest"], apart["mean"]
    times = factor(largest) if amplify is None else amplify
    caption = f"{what} x{times:g}\nat most {_levels(largest)} of 255 grey levels, {_levels(mean)} in the mean"
    if largest == 0:
        caption = f"{what} x{times:g}\nnone at all"
    elif times * largest > 255.5:
        caption += "; cut off at white"
    return Row(caption, name, less, times)


def _spoken(name: str) -> str:
    return f"variant {name.removeprefix(VARIANT)}" if name.startswith(VARIANT) else name


def _levels(number: float) -> str:
    return "0" if number == 0 else "below 0.01" if number < 0.01 else f"{number:.3g}"
