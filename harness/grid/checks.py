"""Checks of single values of a grid. Each adds what is wrong to a report and returns what can be
used, or None.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import Problem, suggest
from harness.grid.nodes import LARGEST, Node, Place, described, identity, shown, storable

_REPEATED = 40
"""The most characters of a value that a hint repeats."""


class Report:
    """Every problem found so far, each once.

    `partial` says that a part of the grid could not be read, so that what seems to be missing may
    stand there.
    """

    def __init__(self) -> None:
        self.partial = False
        self._problems: dict[Problem, None] = {}

    def add(self, place: Place, complaint: str, hint: str = "") -> None:
        """Note what is wrong at `place`."""
        problem = place.problem(complaint, hint)
        self._problems[problem] = None

    def missing(self, place: Place, complaint: str, hint: str = "") -> None:
        """Note what the whole grid lacks, unless a part of it could not be read."""
        if not self.partial:
            self.add(place, complaint, hint)

    def sorted(self) -> list[Problem]:
        """Return the problems by file, files in the order of their first problem, then by line."""
        ranks: dict[Path, int] = {}
        for problem in self._problems:
            ranks.setdefault(problem.file, len(ranks))

        def position(problem: Problem) -> tuple[int, int]:
            return ranks[problem.file], problem.line or 0

        return sorted(self._problems, key=position)

    def __len__(self) -> int:
        return len(self._problems)


def within(report: Report, node: Node) -> Node:
    """Return a parsed grid whose integers fit into 64 bits, as those of TOML must: a larger one is
    reported, and the largest possible stands for it.
    """
    if isinstance(node.value, dict):
        table = {key: within(report, child) for key, child in node.value.items()}
        return Node(node.place, table)
    if isinstance(node.value, list):
        return Node(node.place, [within(report, item) for item in node.value])
    if not isinstance(node.value, int) or abs(node.value) <= LARGEST:
        return node
    complaint = f"an integer of {node.value.bit_length()} bits is too large"
    report.add(node.place, complaint, f"the largest is {LARGEST}")
    return Node(node.place, LARGEST)


def limited(report: Report, place: Place, count: int, most: int, what: str) -> bool:
    """Return True if a grid may have `count` of something; otherwise report it."""
    if count <= most:
        return True
    hint = "make several grids of it, or take values out"
    report.add(place, f"it makes {count:,} {what}, and a grid may have {most:,}", hint)
    return False


def wrong_type(report: Report, node: Node, needed: str, hint: str = "") -> None:
    """Report that a value has the wrong type."""
    written = described(node.plain())
    report.add(node.place, f"{written} where {needed} is needed", hint)


def string(report: Report, node: Node | None, hint: str = "") -> str | None:
    """Return a string that is not blank; None where there is none."""
    if node is None:
        return None
    value = node.value
    if not isinstance(value, str):
        wrong_type(report, node, "a string", hint)
        return None
    if not value.strip() or not value.isprintable():
        complaint = f"{shown(value)} is blank or has unprintable characters"
        report.add(node.place, complaint, hint)
        return None
    return value


def boolean(report: Report, node: Node | None) -> bool:
    """Return a boolean; false where there is none."""
    if node is None:
        return False
    if not isinstance(node.value, bool):
        wrong_type(report, node, "true or false", "write true or false, without quotes")
        return False
    return node.value


def is_number(value: Any) -> bool:
    """Return True for an integer or a float. Booleans are no numbers here, unlike in Python."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float)


def table(
    report: Report, node: Node | None, known: Sequence[str] = (), hint: str = ""
) -> dict[str, Node]:
    """Return the entries of a table whose keys are `known`; any keys where nothing is known.
    Unknown keys are left out.
    """
    if node is None:
        return {}
    if not isinstance(node.value, dict):
        wrong_type(report, node, "a table", hint)
        return {}
    if not known:
        return node.table
    kept = {}
    for key, child in node.table.items():
        if key in known:
            kept[key] = child
        else:
            report.add(child.place, f"unknown key {shown(key)}", suggest(key, known))
    return kept


def values(report: Report, node: Node, element: str, hint: str, single: str = "") -> list[Node]:
    """Return the items of a list that is not empty and has no equal items. `element` names one
    item, as in "one seed"; `single` says what would be right where there is no list.
    """
    if not isinstance(node.value, list):
        _report_single(report, node, hint, single)
        return []
    if not node.items:
        complaint = f"the list is empty, so nothing would run: it needs at least {element}"
        report.add(node.place, complaint, hint)
    kept: dict[Hashable, Node] = {}
    for item in node.items:
        name = identity(item.plain())
        if name in kept:
            _report_twin(report, item, kept[name])
        else:
            kept[name] = item
    return list(kept.values())


def _report_single(report: Report, node: Node, hint: str, single: str) -> None:
    """Report that one value stands where a list is needed; `single` is a hint for just that."""
    if storable(node.value):
        written = shown(node.value)
        if len(written) <= _REPEATED:
            hint = f"write [{written}]"
    wrong_type(report, node, "a list", single or hint)


def _report_twin(report: Report, item: Node, twin: Node) -> None:
    first = twin.place.key
    if twin.place.line != item.place.line:
        first += f" ({twin.place})"
    complaint = f"{shown(item.plain())} is in the list already as {first}"
    report.add(item.place, complaint, "keep one of them")


def strings(report: Report, node: Node, element: str, hint: str) -> list[Node]:
    """Return the items of a list of strings; otherwise like `values`."""
    kept = []
    for item in values(report, node, element, hint):
        if string(report, item, hint) is not None:
            kept.append(item)
    return kept


def raw(report: Report, node: Node) -> Any:
    """Return a parameter's value as it is; its type is checked against the component's declaration
    later.
    """
    left = [node]
    while left:
        current = left.pop()
        if isinstance(current.value, dict):
            left += current.table.values()
        elif isinstance(current.value, list):
            left += current.items
        elif not storable(current.value):
            _report_not_storable(report, current)
    return node.plain()


def _report_not_storable(report: Report, node: Node) -> None:
    value = node.value
    if isinstance(value, float):
        complaint = f"{value} is no value to compare or repeat"
        hint = "write a finite number"
    else:
        complaint = f"{described(value)} is no value of a parameter"
        hint = f'quote it to pass a string: "{value}"'
    report.add(node.place, complaint, hint)


def raws(report: Report, nodes: Mapping[str, Node]) -> dict[str, Any]:
    """Return the values of all keys of a table, each like `raw`."""
    return {key: raw(report, node) for key, node in nodes.items()}


def label(report: Report, node: Node, known: Collection[str], kind: str) -> bool:
    """Return True if `node` is one of the `known` labels; otherwise report it."""
    if node.value in known:
        return True
    complaint = f"no [[{kind}]] is labelled {shown(node.value)}"
    report.missing(node.place, complaint, suggest(node.value, list(known)))
    return False
