"""Parameters that are swept, and those that a block sets: how a grid writes them, and the entries
that they make of one entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

from harness.grid import checks
from harness.grid.checks import Report, limited
from harness.grid.model import Entry, label_of
from harness.grid.nodes import Node, Place, described
from harness.vocabulary import RESERVED

MOST = 10_000
"""The most entries that one sweep may make."""


def read_sweep(report: Report, node: Node | None, kind: str) -> dict[str, list[Node]]:
    """Read a sweep of an entry or of one axis of a block: parameter -> its values."""
    swept: dict[str, list[Node]] = {}
    written = checks.table(report, node, hint="write sweep.delta = [20, 60]")
    for key, listed in written.items():
        if key in RESERVED:
            complaint = f"{key} is no parameter, so it cannot be swept"
            hint = f"write a [[{kind}]] for each, with its own `as`"
            report.add(listed.place, complaint, hint)
            continue
        hint = f"write sweep.{key} = [1, 2], or {key} = 1 to set it"
        values = checks.values(report, listed, "one value", hint)
        for value in values:
            checks.raw(report, value)
        if values:
            swept[key] = values
    return swept


def read_settings(report: Report, node: Node | None, kind: str) -> dict[str, Node]:
    """Read the parameters that a block sets on every entry of one axis."""
    settings: dict[str, Node] = {}
    written = checks.table(report, node, hint=f"write set.{kind}.epochs = 10")
    for key, value in written.items():
        if key in RESERVED:
            complaint = f"{key} is no parameter ({described(value.plain())})"
            hint = f"a block sets parameters; write a [[{kind}]] with its own `as`"
            report.add(value.place, complaint, hint)
            continue
        checks.raw(report, value)
        settings[key] = value
    return settings


def bounded(
    report: Report, sweep: dict[str, list[Node]], place: Place, entries: int = 1
) -> dict[str, list[Node]]:
    """Return a sweep over so many entries that makes no more of them than a grid may have; nothing
    (and a problem) where it makes more. `place` is that of the sweep.
    """
    count = entries
    for values in sweep.values():
        count *= len(values)
    if limited(report, place, count, MOST, "entries"):
        return sweep
    return {}


def drop_set_and_swept(
    report: Report, settings: Mapping[str, Node], sweep: dict[str, list[Node]]
) -> None:
    """Report the parameters that are both set and swept, and take them out of `sweep`."""
    for key in list(sweep):
        if key not in settings:
            continue
        first_value = sweep.pop(key)[0]
        complaint = f"{key} is set here and swept at {first_value.place}"
        report.add(settings[key].place, complaint, "keep one of the two")


def vary(
    entry: Entry, settings: Mapping[str, Node], sweep: Mapping[str, Sequence[Node]]
) -> list[Entry]:
    """Return `entry` with some parameters set, once for each combination of those that are swept,
    with labels that show the swept ones.
    """
    variants = []
    for combination in _combinations(sweep):
        params = dict(entry.params)
        for key, node in settings.items():
            params[key] = node.plain()
        swept = dict(entry.swept)
        for key, node in combination.items():
            value = node.plain()
            params[key] = value
            swept[key] = value
        label = label_of(entry.base, swept)
        origins = {**entry.origins, **settings, **combination}
        variant = replace(entry, params=params, swept=swept, label=label, origins=origins)
        variants.append(variant)
    return variants


def _combinations(sweep: Mapping[str, Sequence[Node]]) -> Iterator[dict[str, Node]]:
    """Yield one value for each swept parameter, in every combination; once nothing where nothing is
    swept.
    """
    for values in product(*sweep.values()):
        yield dict(zip(sweep, values, strict=True))


def put_on(entries: Sequence[Entry], starts: Sequence[Entry]) -> list[Entry]:
    """Return each entry starting from the model of each of `starts`."""
    among_several = len(starts) > 1
    chained = []
    for entry in entries:
        for start in starts:
            chained.append(_put_on(entry, start, among_several))
    return chained


def _put_on(entry: Entry, start: Entry, among_several: bool) -> Entry:
    """Return `entry` starting from the model of `start`; the label says from which where it starts
    from each of several.
    """
    swept = dict(entry.swept)
    old_start = swept.pop("on", None)
    # A block may put an entry on the same start again: its label goes on to say so.
    if among_several or old_start == start.label:
        swept = {"on": start.label, **swept}
    label = label_of(entry.base, swept)
    return replace(entry, on=start, swept=swept, label=label)
