"""Checks of single values of a grid. Each adds what is wrong to a report and returns what can be
used, or None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.errors import Problem, suggest
from harness.grid.model import Seeds
from harness.grid.nodes import Node, Place, described, same, shown, storable


class Report:
    """Every problem found so far, each once.

    `partial` says that a part of the grid could not be read, so that what seems to be missing may
    stand there.
    """

    def __init__(self) -> None:
        self.partial = False
        self._problems: dict[Problem, None] = {}

    def add(self, place: Place, what: str, hint: str = "") -> None:
        """Note what is wrong at `place`."""
        self._problems[place.problem(what, hint)] = None

    def missing(self, place: Place, what: str, hint: str = "") -> None:
        """Like `add`, for what the whole grid lacks: not said where a part of it could not be read."""
        if not self.partial:
            self.add(place, what, hint)

    def sorted(self) -> list[Problem]:
        """The problems by file, in the order in which files were first named, then by line."""
        files = list(dict.fromkeys(problem.file for problem in self._problems))
        return sorted(
            self._problems, key=lambda problem: (files.index(problem.file), problem.line or 0)
        )

    def __len__(self) -> int:
        return len(self._problems)


def wrong_type(report: Report, node: Node, needed: str, hint: str = "") -> None:
    """Report that a value has the wrong type."""
    report.add(node.place, f"{described(node.plain())} where {needed} is needed", hint)


def string(report: Report, node: Node | None, hint: str = "") -> str | None:
    """A string that is not blank; None where there is none."""
    if node is None:
        return None
    if not isinstance(node.value, str):
        wrong_type(report, node, "a string", hint)
    elif not node.value.strip() or not node.value.isprintable():
        report.add(node.place, f"{shown(node.value)} is blank or has unprintable characters", hint)
    else:
        return node.value
    return None


def boolean(report: Report, node: Node | None) -> bool:
    """A boolean; false where there is none."""
    if node is None:
        return False
    if not isinstance(node.value, bool):
        wrong_type(report, node, "true or false", "write true or false, without quotes")
    return node.value is True


def table(
    report: Report, node: Node | None, known: Sequence[str] = (), hint: str = ""
) -> dict[str, Node]:
    """The entries of a table whose keys are `known`; any keys where nothing is known. Unknown keys
    are left out.
    """
    if node is None:
        return {}
    if not isinstance(node.value, dict):
        wrong_type(report, node, "a table", hint)
        return {}
    if not known:
        return node.table
    for key, child in node.table.items():
        if key not in known:
            report.add(child.place, f"unknown key {shown(key)}", suggest(key, known))
    return {key: child for key, child in node.table.items() if key in known}


def values(report: Report, node: Node, what: str, hint: str) -> list[Node]:
    """The items of a list that is not empty and has no equal items. `what` is one item, as in "a
    seed".
    """
    if not isinstance(node.value, list):
        one = shown(node.plain())
        wrong_type(
            report,
            node,
            "a list",
            f"write [{one}]" if len(one) <= 40 and storable(node.value) else hint,
        )
        return []
    if not node.items:
        report.add(
            node.place, f"the list is empty, so nothing would run: it needs {what} at least", hint
        )
    kept: list[Node] = []
    for item in node.items:
        twin = next((other for other in kept if same(other.plain(), item.plain())), None)
        if twin is None:
            kept.append(item)
            continue
        where = f" ({twin.place})" if twin.place.line != item.place.line else ""
        what = f"{shown(item.plain())} is in the list already as {twin.place.key}{where}"
        report.add(item.place, what, "keep one of them")
    return kept


def strings(report: Report, node: Node, what: str, hint: str) -> list[Node]:
    """Like `values`, of strings."""
    return [
        item for item in values(report, node, what, hint) if string(report, item, hint) is not None
    ]


def raw(report: Report, node: Node) -> Any:
    """A parameter's value as it is; its type is checked against the component's declaration later."""
    scalars = [node]
    while scalars:
        current = scalars.pop()
        scalars.extend(current.items or current.table.values())
        if isinstance(current.value, list | dict) or storable(current.value):
            continue
        if isinstance(current.value, float):
            report.add(
                current.place,
                f"{current.value} is no value to compare or repeat",
                "write a finite number",
            )
        else:
            report.add(
                current.place,
                f"{described(current.value)} is no value of a parameter",
                f'quote it to pass a string: "{current.value}"',
            )
    return node.plain()


def raws(report: Report, nodes: Mapping[str, Node]) -> dict[str, Any]:
    """Like `raw`, for every key of a table."""
    return {key: raw(report, node) for key, node in nodes.items()}


def training(report: Report, node: Node | None) -> dict[str, Any]:
    """A training table: `recipe` is a string, everything else is kept raw."""
    entries = table(report, node, hint='write training.recipe = "..." or training.epochs = 20')
    string(report, entries.get("recipe"), "name a recipe; `bench list recipes` shows them")
    return raws(report, entries)


def fraction(report: Report, node: Node) -> float | None:
    """A number between 0 and 1, both allowed."""
    hint = "write a fraction between 0 and 1, such as 0.95"
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        wrong_type(report, node, "a fraction", hint)
    elif not 0 <= value <= 1:  # nan compares false, so it lands here
        percent = f"{value} % is {value / 100:g}; " if 1 < value <= 100 else ""
        report.add(node.place, f"{value} is out of range", percent + hint)
    else:
        return float(value)
    return None


def seeds(report: Report, node: Node | None) -> Seeds | None:
    """`[0, 1]`, which moves victim and defense together, or `{victim = [...], defense = [...]}`,
    their product.
    """
    if node is None:
        return None
    if isinstance(node.value, dict):
        sides = table(report, node, ("victim", "defense"))
        if not node.value:
            report.add(node.place, "the table names no seeds", _SEEDS)
        victim, defense = (
            _seed_list(report, sides[side]) if side in sides else [0]
            for side in ("victim", "defense")
        )
        pairs = tuple((v, d) for v in victim for d in defense)
    else:
        pairs = tuple((seed, seed) for seed in _seed_list(report, node))
    return Seeds(pairs) if pairs else None


_SEEDS = "write seeds = [0, 1, 2], or seeds = {victim = [0], defense = [0, 1, 2]}"


def _seed_list(report: Report, node: Node) -> list[int]:
    found = []
    for item in values(report, node, "one seed", _SEEDS):
        if isinstance(item.value, bool) or not isinstance(item.value, int):
            wrong_type(report, item, "a seed", "a seed is a whole number, 0 or more")
        elif item.value < 0:
            report.add(
                item.place, f"{item.value} is out of range", "a seed is a whole number, 0 or more"
            )
        else:
            found.append(item.value)
    return found


GRANTS = ("clean", "clean-labelled", "clean-unlabelled")
_AMOUNT = "write a count of images (2500) or a fraction of the training images (0.05)"
_GRANT = f'{_AMOUNT}, or {{dataset = "gtsrb", count = 2500}}'


def grant(report: Report, node: Node | None) -> dict[str, Any]:
    """What a defender gets of each sort of clean images: a count, a fraction, or images of another
    dataset.
    """
    entries = table(report, node, GRANTS, hint="write grant.clean = 2500")
    for amount in entries.values():
        if isinstance(amount.value, dict):
            _foreign(report, amount)
        else:
            _amount(report, amount, _GRANT)
    return {key: entry.plain() for key, entry in entries.items()}


def _foreign(report: Report, node: Node) -> None:
    entries = table(report, node, ("dataset", "count"))
    for key in ("dataset", "count"):
        if key not in node.table:
            report.add(node.place, f"{key} is missing", 'write {dataset = "gtsrb", count = 2500}')
    if "count" in entries:
        _amount(report, entries["count"], _AMOUNT)
    dataset = entries.get("dataset")
    if dataset is None:
        return
    hint = 'write "gtsrb", or {name = "gtsrb", ...} with parameters'
    if not isinstance(dataset.value, dict):
        string(report, dataset, hint)
    elif "name" not in dataset.table:
        report.add(dataset.place, "name is missing", hint)
    else:
        string(report, dataset.table["name"], hint)
        raws(report, dataset.table)


def _amount(report: Report, node: Node, hint: str) -> None:
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | float):
        wrong_type(report, node, "a count or a fraction", hint)
    elif (value < 1) if isinstance(value, int) else not 0 < value <= 1:
        whole = isinstance(value, float) and value > 1 and value.is_integer()
        report.add(
            node.place,
            f"{value} is out of range",
            f"write {int(value)} for a count" if whole else hint,
        )


def label(report: Report, node: Node, known: Iterable[str], kind: str) -> bool:
    """Whether `node` is one of the `known` labels."""
    names = list(dict.fromkeys(known))
    if node.value in names:
        return True
    report.missing(
        node.place, f"no [[{kind}]] is labelled {shown(node.value)}", suggest(node.value, names)
    )
    return False
