"""A grid with its store, from Python: `harness.load`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api import planning
from harness.api.cells import StoredCell
from harness.api.running import ON_TIMEOUT, Choices, command, complete
from harness.errors import BenchError, suggest
from harness.grid.model import labels_of
from harness.outcomes import Outcome

if TYPE_CHECKING:
    import pandas as pd

    from harness.api.planning import Planned
    from harness.grid import Entry
    from harness.plan.cells import PlannedCell

LISTED = 8
"""Cells that an error message names at most."""


def load(
    path: str | Path, *, store: str | Path | None = None, select: str | None = None
) -> Benchmark:
    """Read and check the grid file at `path`, and look into the store. Runs nothing.

    `store` is a folder (default: $BENCH_STORE, else ./.bench), made if it is missing; `select`
    chooses cells as `-k` does. Raises BenchError with all that is wrong with the grid.
    """
    folder = None if store is None else Path(store)
    return Benchmark(Path(path), folder, planning.load(Path(path), folder, select))


class Benchmark:
    """A grid that was loaded, and the store of its results.

    The file is read once, by `load`; the store is looked at anew by every method, so that what
    another process runs meanwhile is seen.
    """

    def __init__(self, path: Path, store: Path | None, planned: Planned) -> None:
        self.path = path
        self.store_given = store
        self.planned = planned

    def __repr__(self) -> str:
        root = self.planned.store.root
        return f"<{self.path}: {len(self.planned.plan.cells)} cells, store {root}>"

    @property
    def cells(self) -> list[StoredCell]:
        """All cells that were selected, in the grid's order."""
        return [self._stored(cell) for cell in self.planned.plan.cells]

    def plan(self) -> pd.DataFrame:
        """Return a line for each stage that cells ask for, or that has to run for them, upstream
        first.

        Columns: `kind`, `title` (the cell, as tables label it), `status` (cached, to run,
        incompatible), `reason`, and `expected`, the seconds that stages of the kind took before
        (NaN where nothing has to run, or nobody knows).
        """
        import pandas as pd  # as in `results`

        from harness.plan.history import SAMPLE, PastStages

        plan = self.planned.plan
        plan.refresh(self.planned.store)
        past = None
        lines = []
        for key, stage in plan.stages.items():
            outcome = plan.outcome.get(key)
            if outcome is None:
                continue
            expected = None
            if outcome is Outcome.TO_RUN:
                past = past or PastStages(self.planned.store, SAMPLE)
                expected = past.expected(stage)
            reason = plan.reason.get(key, "")
            lines.append((stage.kind, stage.title, outcome.value, reason, expected, key))
        columns = ["kind", "title", "status", "reason", "expected", "stage"]
        return pd.DataFrame(lines, columns=columns).astype({"expected": "float64"})

    def run(
        self,
        *,
        jobs: int | None = None,
        threads: int | None = None,
        device: str | None = None,
        timeout: float | None = None,
        on_timeout: str = ON_TIMEOUT[0],
        checkpoint: float | None = None,
        engine: str = "local",
    ) -> pd.DataFrame:
        """Make what the store still lacks, and return the results.

        The arguments are the options of `bench run`. Progress goes to standard error, and so does
        what fails: that ends no run, and its rows say why they have no number. Raises BenchError
        where nothing can run, and KeyboardInterrupt; what is done by then is kept.
        """
        choices = Choices(jobs, threads, device, timeout, on_timeout, checkpoint, engine)
        self.planned.plan.refresh(self.planned.store)
        complete(self.planned, choices, command(self.path, self.store_given, choices))
        return self.results()

    def results(self, settings: bool | Sequence[str] = False) -> pd.DataFrame:
        """Return the results as a long table: a line for each metric of each cell and replicate,
        and one for each number that a defense recorded, also where there is no number yet.

        `settings`: True adds a column for every setting (`attack.poison_rate`, `recipe.epochs`,
        `grants.clean.count`), a list those that it names. Raises BenchError for one that no line
        has.
        """
        from harness.report import long, results  # which import pandas, and others do without

        self.planned.plan.refresh(self.planned.store)
        return long.frame(results.rows(self.planned.plan, self.planned.store), settings)

    def cell(
        self,
        attack: str,
        defense: str = "none",
        *,
        dataset: str | None = None,
        model: str | None = None,
        seed: int | None = None,
        victim_seed: int | None = None,
        defense_seed: int | None = None,
    ) -> StoredCell:
        """Return the one cell that has these labels and seeds.

        A label may go without the part that a sweep adds; `seed` stands for both seeds. What the
        cells of the grid have in common need not be said. Raises BenchError where several cells fit
        or none.
        """
        labels = {"dataset": dataset, "model": model, "attack": attack, "defense": defense}
        asked = {kind: label for kind, label in labels.items() if label is not None}
        if seed is not None:
            victim_seed = seed if victim_seed is None else victim_seed
            defense_seed = seed if defense_seed is None else defense_seed
        cells = self.planned.plan.cells
        for kind, label in asked.items():
            self._check_label(kind, label)
        found = []
        for planned in cells:
            fits = all(getattr(planned.cell, kind).is_labelled(asked[kind]) for kind in asked)
            if victim_seed not in (None, planned.cell.victim_seed):
                fits = False
            if defense_seed not in (None, planned.cell.defense_seed):
                fits = False
            if fits:
                found.append(planned)
        if len(found) == 1:
            return self._stored(found[0])
        names = [planned.cell.name for planned in found or cells]
        listed = ", ".join(names[:LISTED])
        if len(names) > LISTED:
            listed += ", ..."
        if found:
            raise BenchError(f"{len(found)} cells fit: say dataset, model or seed, too. {listed}")
        raise BenchError(f"{self.path}: no cell has all of this. Its cells: {listed}")

    def _check_label(self, kind: str, label: str) -> None:
        """Raise BenchError for a label that no cell has."""
        entries: list[Entry] = []
        for planned in self.planned.plan.cells:
            entries.append(getattr(planned.cell, kind))
        known = labels_of(entries)
        if label not in known:
            raise BenchError(f"{self.path}: no cell has {kind} {label!r}. {suggest(label, known)}")

    def _stored(self, cell: PlannedCell) -> StoredCell:
        return StoredCell(self.planned, cell, command(self.path, self.store_given))
