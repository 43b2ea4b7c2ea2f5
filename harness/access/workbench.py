"""The workbench of every component: the part of `access` that does not depend on grants."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from harness.access.context import Deadline, StageContext
from harness.errors import Undeclared
from harness.keeping.loops import Kept, KeptLoop
from harness.keeping.steps import Steps
from harness.learn.anatomy import Anatomy, Architecture, Unit
from harness.learn.task import Task

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.learn.hooks import FitSettings
    from harness.learn.images import ImageSet
    from harness.learn.recipes import Numerics, Recipe
    from harness.learn.training import History


class Workbench:
    """The part of `access` that every component has."""

    def __init__(self, context: StageContext, granted: AbstractSet[str]) -> None:
        self._context = context
        self._granted = frozenset(granted)
        self._calls: dict[str, int] = {}
        self.images_processed = 0
        self._precision: str | None = None
        self._stepping: str | None = None
        self._streams: weakref.WeakValueDictionary[str, torch.Generator]
        self._streams = weakref.WeakValueDictionary()
        self.record: dict[str, float] = {}
        """Numbers worth a row (mask density, loss reached); a `Result`'s own record wins over it.
        """

    @property
    def task(self) -> Task:
        """The classification problem."""
        return self._context.task

    @property
    def recipe(self) -> Recipe:
        """The grid's recipe for victims; `recipe.replace(epochs=10)` makes a variant."""
        if self._context.recipe is None:
            raise Undeclared(
                "the grid's recipe belongs to a model: "
                'add "model" to `needs`, or bring a recipe of your own'
            )
        return self._context.recipe

    @property
    def numerics(self) -> Numerics:
        """`precision` and `deterministic` as the grid asks for them, for a recipe of one's own."""
        from harness.learn.recipes import Recipe

        recipe = self._context.recipe
        if recipe is None:
            recipe = Recipe(**self._context.numerics)
        return {"precision": recipe.precision, "deterministic": recipe.deterministic}

    @property
    def device(self) -> str:
        """The device to compute on: `cpu` or `cuda:0`."""
        return self._context.device

    @property
    def scratch(self) -> Path:
        """An empty folder to write to, deleted afterwards."""
        return self._context.scratch

    @property
    def deadline(self) -> Deadline:
        """The moment at which the host kills the stage."""
        return self._context.deadline

    def generator(self, stream: str) -> torch.Generator:
        """Return a CPU generator of the component's own, the same in every run of this stage; one
        for each stream name. Loops that are kept keep it.
        """
        return self._kept_stream(f"generator/{stream}", self.seed(stream))

    def seed(self, stream: str) -> int:
        """Return the seed behind `generator(stream)`, for other libraries' generators; 63 bits."""
        return self._context.coordinates.own(stream)

    def fresh_model(self) -> nn.Module:
        """Return a newly initialised network of the cell's architecture, in float32 on `device`.

        The first call of every component of a stage kind starts from the same weights; further
        calls from others.
        """
        from harness.learn.device import seeded_build  # torch: children alone call this

        if self._context.model is None:
            raise Undeclared("this stage belongs to no model, so there is no fresh one")
        network = seeded_build(
            self._context.model, self.task, self._context.coordinates.shared(self._nth("init"))
        )
        return network.to(self.device)

    def fit(
        self,
        model: nn.Module,
        data: ImageSet,
        recipe: Recipe | None = None,
        **settings: Unpack[FitSettings],
    ) -> History:
        """Train `model` in place on `data` and leave it in eval mode.

        `settings` are hooks (see `harness.learn.Hooks`), single fields that replace those of
        `recipe` (default: the grid's), and `keep`: what hooks hold from step to step, by name, as
        in `steps`. It goes on where it stopped. Raises `Diverged` on a non-finite loss, ValueError
        for a setting that is none of these.
        """
        # Torch: children alone call this.
        from harness.learn.hooks import Hooks
        from harness.learn.training import fit

        chosen = self.recipe if recipe is None else recipe
        hook_names = {field.name for field in fields(Hooks)}
        hooks: dict[str, Any] = {}
        changes: dict[str, Any] = {}
        keep: Mapping[str, object] = {}
        for name, value in settings.items():
            if name == "keep":
                keep = cast("Mapping[str, object]", value)
            elif name in hook_names:
                hooks[name] = value
            else:
                changes[name] = value
        if changes:
            chosen = chosen.replace(**changes)
        call = self._nth("fit")

        def draw(stream: str) -> torch.Generator:
            return cpu_generator(self._context.coordinates.shared(f"{call}/{stream}"))

        history = fit(
            model,
            data,
            chosen,
            generator=draw,
            hooks=Hooks(**hooks),
            device=self.device,
            deadline=self.deadline.check,
            progress=self._context.progress,
            count=self.tick,
            loop=self._loop("fit", keep),
        )
        self._precision = history.precision
        self._stepping = history.stepping
        return history

    def steps(self, count: int, keep: Mapping[str, object] | None = None) -> Steps:
        """Return the numbers 0 to `count` - 1, for a loop that goes on where it stopped, to the
        same bits.

        `keep` names all that iterations change and later code reads: modules, optimisers, tensors,
        arrays and generators are put back in place, as are lists, tables, tuples and dataclasses of
        such objects, numbers and texts, and objects with `state_dict` and `load_state_dict`.
        Tensors must be changed in place: the loop does not see that a variable is assigned anew.
        Generators from `generator`, global ones, `record` and the images counted are kept anyway.
        A loop that had ended yields nothing, so code after it must not read the loop's variables,
        unless they are kept. `end()` makes a step the last one; a loop that `break` or an exception
        leaves is run again from what was kept of it last, and left again. Shows progress, and
        raises OutOfTime once the deadline has passed. Raises TypeError for what cannot be kept when
        the loop begins; what comes later and cannot be kept costs the checkpoints.
        """

        def begin() -> KeptLoop:
            return self._loop("steps", keep or {})

        return Steps(count, begin, self.deadline.check, self._context.progress)

    def account(self) -> dict[str, Any]:
        """Return the manifest's account of the work: images processed; precision of the last `fit`,
        and how it made steps.
        """
        return {
            "images": self.images_processed,
            "precision": self._precision,
            "stepping": self._stepping,
        }

    def tick(self, images: int = 0, done: int | None = None, of: int = 0) -> None:
        """Count images (a forward and backward pass counts one) in a loop that `fit` does not run,
        show progress.

        Raises OutOfTime once the deadline has passed.
        """
        self.images_processed += images
        self.deadline.check()
        if done is not None:
            self._context.progress(done, of, None)

    def anatomy(self, model: nn.Module) -> Anatomy:
        """Return the names of `model`'s parts. Raises `Incompatible` where the architecture has no
        such parts.
        """
        return self._architecture("anatomy").anatomy(model)

    def units(self, model: nn.Module) -> Iterable[Unit]:
        """Return the prunable channels of `model`."""
        return self._architecture("prunable units").units(model)

    def part(self, name: str) -> Any:
        """Return what fills the parameter `name`: a module in eval mode, or an `ImageSet` where it
        is a dataset.
        """
        if name not in self._context.parts:
            known = ", ".join(sorted(self._context.parts)) or "none"
            raise Undeclared(f"no parameter {name!r} is a component; those that are: {known}")
        return self._context.parts[name]()

    def _architecture(self, purpose: str) -> Architecture:
        if self._context.model is None:
            raise Undeclared(f"this stage belongs to no model, so there is no {purpose}")
        return self._context.model

    def _loop(self, name: str, keep: Mapping[str, object]) -> KeptLoop:
        things = Kept(keep, self._state, self._restore)
        return self._context.continuing.enter(name, things)

    def _state(self) -> dict[str, Any]:
        """Return what loops change of the workbench itself."""
        return {
            "images": self.images_processed,
            "record": self.record,
            "calls": self._calls,
            "precision": self._precision,
            "stepping": self._stepping,
            "streams": {name: stream.get_state() for name, stream in self._streams.items()},
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.images_processed = state["images"]
        self.record.clear()
        self.record.update(state["record"])
        self._calls = dict(state["calls"])
        self._precision = state["precision"]
        self._stepping = state["stepping"]
        for name, drawn in state["streams"].items():
            if name in self._streams:  # else it was made, and is made again, within the loop
                self._streams[name].set_state(drawn)

    def _kept_stream(self, name: str, start: int) -> torch.Generator:
        """Return a generator that starts from `start`, and let loops keep its state."""
        from harness.keeping.states import Stream  # torch: children alone call this

        stream = Stream()
        stream.manual_seed(start)
        self._streams[self._nth(name)] = stream
        return stream

    def _nth(self, name: str) -> str:
        """Return `name` for the first call, `name/1` for the second: every call draws differently,
        the same in each run.
        """
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        return f"{name}/{call}" if call else name


def cpu_generator(start: int) -> torch.Generator:
    """Return a generator on the CPU that starts from the seed `start`."""
    import torch  # children alone call this

    return torch.Generator().manual_seed(start)
