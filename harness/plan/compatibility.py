"""Reasons why combinations of components make no sense: components' own, and the plan's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from harness.components import AnyFacts, Context, DefenseFacts, Traits
from harness.plan.graph import Setting
from harness.plan.recipes import Trio
from harness.registry.resolved import Resolved

if TYPE_CHECKING:
    from harness.grid import Cell, Entry
    from harness.plan.binding import Binding
    from harness.registry.resolve import Resolver

F = TypeVar("F", bound=AnyFacts)


@dataclass
class Objections:
    """The reasons against combinations, by the component that makes no sense there.

    `victims`: against a victim itself; `defenses`: by victim and defense; `metrics`: by victim,
    defense and metric.
    """

    victims: dict[Trio, str] = field(default_factory=dict)
    defenses: dict[tuple[Trio, Entry], str] = field(default_factory=dict)
    metrics: dict[tuple[Trio, Entry, Entry], str] = field(default_factory=dict)

    def first(self, victim: Trio, chain: Sequence[Entry]) -> str | None:
        """Return the first reason against a victim and the defenses on it."""
        if victim in self.victims:
            return self.victims[victim]
        for entry in chain:
            if (victim, entry) in self.defenses:
                return self.defenses[victim, entry]
        return None


def objections(binding: Binding, cells: Sequence[Cell], resolver: Resolver) -> Objections:
    """Ask every component that has an opinion, once a combination."""
    questions = _Questions(binding)
    # Replicates ask the same questions.
    combinations = {cell.entries: cell for cell in cells}
    for cell in combinations.values():
        questions.add(cell)
    answers = resolver.compatible_all(list(questions.asked.values()))
    found = Objections()
    for (victim, defense, entry), answer in zip(questions.asked, answers, strict=True):
        if answer is None:
            continue
        reason = f"{entry.label}: {answer}"
        if defense is None:
            found.victims.setdefault(victim, reason)
        elif entry.kind == "metric":
            found.metrics.setdefault((victim, defense, entry), reason)
        else:
            found.defenses.setdefault((victim, defense), reason)
    return found


class _Questions:
    """The questions to components: whom, and in which context, by victim, defense and entry."""

    def __init__(self, binding: Binding) -> None:
        self.asked: dict[tuple[Trio, Entry | None, Entry], tuple[Resolved, Mapping[str, Any]]] = {}
        self._binding = binding
        self._contexts: dict[Trio, dict[str, Any]] = {}

    def add(self, cell: Cell) -> None:
        """Ask what a cell depends on."""
        victim = (cell.dataset, cell.model, cell.attack)
        context = self._contexts.get(victim)
        if context is None:
            context = self._contexts[victim] = self._victim(victim)
        for entry in cell.chain:
            defense = self._binding.component(entry, cell.dataset)
            context = {**context, "defense": asdict(_traits(defense))}
            self._ask((victim, entry, entry), context)
        for entry in self._binding.grid.metrics:
            self._ask((victim, cell.defense, entry), context)

    def _victim(self, victim: Trio) -> dict[str, Any]:
        dataset, model, attack = victim
        binding = self._binding
        context = Context(
            binding.task(dataset),
            model=_traits(binding.component(model, dataset)),
            attack=_traits(binding.component(attack, dataset)),
        )
        table = {**asdict(context), "recipe": binding.recipes[victim]}
        self._ask((victim, None, model), table)
        self._ask((victim, None, attack), table)
        return table

    def _ask(self, name: tuple[Trio, Entry | None, Entry], context: Mapping[str, Any]) -> None:
        victim, _, entry = name
        component = self._binding.component(entry, victim[0])
        if component.checks:
            self.asked[name] = component, context


def _traits(component: Resolved[F]) -> Traits[F]:
    return Traits(component.kind, component.name, component.params, component.facts)


Chain = Sequence[tuple["Entry", Resolved[DefenseFacts]]]
"""Defenses, first to last, with their entries."""


def model_less(chain: Chain) -> str | None:
    """Say which defense of a chain has no model to start from; None where each has one."""
    for number, (entry, defense) in enumerate(chain):
        last = verdict_only(chain[:number])
        if last is not None and "victim" in defense.needs:
            return (
                f"{entry.label} is on {last.label}, which gives a verdict and no model to start "
                "from"
            )
    return None


def verdict_only(chain: Chain) -> Entry | None:
    """Return the defense that a chain ends with, if it gives no model; the one that is none leaves
    what there is.
    """
    for entry, defense in reversed(chain):
        if defense.needs:
            return None if defense.facts.gives_model else entry
    return None


def untrainable(at: Setting, chain: Sequence[Resolved[DefenseFacts]]) -> str | None:
    """Say why a dataset that has no training images will not do; None where it has some, or nobody
    needs them.
    """
    if at.task.train_count:
        return None
    needing: list[Resolved] = []
    if at.attack.facts.trains:
        needing.append(at.attack)
    needing += [defense for defense in chain if "training-set" in defense.needs]
    if not needing:
        return None
    first = needing[0]
    return (
        f"dataset {at.data.name!r} has no training images, which {first.kind} {first.name!r} needs"
    )
