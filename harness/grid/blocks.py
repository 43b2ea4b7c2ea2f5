"""From entries to cells: the product of all axes, or the union of the products that `[[block]]`
tables name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from harness.grid import checks, fields
from harness.grid.checks import Report, limited
from harness.grid.entries import Entries
from harness.grid.model import Cell, Entry, Seeds, labels_of
from harness.grid.nodes import Node, Place, same, shown
from harness.grid.sweeps import MOST as MOST_ENTRIES
from harness.grid.sweeps import (
    bounded,
    drop_set_and_swept,
    put_on,
    read_settings,
    read_sweep,
    vary,
)
from harness.vocabulary import CELL_KINDS

_KEYS = (*CELL_KINDS, "seeds", "set", "sweep")

MOST = 100_000
"""The most cells of a grid."""

_Combination = tuple[Entry, Entry, Entry, Entry]
"""One entry of each of `CELL_KINDS`."""


@dataclass(frozen=True)
class Block:
    """Entries by kind whose product is taken, and the seeds of those without any of their own."""

    node: Node
    entries: Mapping[str, Sequence[Entry]]
    seeds: Seeds | None


def read_cells(root: Node, entries: Entries, report: Report) -> list[Cell]:
    """Return every cell once. Two blocks may not give one label different parameters in the same
    cell.
    """
    grid_seeds = fields.seeds(report, root.table.get("seeds"))
    blocks = [_read_block(node, entries, report) for node in root.items_of("block")]
    if not blocks:
        blocks = [Block(root, entries, None)]
    union = _Union(report)
    for block in blocks:
        axes = [block.entries[kind] for kind in CELL_KINDS]
        for dataset, model, attack, defense in product(*axes):
            seeds = _nearest(
                defense.seeds, attack.seeds, model.seeds, dataset.seeds, block.seeds, grid_seeds
            )
            if len(union.first) + len(seeds.pairs) > MOST:
                _report_too_many(report, block, seeds)
                return union.cells()
            union.add(block, (dataset, model, attack, defense), seeds)
    return union.cells()


def _report_too_many(report: Report, block: Block, seeds: Seeds) -> None:
    """Report a product that is too large, at its largest factor."""
    factors = {kind: len(block.entries[kind]) for kind in CELL_KINDS}
    factors["seeds"] = len(seeds.pairs)
    listed = " x ".join(f"{count:,} {key}" for key, count in factors.items() if count > 1)
    largest = max(factors, key=lambda key: factors[key])
    complaint = f"the grid has more than {MOST:,} cells here: {listed}"
    hint = "make several grids of it, or list in a [[block]] what belongs together"
    report.add(block.node.at(largest), complaint, hint)


def _nearest(*choices: Seeds | None) -> Seeds:
    """Return the first that is given, else seed 0."""
    for seeds in choices:
        if seeds is not None:
            return seeds
    return Seeds()


# --- one block ------------------------------------------------------------------------------------


def _read_block(node: Node, entries: Entries, report: Report) -> Block:
    own = dict(node.table)
    if "metric" in own:
        metric = own.pop("metric")
        hint = (
            "metrics are taken of every cell; "
            "choose what a table shows with metrics = [...] in [[table]]"
        )
        report.add(metric.place, "a block has no metrics", hint)
    known = checks.table(report, Node(node.place, own), _KEYS)
    settings = _read_axes(report, known, "set")
    sweeps = _read_axes(report, known, "sweep")
    chosen = {}
    for kind in CELL_KINDS:
        fixed = read_settings(report, settings.get(kind), kind)
        swept = read_sweep(report, sweeps.get(kind), kind)
        drop_set_and_swept(report, fixed, swept)
        selected = _selected(report, known.get(kind), entries[kind], kind)
        if swept:
            swept = bounded(report, swept, node.at("sweep", kind), len(selected))
        place = node.at("sweep", kind)
        variants = _BlockVariants(report, selected, fixed, swept, place)
        chosen[kind] = variants.all()
    return Block(node, chosen, fields.seeds(report, known.get("seeds")))


def _read_axes(report: Report, known: Mapping[str, Node], key: str) -> dict[str, Node]:
    """Return the tables under `set` or `sweep` of a block, by kind."""
    hint = f"write {key}.attack.poison_rate = ..."
    return checks.table(report, known.get(key), CELL_KINDS, hint)


def _selected(
    report: Report, node: Node | None, entries: Sequence[Entry], kind: str
) -> list[Entry]:
    """Return the entries whose label, or label before its sweep, the block lists; all where it
    lists none.
    """
    if node is None:
        return list(entries)
    hint = f"list labels of [[{kind}]] entries, or leave {kind} out for all"
    known = dict.fromkeys(labels_of(entries))
    listed = set()
    for item in checks.strings(report, node, "one label", hint):
        if checks.label(report, item, known, kind):
            listed.add(item.value)
    return [entry for entry in entries if entry.base in listed or entry.label in listed]


class _BlockVariants:
    """The entries that a block's `set` and `sweep` make of the selected ones of one kind.

    A defense on another one that the block has too starts from that one's variants; otherwise from
    the grid's.
    """

    def __init__(
        self,
        report: Report,
        selected: Sequence[Entry],
        settings: Mapping[str, Node],
        sweep: Mapping[str, Sequence[Node]],
        place: Place,
    ) -> None:
        self.report = report
        self.selected = selected
        self.members = set(selected)
        self.settings = settings
        self.sweep = sweep
        self.place = place
        self.done: dict[Entry, list[Entry]] = {}

    def all(self) -> list[Entry]:
        """Return the selected entries themselves where the block changes nothing, else new ones."""
        if not self.settings and not self.sweep:
            return list(self.selected)
        variants: list[Entry] = []
        for entry in self.selected:
            made = self._of(entry)
            count = len(variants) + len(made)
            if not limited(self.report, self.place, count, MOST_ENTRIES, "entries and more"):
                return variants
            variants += made
        return variants

    def _of(self, entry: Entry) -> list[Entry]:
        if entry not in self.done:
            self._refuse_swept_twice(entry)
            self.done[entry] = self._make(entry)
        return self.done[entry]

    def _make(self, entry: Entry) -> list[Entry]:
        settings = {key: node for key, node in self.settings.items() if key not in entry.swept}
        sweep = {key: values for key, values in self.sweep.items() if key not in entry.swept}
        variants = vary(entry, settings, sweep)
        if entry.on is None or entry.on not in self.members:
            return variants
        starts = self._of(entry.on)
        count = len(variants) * len(starts)
        place = entry.at("on")
        if not limited(self.report, place, count, MOST_ENTRIES, "entries"):
            return variants
        return put_on(variants, starts)

    def _refuse_swept_twice(self, entry: Entry) -> None:
        nodes = dict(self.settings)
        for key, values in self.sweep.items():
            nodes[key] = values[0]
        for key, node in nodes.items():
            if key not in entry.swept:
                continue
            owner = f"the {entry.kind} {shown(entry.base)}"
            complaint = f"{key} is swept by {owner} already ({entry.at(key)})"
            hint = f"leave that {entry.kind} out of the block, or pick values by label"
            self.report.add(node.place, complaint, hint)


# --- the union ------------------------------------------------------------------------------------


class _Union:
    """Cells of several blocks, each once, with one entry object for entries of equal content."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.first: dict[tuple[object, ...], tuple[Block, Cell]] = {}
        self.entries: dict[str, Entry] = {}

    def add(self, block: Block, combination: _Combination, seeds: Seeds) -> None:
        """Add a cell of a block for each replicate, or compare it with the one that another block
        has.
        """
        labels = tuple([entry.label for entry in combination])
        dataset, model, attack, defense = [self._shared(entry) for entry in combination]
        for victim_seed, defense_seed in seeds.pairs:
            key = (*labels, victim_seed, defense_seed)
            if key in self.first:
                self._compare(block, combination, *self.first[key])
            else:
                cell = Cell(dataset, model, attack, defense, victim_seed, defense_seed)
                self.first[key] = block, cell

    def cells(self) -> list[Cell]:
        """Return all cells, in the order in which they came."""
        return [cell for _, cell in self.first.values()]

    def _shared(self, entry: Entry) -> Entry:
        """Return the one entry of this content, which starts from a shared one too."""
        if entry.content not in self.entries:
            shared = entry
            if entry.on is not None:
                start = self._shared(entry.on)
                if start is not entry.on:
                    shared = replace(entry, on=start)
            self.entries[entry.content] = shared
        return self.entries[entry.content]

    def _compare(
        self, block: Block, combination: _Combination, first_block: Block, first: Cell
    ) -> None:
        for entry, first_entry in zip(combination, first.entries, strict=True):
            if entry.content != first_entry.content:
                self._report_conflict(block, entry, first_block, first_entry)

    def _report_conflict(
        self, block: Block, entry: Entry, first_block: Block, first: Entry
    ) -> None:
        key = _first_difference(entry, first)
        place = block.node.place
        if key in entry.origins:
            place = entry.at(key)
        labelled = f"the {entry.kind} {shown(entry.label)}"
        complaint = f"two blocks share a cell with {labelled}; its {key} differs ({first.at(key)})"
        way_out = f"`sweep.{entry.kind}.{key}` shows it in the label and `set` does not"
        hint = f"{way_out}; or narrow {first_block.node.place.key}"
        self.report.add(place, complaint, hint)


def _first_difference(entry: Entry, first: Entry) -> str:
    """Return the first parameter in which two entries of one label differ; "on" where none does."""
    for key in {**first.params, **entry.params}:
        if key not in entry.params or key not in first.params:
            return key
        if not same(entry.params[key], first.params[key]):
            return key
    return "on"
