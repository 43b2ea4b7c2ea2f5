"""The `[[dataset]]`, `[[model]]`, `[[attack]]`, `[[defense]]` and `[[metric]]` tables: checked,
swept and chained.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.errors import suggest
from harness.grid import checks, fields
from harness.grid.checks import Report, limited
from harness.grid.model import Entry
from harness.grid.nodes import Node, shown
from harness.grid.sweeps import MOST, bounded, drop_set_and_swept, put_on, read_sweep, vary
from harness.vocabulary import ENTRY_KINDS, RESERVED

Entries = dict[str, list[Entry]]
"""Expanded entries by kind, in the order of the file."""

_ON = 'write on = "ft": the label (`as`, else name) of another [[defense]]'


@dataclass(frozen=True, eq=False)
class Draft:
    """One table of the file, checked but neither swept nor chained."""

    entry: Entry
    sweep: Mapping[str, Sequence[Node]]
    on: Node | None


def read_entries(root: Node, report: Report) -> Entries:
    """Return all entries of a grid, swept and chained. Twins and whatever could not be named are
    left out.
    """
    return {kind: _read_kind(root, kind, report) for kind in ENTRY_KINDS}


def _read_kind(root: Node, kind: str, report: Report) -> list[Entry]:
    nodes = root.items_of(kind)
    if not nodes:
        complaint = f"empty axis: the grid has no [[{kind}]]"
        hint = f"add [[{kind}]] with a name; `bench list {kind}s` shows what there is"
        report.missing(root.at(kind), complaint, hint)
    drafts = []
    for node in nodes:
        draft = _read_draft(kind, node, report)
        if draft is not None:
            drafts.append(draft)
    chains = _Chains(drafts, report)
    chained = []
    for draft in drafts:
        for entry in chains.entries(draft, ()):
            chained.append((draft, entry))
    return _without_twins(chained, report)


# --- one table ------------------------------------------------------------------------------------


def _read_draft(kind: str, node: Node, report: Report) -> Draft | None:
    """Check one table; return None where it has no usable name."""
    reserved = {}
    parameters = {}
    for key, child in node.table.items():
        if key not in RESERVED:
            parameters[key] = child
        elif kind in RESERVED[key]:
            reserved[key] = child
        else:
            _report_misplaced(report, kind, key, child)
    name = checks.string(report, reserved.get("name"), 'write name = "..."')
    alias = checks.string(report, reserved.get("as"), 'write as = "a label for tables"')
    if "name" not in reserved:
        _report_nameless(report, kind, node)
    params = checks.raws(report, parameters)
    sweep = read_sweep(report, reserved.get("sweep"), kind)
    drop_set_and_swept(report, parameters, sweep)
    sweep = bounded(report, sweep, node.at("sweep"))
    # All keys are checked, even where the entry turns out to have no usable name.
    floors = fields.established(report, reserved.get("established"))
    preset_hint = 'write preset = "..."; `bench show` lists the presets'
    preset = checks.string(report, reserved.get("preset"), preset_hint)
    training = fields.training(report, reserved.get("training"))
    grant = None
    if "grant" in reserved:
        grant = fields.grant(report, reserved["grant"])
    seeds = fields.seeds(report, reserved.get("seeds"))
    base = alias or name
    if base is None:
        return None
    on = reserved.get("on")
    if checks.string(report, on, _ON) is None:
        on = None
    entry = Entry(
        kind=kind,
        name=name or base,
        base=base,
        swept={},
        label=base,
        preset=preset,
        params=params,
        training=training,
        grant=grant,
        on=None,
        established=floors,
        seeds=seeds,
        place=node.place,
        node=node,
    )
    return Draft(entry, sweep, on)


def _report_misplaced(report: Report, kind: str, key: str, node: Node) -> None:
    owners = [f"[[{owner}]]" for owner in RESERVED[key]]
    hint = f"it is a key of {' and '.join(owners)}"
    if key == "seeds":
        hint += "; the grid's own stand above the first [[...]]"
    if key == "training":
        hint += "; the grid's own is [training]"
    report.add(node.place, f"{key} does not belong to [[{kind}]]", hint)


def _report_nameless(report: Report, kind: str, node: Node) -> None:
    hint = f'write name = "..."; `bench list {kind}s` shows the known ones'
    close = difflib.get_close_matches("name", list(node.table), 1)
    if close:
        hint = f"{shown(close[0])} should read name"
    report.add(node.place, "name is missing", hint)


# --- chains ---------------------------------------------------------------------------------------


class _Chains:
    """The entries that the sweep of each draft, and that of the defense it is on, make of it."""

    def __init__(self, drafts: Sequence[Draft], report: Report) -> None:
        self.drafts = drafts
        self.report = report
        self.done: dict[Draft, list[Entry]] = {}

    def entries(self, draft: Draft, trail: tuple[Draft, ...]) -> list[Entry]:
        """Return its entries; a problem in the chain leaves them unchained, so that their labels
        stay known. `trail` has the drafts whose chains led here.
        """
        if draft not in self.done:
            entries = vary(draft.entry, {}, draft.sweep)
            if draft.on is not None:
                starts = self._starts(draft, draft.on, (*trail, draft))
                count = len(entries) * len(starts)
                if starts and limited(self.report, draft.on.place, count, MOST, "entries"):
                    entries = put_on(entries, starts)
            self.done[draft] = entries
        return self.done[draft]

    def _starts(self, draft: Draft, on: Node, trail: tuple[Draft, ...]) -> list[Entry]:
        """Return the entries that `on` names; none (and a problem) where it names none or goes in a
        circle.
        """
        label = on.value
        targets = [other for other in self.drafts if other.entry.base == label]
        # Not the label of a whole entry: perhaps that of one value of its sweep, `ft[lr=0.1]`.
        is_swept_label = not targets
        if is_swept_label:
            targets = [other for other in self.drafts if label.startswith(f"{other.entry.base}[")]
        for target in targets:
            if target in trail:
                self._report_circle(trail, target, on)
                return []
        candidates: list[Entry] = []
        for target in targets:
            candidates += self.entries(target, trail)
        starts = candidates
        if is_swept_label:
            starts = [entry for entry in candidates if entry.label == label]
        if not starts:
            self._report_unknown(draft, on, candidates)
        return starts

    def _report_circle(self, trail: tuple[Draft, ...], again: Draft, on: Node) -> None:
        circle = [*trail[trail.index(again) :], again]
        names = " -> ".join(draft.entry.base for draft in circle)
        hint = "one of them must start from the victim: take its `on` out"
        self.report.add(on.place, f"the defenses start from each other in a circle: {names}", hint)

    def _report_unknown(self, draft: Draft, on: Node, candidates: Sequence[Entry]) -> None:
        labels = [other.entry.base for other in self.drafts if other is not draft]
        labels += [entry.label for entry in candidates]
        known = list(dict.fromkeys(labels))
        complaint = f"no other [[defense]] is labelled {shown(on.value)}"
        self.report.missing(on.place, complaint, suggest(on.value, known))


def _without_twins(chained: Sequence[tuple[Draft, Entry]], report: Report) -> list[Entry]:
    """Return the entries of one kind, the first of each label; report the others."""
    first: dict[str, tuple[Draft, Entry]] = {}
    for draft, entry in chained:
        if entry.label not in first:
            first[entry.label] = draft, entry
            continue
        owner, twin = first[entry.label]
        if owner is draft:
            complaint = f"two values of its sweep give the label {shown(entry.label)}"
            hint = "keep one of them"
        else:
            label = f"a second [[{entry.kind}]] is labelled {shown(entry.label)}"
            complaint = f"{label}; the first stands at {twin.place}"
            hint = f'give it a label of its own, such as as = "{entry.base}-2", or take one out'
        report.add(entry.place, complaint, hint)
    return [entry for _, entry in first.values()]
