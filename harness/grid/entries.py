"""The `[[dataset]]`, `[[model]]`, `[[attack]]`, `[[defense]]` and `[[metric]]` tables: checked,
swept and chained.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from harness.errors import suggest
from harness.grid import checks
from harness.grid.checks import Report
from harness.grid.model import KINDS, RESERVED, Entry, Seeds, label_of
from harness.grid.nodes import Node, described, shown

Entries = dict[str, list[Entry]]
"""Expanded entries by kind, in the order of the file."""

Combination = Mapping[str, Node]
"""One value for each swept parameter."""


@dataclass(frozen=True, eq=False)
class Draft:
    """One table of the file, checked but neither swept nor chained."""

    kind: str
    node: Node
    entry: Entry
    sweep: Mapping[str, Sequence[Node]] = field(default_factory=dict)
    on: Node | None = None


def read_entries(root: Node, report: Report) -> Entries:
    """All entries of a grid, swept and chained. Twins and whatever could not be named are left out."""
    found: Entries = {}
    for kind in KINDS:
        nodes = root.table[kind].items if kind in root.table else []
        if not nodes:
            place = root.at(kind)
            hint = f"add [[{kind}]] with a name; `bench list {kind}s` shows what there is"
            report.missing(place, f"empty axis: the grid has no [[{kind}]]", hint)
        drafts = [draft for node in nodes if (draft := _draft(kind, node, report))]
        found[kind] = _without_twins(_chained(drafts, report), report)
    return found


def _draft(kind: str, node: Node, report: Report) -> Draft | None:
    known = {key: child for key, child in node.table.items() if key in RESERVED}
    for key, child in list(known.items()):
        if kind not in RESERVED[key]:
            _misplaced(report, kind, key, child)
            del known[key]
    name = checks.string(report, known.get("name"), 'write name = "..."')
    alias = checks.string(report, known.get("as"), 'write as = "a label for tables"')
    if "name" not in known:
        close = difflib.get_close_matches("name", list(node.table), 1)
        hint = f'write name = "..."; `bench list {kind}s` shows the known ones'
        report.add(
            node.place, "name is missing", f"{shown(close[0])} should read name" if close else hint
        )
    plain = {key: child for key, child in node.table.items() if key not in RESERVED}
    params = checks.raws(report, plain)
    sweep = read_sweep(report, known.get("sweep"), kind)
    for key in [key for key in sweep if key in plain]:
        report.add(
            plain[key].place,
            f"{key} is set here and swept at {sweep[key][0].place}",
            "keep one of the two",
        )
        del sweep[key]
    rest = _reserved(report, known)  # checked even where the entry has no usable name
    base = alias or name
    if base is None:
        return None
    entry = Entry(
        kind,
        name or base,
        base,
        {},
        base,
        params=params,
        on=None,
        place=node.place,
        node=node,
        **rest,
    )
    return Draft(
        kind,
        node,
        entry,
        sweep,
        known.get("on") if checks.string(report, known.get("on"), _ON) else None,
    )


_ON = 'write on = "ft": the label (`as`, else name) of another [[defense]]'


def _misplaced(report: Report, kind: str, key: str, node: Node) -> None:
    owners = " and ".join(f"[[{owner}]]" for owner in RESERVED[key])
    hint = f"it is a key of {owners}"
    if key == "seeds":
        hint += "; the grid's own stand above the first [[...]]"
    if key == "training":
        hint += "; the grid's own is [training]"
    report.add(node.place, f"{key} does not belong to [[{kind}]]", hint)


def _reserved(report: Report, known: Mapping[str, Node]) -> dict[str, Any]:
    """The fields of an entry that come straight from its reserved keys."""
    established = checks.table(
        report, known.get("established"), ("asr", "acc"), "write established.asr = 0.9"
    )
    floors = {key: checks.fraction(report, child) for key, child in established.items()}
    return {
        "preset": checks.string(
            report, known.get("preset"), 'write preset = "..."; `bench show` lists the presets'
        ),
        "training": checks.training(report, known.get("training")),
        "grant": checks.grant(report, known["grant"]) if "grant" in known else None,
        "established": {key: floor for key, floor in floors.items() if floor is not None},
        "seeds": checks.seeds(report, known.get("seeds")),
    }


def read_sweep(report: Report, node: Node | None, kind: str) -> dict[str, list[Node]]:
    """A sweep of an entry or of one axis of a block: parameter -> its values."""
    swept: dict[str, list[Node]] = {}
    for key, listed in checks.table(report, node, hint="write sweep.delta = [20, 60]").items():
        if key in RESERVED:
            hint = f"write a [[{kind}]] for each, with its own `as`"
            report.add(listed.place, f"{key} is no parameter, so it cannot be swept", hint)
            continue
        values = checks.values(
            report, listed, "one value", f"write sweep.{key} = [1, 2], or {key} = 1 to set it"
        )
        for value in values:
            checks.raw(report, value)
        if values:
            swept[key] = values
    return swept


def combinations(sweep: Mapping[str, Sequence[Node]]) -> Iterator[Combination]:
    """The product of a sweep; one empty combination where nothing is swept."""
    for values in product(*sweep.values()):
        yield dict(zip(sweep, values, strict=True))


def vary(entry: Entry, fixed: Combination, swept: Combination) -> Entry:
    """`entry` with some parameters set and some swept, and a label that shows the swept ones."""
    origins = {**entry.origins, **fixed, **swept}
    values = {key: node.plain() for key, node in swept.items()}
    params = {**entry.params, **{key: node.plain() for key, node in fixed.items()}, **values}
    shows = {**entry.swept, **values}
    return replace(
        entry, params=params, swept=shows, label=label_of(entry.base, shows), origins=origins
    )


def put_on(entry: Entry, start: Entry, among_several: bool) -> Entry:
    """`entry` starting from the model of `start`; the label says from which where it starts from
    each of several.
    """
    swept = {key: value for key, value in entry.swept.items() if key != "on"}
    if among_several or ("on" in entry.swept and start.label == entry.swept["on"]):
        swept = {"on": start.label, **swept}
    return replace(entry, on=start, swept=swept, label=label_of(entry.base, swept))


def _chained(drafts: Sequence[Draft], report: Report) -> list[tuple[Draft, Entry]]:
    """Every draft with each entry that its sweep, and that of the defense it is on, make of it."""
    chains = _Chains(drafts, report)
    return [(draft, entry) for draft in drafts for entry in chains.entries(draft, ())]


class _Chains:
    def __init__(self, drafts: Sequence[Draft], report: Report) -> None:
        self.drafts, self.report = drafts, report
        self.done: dict[Draft, list[Entry]] = {}

    def entries(self, draft: Draft, trail: tuple[Draft, ...]) -> list[Entry]:
        """Its entries; a problem in the chain leaves them unchained, so that their labels stay
        known.
        """
        if draft not in self.done:
            own = [vary(draft.entry, {}, combination) for combination in combinations(draft.sweep)]
            starts = self._starts(draft, draft.on, (*trail, draft)) if draft.on is not None else []
            chained = [put_on(entry, start, len(starts) > 1) for entry in own for start in starts]
            self.done[draft] = chained or own
        return self.done[draft]

    def _starts(self, draft: Draft, on: Node, trail: tuple[Draft, ...]) -> list[Entry]:
        """The entries that `on` names; none (and a problem) where it names none or goes in a
        circle.
        """
        named = [other for other in self.drafts if other.entry.base == on.value]
        exact = not named
        if exact:
            named = [other for other in self.drafts if on.value.startswith(f"{other.entry.base}[")]
        again = next((other for other in named if other in trail), None)
        if again is not None:
            self._circle(trail, again, on)
            return []
        found = [entry for other in named for entry in self.entries(other, trail)]
        chosen = [entry for entry in found if not exact or entry.label == on.value]
        if not chosen:
            labels = [other.entry.base for other in self.drafts if other is not draft]
            known = list(dict.fromkeys([*labels, *(entry.label for entry in found)]))
            what = f"no other [[defense]] is labelled {shown(on.value)}"
            self.report.missing(on.place, what, suggest(on.value, known))
        return chosen

    def _circle(self, trail: tuple[Draft, ...], again: Draft, on: Node) -> None:
        circle = trail[trail.index(again) :]
        names = " -> ".join(other.entry.base for other in (*circle, again))
        hint = "one of them must start from the victim: take its `on` out"
        self.report.add(on.place, f"the defenses start from each other in a circle: {names}", hint)


def _without_twins(found: Sequence[tuple[Draft, Entry]], report: Report) -> list[Entry]:
    """The entries of one kind, the first of each label."""
    first: dict[str, tuple[Draft, Entry]] = {}
    for draft, entry in found:
        other, twin = first.setdefault(entry.label, (draft, entry))
        if twin is entry:
            continue
        if other is draft:
            report.add(
                entry.place,
                f"two values of its sweep give the label {shown(entry.label)}",
                "keep one of them",
            )
            continue
        what = f"a second [[{entry.kind}]] is labelled {shown(entry.label)}; the first stands at {twin.place}"
        report.add(
            entry.place,
            what,
            f'give it a label of its own, such as as = "{entry.base}-2", or take one out',
        )
    return [entry for _, entry in first.values()]


def read_settings(report: Report, node: Node | None, kind: str) -> dict[str, Node]:
    """What a block sets on every entry of one axis: parameter -> its value."""
    known: dict[str, Node] = {}
    for key, value in checks.table(report, node, hint=f"write set.{kind}.epochs = 10").items():
        if key in RESERVED:
            hint = f"a block sets parameters; write a [[{kind}]] with its own `as`"
            report.add(value.place, f"{key} is no parameter ({described(value.plain())})", hint)
        else:
            checks.raw(report, value)
            known[key] = value
    return known


def merged_seeds(*choices: Seeds | None) -> Seeds:
    """The first that is given, else seed 0."""
    return next((seeds for seeds in choices if seeds is not None), Seeds())
