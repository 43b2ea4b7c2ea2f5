"""From entries to cells: the product of all axes, or the union of the products that `[[block]]`
tables name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from harness.grid import checks
from harness.grid.checks import Report
from harness.grid.entries import (
    Entries,
    combinations,
    merged_seeds,
    put_on,
    read_settings,
    read_sweep,
    vary,
)
from harness.grid.model import CELL_KINDS, Cell, Entry, Seeds
from harness.grid.nodes import Node, same, shown

_KEYS = (*CELL_KINDS, "seeds", "set", "sweep")


@dataclass(frozen=True)
class Block:
    """Entries by kind whose product is taken, and the seeds of those that have none of their own."""

    node: Node
    entries: Mapping[str, Sequence[Entry]]
    seeds: Seeds | None


def read_cells(root: Node, entries: Entries, report: Report) -> list[Cell]:
    """Every cell once. Two blocks may not give one label different parameters in the same cell."""
    seeds = checks.seeds(report, root.table.get("seeds"))
    nodes = root.table["block"].items if "block" in root.table else []
    blocks = [_block(node, entries, report) for node in nodes] or [Block(root, entries, None)]
    union = _Union(report)
    for block in blocks:
        for chosen in product(*(block.entries[kind] for kind in CELL_KINDS)):
            dataset, model, attack, defense = chosen
            own = merged_seeds(
                defense.seeds, attack.seeds, model.seeds, dataset.seeds, block.seeds, seeds
            )
            for pair in own.pairs:
                union.add(block, Cell(dataset, model, attack, defense, *pair))
    return union.cells()


def _block(node: Node, entries: Entries, report: Report) -> Block:
    known = {key: child for key, child in node.table.items() if key != "metric"}
    if "metric" in node.table:
        hint = "metrics are taken of every cell; choose what a table shows with metrics = [...] in [[table]]"
        report.add(node.table["metric"].place, "a block has no metrics", hint)
    known = checks.table(report, Node(node.place, known), _KEYS) if known else {}
    axes = {
        key: checks.table(
            report, known.get(key), CELL_KINDS, f"write {key}.attack.poison_rate = ..."
        )
        for key in ("set", "sweep")
    }
    chosen = {}
    for kind in CELL_KINDS:
        fixed = read_settings(report, axes["set"].get(kind), kind)
        swept = read_sweep(report, axes["sweep"].get(kind), kind)
        for key in fixed.keys() & swept.keys():
            report.add(
                fixed[key].place,
                f"{key} is set here and swept at {swept[key][0].place}",
                "keep one of the two",
            )
            del swept[key]
        selected = _selected(report, known.get(kind), entries[kind], kind)
        variants = _Variants(report, selected, fixed, swept)
        chosen[kind] = [variant for entry in selected for variant in variants.of(entry)]
    return Block(node, chosen, checks.seeds(report, known.get("seeds")))


def _selected(
    report: Report, node: Node | None, entries: Sequence[Entry], kind: str
) -> list[Entry]:
    """The entries whose label, or label before its sweep, the block lists; all where it lists none."""
    if node is None:
        return list(entries)
    hint = f"list labels of [[{kind}]] entries, or leave {kind} out for all"
    names = checks.strings(report, node, "one label", hint)
    known = [name for entry in entries for name in (entry.base, entry.label)]
    wanted = {name.value for name in names if checks.label(report, name, known, kind)}
    return [entry for entry in entries if entry.base in wanted or entry.label in wanted]


class _Variants:
    """What a block's `set` and `sweep` make of the entries of one kind.

    A defense on another one that the block has too starts from that one's variants; otherwise from
    the grid's.
    """

    def __init__(
        self,
        report: Report,
        selected: Sequence[Entry],
        fixed: Mapping[str, Node],
        swept: Mapping[str, Sequence[Node]],
    ) -> None:
        self.report, self.selected, self.fixed, self.swept = report, selected, fixed, swept
        self.done: dict[Entry, list[Entry]] = {}

    def of(self, entry: Entry) -> list[Entry]:
        """The entry itself where the block changes nothing, else new ones."""
        if not (self.fixed or self.swept):
            return [entry]
        if entry not in self.done:
            self._refuse_swept_twice(entry)
            fixed = {key: node for key, node in self.fixed.items() if key not in entry.swept}
            swept = {key: values for key, values in self.swept.items() if key not in entry.swept}
            own = [vary(entry, fixed, combination) for combination in combinations(swept)]
            if entry.on is not None and entry.on in self.selected:
                starts = self.of(entry.on)
                own = [
                    put_on(variant, start, len(starts) > 1) for variant in own for start in starts
                ]
            self.done[entry] = own
        return self.done[entry]

    def _refuse_swept_twice(self, entry: Entry) -> None:
        for key, node in {
            **self.fixed,
            **{key: values[0] for key, values in self.swept.items()},
        }.items():
            if key in entry.swept:
                what = f"{key} is swept by the {entry.kind} {shown(entry.base)} already ({entry.at(key)})"
                self.report.add(
                    node.place,
                    what,
                    f"leave that {entry.kind} out of the block, or pick values by label",
                )


class _Union:
    """Cells of several blocks, each once, with one entry object for entries of equal content."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.found: dict[tuple[object, ...], tuple[Block, Cell]] = {}
        self.entries: dict[str, Entry] = {}

    def add(self, block: Block, cell: Cell) -> None:
        labels = tuple(entry.label for entry in cell.entries)
        key = (*labels, cell.victim_seed, cell.defense_seed)
        if key not in self.found:
            dataset, model, attack, defense = map(self._one, cell.entries)
            self.found[key] = (
                block,
                Cell(dataset, model, attack, defense, cell.victim_seed, cell.defense_seed),
            )
            return
        first, other = self.found[key]
        for mine, theirs in zip(cell.entries, other.entries, strict=True):
            if mine.content != theirs.content:
                self._conflict(block, mine, first, theirs)

    def cells(self) -> list[Cell]:
        return [cell for _, cell in self.found.values()]

    def _one(self, entry: Entry) -> Entry:
        if entry.content not in self.entries:
            start = self._one(entry.on) if entry.on is not None else None
            self.entries[entry.content] = entry if start is entry.on else replace(entry, on=start)
        return self.entries[entry.content]

    def _conflict(self, block: Block, mine: Entry, first: Block, theirs: Entry) -> None:
        keys = [
            key for key in {**theirs.params, **mine.params} if not self._agree(key, mine, theirs)
        ]
        key = keys[0] if keys else "on"
        place = mine.at(key) if key in mine.origins else block.node.place
        what = f"two blocks share a cell with the {mine.kind} {shown(mine.label)}; its {key} differs ({theirs.at(key)})"
        hint = f"`sweep.{mine.kind}.{key}` shows it in the label and `set` does not; or narrow {first.node.place.key}"
        self.report.add(place, what, hint)

    @staticmethod
    def _agree(key: str, mine: Entry, theirs: Entry) -> bool:
        both = key in mine.params and key in theirs.params
        return both and same(mine.params[key], theirs.params[key])
