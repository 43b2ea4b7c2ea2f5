"""A grid's cells and stages, and how each stage stands: cached, to run, incompatible or blocked,
with the reason.

Nothing is decided here by name of a method; what a component needs and declares decides what is
upstream of it.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.errors import GridError, NothingSelected, Problem
from harness.outcomes import Outcome
from harness.plan.binding import bind
from harness.plan.cells import PlannedCell, plan_cell
from harness.plan.compatibility import objections
from harness.plan.graph import Graph
from harness.plan.titles import Titles
from harness.stages.stage import Input, Stage
from harness.store import partial
from harness.store.manifest import Manifest

if TYPE_CHECKING:
    from harness.grid import Cell, Grid
    from harness.registry.names import Registry
    from harness.registry.resolve import Resolver
    from harness.sources.digests import Sources
    from harness.store.objects import Store


@dataclass
class Plan:
    """All cells and stages of a grid.

    `stages` has all of them, upstream first; `outcome` those that were looked at: what cells ask
    for, and what is upstream of a stage that must run.
    """

    grid: Grid
    cells: Sequence[PlannedCell]
    graph: Graph
    stages: dict[str, Stage] = field(default_factory=dict)
    outcome: dict[str, Outcome] = field(default_factory=dict)
    reason: dict[str, str] = field(default_factory=dict)
    _held: dict[str, Manifest] = field(default_factory=dict, repr=False)

    def refresh(
        self, store: Store, wanted: Iterable[str] | None = None, *, whole: bool = False
    ) -> None:
        """Look up what the store holds, and walk back from `wanted` (default: what cells ask for)
        to what must run.

        An object is stale when anything that it was made from, however far upstream, has other
        content now; what has been deleted is no change. A stage that nobody downstream needs does
        not run, even where its object is gone; nor one of whose object only such files were left
        out as nobody needs, unless it is wanted `whole`.
        """
        self.stages = self.graph.stages
        self.outcome = {}
        self.reason = {}
        stale = self._stale(store)
        failed = store.failed()
        pending = self._leaves() if wanted is None else list(wanted)
        if whole:
            stale = {**self._partial(pending), **stale}
        while pending:
            key = pending.pop()
            if key in self.outcome:
                continue
            if key in self._held and key not in stale:
                self.outcome[key] = Outcome.CACHED
                continue
            failure = store.failure(key) if key in failed else None
            self._judge(key, failure, stale)
            if self.outcome[key] is not Outcome.TO_RUN:
                continue
            for item in self.stages[key].inputs:
                pending.append(item.key)
                lacking = self._lacking(item)
                if lacking and item.key not in stale:
                    stale[item.key] = partial.reason(lacking)
                    self.outcome.pop(item.key, None)  # it may have been taken for cached
        for key, stage in self.stages.items():
            self._inherit(key, stage)

    def _partial(self, keys: Iterable[str]) -> dict[str, str]:
        """Say of those stages of which files were left out which these are."""
        reasons = {}
        for key in keys:
            manifest = self._held.get(key)
            if manifest is not None and manifest.absent:
                reasons[key] = partial.reason(sorted(manifest.absent))
        return reasons

    def _lacking(self, item: Input) -> list[str]:
        """Return the files of an input that the store's object should have and was left without."""
        manifest = self._held.get(item.key)
        if manifest is None:
            return []
        return partial.lacking(manifest.absent, item.files)

    def manifest(self, key: str) -> Manifest | None:
        """Return files and record, and no more, of a stage that the store held whole. A new one
        each time: of thousands, what is parsed need not be kept.
        """
        manifest = self._held.get(key)
        if manifest is None:
            return None
        return manifest.only("files", "record")

    def upstream(self, keys: Iterable[str]) -> set[str]:
        """Return these stages, and all that they are made from."""
        pending = list(keys)
        seen: set[str] = set()
        while pending:
            key = pending.pop()
            if key not in seen:
                seen.add(key)
                pending += [item.key for item in self.graph.stages[key].inputs]
        return seen

    def _leaves(self) -> list[str]:
        """Return the stages that cells ask for."""
        keys: list[str] = []
        for cell in self.cells:
            keys += cell.stages
        return keys

    def _stale(self, store: Store) -> dict[str, str]:
        """Note the manifests of whole objects; return the keys of those that are stale, with the
        reason.
        """
        held = store.held(self.stages)
        # The content digests of what is upstream of something held; None: not there, or not whole.
        # Upstream stages come first, so that each content is looked at once.
        digests: dict[str, str | None] = {}
        for key in held:
            for item in self.stages[key].inputs:
                digests[item.key] = None
        stale: dict[str, str] = {}
        self._held = {}
        for key, stage in self.stages.items():
            manifest = store.manifest(key) if key in held else None
            if manifest is None:
                continue
            self._held[key] = manifest.only("files", "record")
            if key in digests:
                digests[key] = manifest.digest
            changed = store.outdated(manifest, digests)
            if not changed:
                changed = [item.role for item in stage.inputs if item.key in stale]
            if changed:
                stale[key] = f"its {', '.join(changed)} has other content now"
        return stale

    def _judge(self, key: str, failure: Mapping[str, Any] | None, stale: Mapping[str, str]) -> None:
        """Note how a stage without a valid object stands."""
        self.outcome[key] = Outcome.TO_RUN
        if key in stale:
            self.reason[key] = stale[key]
        elif failure is None:
            self.reason[key] = "not in the store"
        elif failure.get("status") == "incompatible":
            self.outcome[key] = Outcome.INCOMPATIBLE
            self.reason[key] = failure["message"]
        else:
            self.reason[key] = f"failed before: {failure.get('message', '')}"

    def _inherit(self, key: str, stage: Stage) -> None:
        """Note a stage as incompatible that stands on an incompatible one."""
        if self.outcome.get(key) is not Outcome.TO_RUN:
            return
        for item in stage.inputs:
            if self.outcome.get(item.key) is Outcome.INCOMPATIBLE:
                self.outcome[key] = Outcome.INCOMPATIBLE
                self.reason[key] = self.reason[item.key]
                return


def build(
    grid: Grid, cells: Iterable[Cell], registry: Registry, resolver: Resolver, sources: Sources
) -> Plan:
    """Bind the grid's entries and lay out the stages of `cells`. Raises GridError or
    NothingSelected.
    """
    chosen = list(cells)
    if not chosen:
        raise NothingSelected(f"{grid.path}: no cell is selected")
    binding = bind(grid, chosen, registry, resolver)
    graph = Graph(binding, sources.of, Titles(chosen))
    against = objections(binding, chosen, resolver)
    planned: list[PlannedCell] = []
    problems: dict[Problem, None] = {}  # a set that keeps the order
    with _garbage_uncollected():
        for cell in chosen:
            try:
                planned.append(plan_cell(graph, cell, against))
            except GridError as error:
                problems.update(dict.fromkeys(error.problems))
    if problems:
        raise GridError(list(problems))
    return Plan(grid, planned, graph)


@contextlib.contextmanager
def _garbage_uncollected() -> Iterator[None]:
    """Keep the garbage collector out while stages are laid out.

    Tens of thousands are made and none is dropped, so that it would look through all of them again
    and again and find nothing: a fifth of the time of a large plan.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
