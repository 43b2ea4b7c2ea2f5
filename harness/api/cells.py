"""One cell of a grid, and what the store has of it: models, trigger, predictions, images, logs."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from harness.api.logs import logs
from harness.api.running import Choices, carry_out
from harness.errors import StoreError
from harness.grid import quote
from harness.outcomes import Outcome
from harness.report.standings import Standings
from harness.stages.artefacts import TRUTH_FILE
from harness.stages.payloads import DefendPayload, VictimPayload
from harness.store import partial

if TYPE_CHECKING:
    import torch

    from harness.access.predictions import Predictions
    from harness.api.planning import Planned
    from harness.learn.images import ImageSet
    from harness.plan.cells import PlannedCell
    from harness.stages.stage import Stage

# `opening` imports torch: it is imported when a model is asked for.


class NotThere(StoreError):
    """Raised where a cell has not what it is asked for: it says why, and what would make it."""


class StoredCell:
    """One cell: a dataset, model, attack, defense and seeds. `name` is its name in `-k`.

    What it opens is checked against the store's checksums. Opening a model or trigger imports its
    plugin into this process. Every method raises NotThere for what the store lacks.
    """

    def __init__(self, planned: Planned, cell: PlannedCell, command: str) -> None:
        self.planned = planned
        self.cell = cell
        self.name = cell.cell.name
        self.command = f"{command} -k {shlex.quote(quote(self.name))}"
        """The command that makes what the cell lacks."""

    def __repr__(self) -> str:
        return f"<cell {self.name}>"

    # --- what it left -----------------------------------------------------------------------------

    def victim(self, device: str = "cpu") -> torch.nn.Module:
        """Return the undefended model in eval mode, on `device`: float images in [0,1], NCHW, to
        logits.
        """
        from harness.api import opening

        stage, payload = self._victim()
        self._need(stage, "the victim")
        task = payload.context.task
        return opening.model(self.planned.store, stage.key, payload.structure, task, device)

    def model(self, device: str = "cpu") -> torch.nn.Module:
        """Return the model that the cell's numbers are about, as `victim` does: the defended one,
        or the victim where the defense is none.
        """
        from harness.api import opening

        self._check_sense()
        if self.cell.defended is None:
            return self.victim(device)
        stage = self._stage(self.cell.defended)
        payload = stage.payload
        assert isinstance(payload, DefendPayload)
        self._need(stage, "the defended model")
        if not opening.has_model(self.planned.store, stage.key):
            raise NotThere(
                f"{self.name} has no defended model: {self._label('defense')} gives a verdict only"
            )
        task = payload.context.task
        structure = payload.defended_structure
        return opening.model(self.planned.store, stage.key, structure, task, device)

    def trigger(self, device: str = "cpu") -> torch.nn.Module:
        """Return the victim's trigger in eval mode, on `device`: float images in [0,1], NCHW, to
        such images with the trigger on them.
        """
        from harness.api import opening

        stage, payload = self._victim()
        if not self.cell.components["attack"].facts.has_trigger:
            raise NotThere(f"{self.name} has no trigger: {self._label('attack')} has none")
        self._need(stage, "the trigger")
        task = payload.context.task
        return opening.trigger(self.planned.store, stage.key, payload.component, task, device)

    def label_map(self) -> list[int]:
        """Return for each class the label that its triggered images should get; -1: not attacked,
        as all are without a trigger.
        """
        from harness.api import opening

        stage, _ = self._victim()
        self._need(stage, "the label map", TRUTH_FILE)
        return opening.label_map(self.planned.store, stage.key)

    def predictions(self) -> Predictions:
        """Return the model's answers over the test set, as metrics read them: numpy arrays of
        `labels`, `clean`, `mapped`, `triggered`, and more.
        """
        from harness.api import opening

        self._check_sense()
        for want in self.cell.wants:
            if want.stage is None:
                continue
            stage = self._stage(want.stage)
            inputs = [item for item in stage.inputs if item.role in opening.ANSWERED]
            if {item.role for item in inputs} >= opening.NEEDED:
                for item in inputs:
                    self._need(self._stage(item.key), "the predictions")
                return opening.predictions(self.planned.store, inputs)
        raise NotThere(
            f"{self.name} has no predictions: none of its metrics reads any. Add one that does to "
            'the grid, such as [[metric]] name = "acc"'
        )

    def images(self, split: str = "test") -> ImageSet:
        """Return a split of the cell's dataset: `train` (without triggers), `pool`, `validation` or
        `test`. Images are uint8, NHWC; `to_float` of harness.learn makes them input of a model.
        """
        from harness.api import opening

        self._check_sense()
        stage = self.planned.plan.graph.data(self.cell.components["dataset"])
        self._need(stage, "its images")
        return opening.images(self.planned.store, stage.key, split)

    def log(self) -> str:
        """Return what the cell's stages printed, upstream first, each below a line that names it,
        says how it stands, and where its log lies. Stages that have not run are left out.
        """
        self._check_sense()
        plan, store, _ = self.planned
        parts = list(logs(plan, store, self.cell.stages))
        if not parts:
            raise NotThere(f"{self.name} has no log: nothing of it has run. {self._advice()}")
        return "\n".join(parts)

    # --- making what is lacking -------------------------------------------------------------------

    def make(
        self,
        *,
        jobs: int | None = None,
        threads: int | None = None,
        device: str | None = None,
    ) -> None:
        """Make what the store lacks of this cell, its models included: `run` leaves out models that
        no result needs any more. Raises NotThere, with what failed, where that cannot be.
        """
        self._check_sense()
        plan, store, _ = self.planned
        wanted = [*self.cell.stages]
        if self.cell.victim is not None:
            wanted.append(self.cell.victim)
        plan.refresh(store, wanted, whole=True)
        choices = Choices(jobs, threads, device)
        summary = carry_out(plan, store, choices, self.command)
        plan.refresh(store)
        for key, ended in summary.failures.items():
            raise NotThere(f"{self.name}: {plan.graph.stages[key].kind} failed: {ended.message}")

    # --- what is not there ------------------------------------------------------------------------

    def _check_sense(self) -> None:
        """Raise NotThere for a cell that makes no sense."""
        if self.cell.incompatible is not None:
            raise NotThere(f"{self.name} makes no sense: {self.cell.incompatible}")

    def _need(self, stage: Stage, what: str, files: str = "*") -> None:
        """Raise NotThere unless the store has those files, by pattern, that a stage leaves."""
        plan, store, _ = self.planned
        if store.has(stage.key):
            return
        manifest = store.manifest(stage.key)
        left_out = partial.lacking(manifest.absent, [files]) if manifest else []
        if manifest and not left_out and not store.outdated(manifest):
            return
        standing = Standings(plan, store).of(stage.key)
        reason = "it has not been made yet"
        if left_out:
            reason = partial.reason(left_out)
        elif standing.outcome is not Outcome.TO_RUN:
            reason = f"it {standing.outcome.value}: {standing.reason}"
        elif stage.key not in plan.outcome:
            reason = "it is gone, and no result needs it any more"
        text = f"{self.name}: {what} is not in the store {store.root}: {reason}."
        if standing.log:
            text += f" Its log: {standing.log}."
        raise NotThere(f"{text} {self._advice()}")

    def _advice(self) -> str:
        """Say what makes what is lacking."""
        return f"To make it: `{self.command}`, or `make()` of this cell"

    # --- stages -----------------------------------------------------------------------------------

    def _victim(self) -> tuple[Stage, VictimPayload]:
        self._check_sense()
        assert self.cell.victim is not None
        stage = self._stage(self.cell.victim)
        assert isinstance(stage.payload, VictimPayload)
        return stage, stage.payload

    def _stage(self, key: str) -> Stage:
        return self.planned.plan.graph.stages[key]

    def _label(self, kind: str) -> str:
        entry = getattr(self.cell.cell, kind)
        return f"{kind} {entry.label!r}"
