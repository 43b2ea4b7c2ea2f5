"""Descriptions of components: what a child says of a class with parameters, remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.registry import ask
from harness.registry.faults import not_json, of_trouble
from harness.registry.memo import Memo, digest
from harness.registry.names import Registered
from harness.registry.resolved import Fault, Request, Resolved
from harness.sources import locate
from harness.sources.digests import Sources

Description = dict[str, Any]
"""The `component` of what `harness.introspect.parameters.resolve` returns."""

Answer = Description | list[Fault]
"""A description, or all that is wrong with the request."""


@dataclass(frozen=True)
class _Question:
    """A question of `harness.introspect`, and the state of the sources that its answer is valid
    for.
    """

    table: dict[str, Any]
    component: Registered
    valid_for: Any


class Descriptions:
    """Descriptions by request, remembered in `memo` under the digests of their sources.

    `timeout` is in seconds, for one child.
    """

    def __init__(self, sources: Sources, memo: Memo, timeout: float) -> None:
        self.sources = sources
        self.memo = memo
        self.timeout = timeout
        self._packages: dict[str, tuple[str, ...]] = {}
        self._codes: dict[tuple[str, str], dict[str, str]] = {}

    def look_again(self) -> None:
        """Read the sources anew: a file may have changed since the last time."""
        self._codes.clear()

    def of(
        self, requests: Sequence[Request], components: Sequence[Registered | list[Fault]]
    ) -> list[Answer]:
        """Return the answer to each request, whose component (or why there is none) stands beside
        it.

        Equal requests are asked once.
        """
        names: list[str | list[Fault]] = []
        answers: dict[str, Answer] = {}
        unasked: dict[str, _Question] = {}
        for request, component in zip(requests, components, strict=True):
            if isinstance(component, list):
                names.append(component)
                continue
            faults = not_json(request)
            if faults:
                names.append(faults)
                continue
            table = _table(request, component)
            name = digest(table)
            names.append(name)
            if name in answers or name in unasked:
                continue
            question = _Question(table, component, self._valid_for(request, component))
            remembered = self._remembered(name, question)
            if remembered:
                answers[name] = remembered
            else:
                unasked[name] = question
        answers.update(self._ask(unasked))
        return [answers[name] if isinstance(name, str) else name for name in names]

    def code(self, component: Registered) -> dict[str, str]:
        """Return the sources behind a component; empty if its module has none."""
        # Following imports takes milliseconds, and entries share components.
        name = component.module, component.distribution
        if name not in self._codes:
            packages = self._packages_of(component.distribution)
            self._codes[name] = self.sources.of(component.module, packages)
        return self._codes[name]

    def _packages_of(self, distribution: str) -> tuple[str, ...]:
        if distribution not in self._packages:
            self._packages[distribution] = locate.top_levels(distribution)
        return self._packages[distribution]

    def _valid_for(self, request: Request, component: Registered) -> list[Any]:
        placed_codes = [placed.code for placed in request.in_place.values()]
        return [component.dist_version, self.code(component), *placed_codes]

    def _remembered(self, name: str, question: _Question) -> Description | None:
        if not self.code(question.component):
            # Nobody would notice a change of what is behind it.
            return None
        return self.memo.get(["resolve", name], question.valid_for)

    def _ask(self, unasked: Mapping[str, _Question]) -> dict[str, Answer]:
        tables = [question.table for question in unasked.values()]
        replies = ask.ask(tables, self.timeout)
        answers: dict[str, Answer] = {}
        for (name, question), reply in zip(unasked.items(), replies, strict=True):
            if isinstance(reply, ask.Trouble):
                answers[name] = of_trouble(question.component, reply)
                continue
            description = reply["component"]
            answers[name] = description
            self.memo.put(["resolve", name], description, question.valid_for, reply["files"])
        return answers


def _table(request: Request, component: Registered) -> dict[str, Any]:
    """Return the question that asks for the description."""
    bases = {name: str(folder.absolute()) for name, folder in request.bases.items()}
    table = {
        "op": "resolve",
        "kind": component.kind,
        "target": component.target,
        "argument": component.argument,
        "argument_value": component.argument_value,
        "preset": request.preset,
        "params": dict(request.params),
        "base": str(request.base.absolute()),
        "bases": bases,
        # Only presets differ by dataset; without one, all datasets share an answer.
        "dataset": request.dataset if request.preset else None,
    }
    if request.in_place:
        table["in_place"] = {name: _in_place(placed) for name, placed in request.in_place.items()}
    return table


def _in_place(placed: Resolved) -> dict[str, Any]:
    """Return an attack that fills a parameter as its owner's class reads it."""
    return {
        "kind": placed.kind,
        "name": placed.name,
        "target": placed.target,
        "params": placed.params,
    }
