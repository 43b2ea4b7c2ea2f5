"""The four hooks of the pluggy project `bench`: one registers components, three watch a run.

Components are registered by modules of the entry-point group `bench.plugins`; their hook is called
in a child process. Observers come from the group `bench.observers`; their hooks are called in the
process of the command line, so such a module imports neither torch nor a method. An observer that
raises is reported and the run goes on. No order of calls is promised, and no work is ever passed
through a hook: components are called directly.

Protocols describe the objects that hooks are given, so that this module imports none of the rooms
that they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pluggy import HookimplMarker, HookspecMarker

from harness.outcomes import Outcome
from harness.vocabulary import PROJECT

_F = TypeVar("_F", bound=Callable[..., Any])
_specify = HookspecMarker(PROJECT)
_implement = HookimplMarker(PROJECT)


def hookspec(function: _F) -> _F:
    """Mark a function of this module as the specification of a hook."""
    return _specify(function)


def hookimpl(function: _F) -> _F:
    """Mark a plugin's function as the implementation of the hook of the same name."""
    return _implement(function)


# --- registration ---------------------------------------------------------------------------------


class Registrar(Protocol):
    """The object that a registering plugin is given: a method for each kind of component, and one
    for recipes.

    `name` is what grids say, `target` is `module:Class`. With `argument="arch"`, `name:x` in a grid
    stands for the component with `arch = "x"`.
    """

    def attack(self, name: str, target: str, *, argument: str | None = None) -> None:
        """Register an attack."""

    def defense(self, name: str, target: str, *, argument: str | None = None) -> None:
        """Register a defense."""

    def model(self, name: str, target: str, *, argument: str | None = None) -> None:
        """Register a model."""

    def dataset(self, name: str, target: str, *, argument: str | None = None) -> None:
        """Register a dataset."""

    def metric(self, name: str, target: str, *, argument: str | None = None) -> None:
        """Register a metric."""

    def part(self, name: str, target: str, *, argument: str | None = None) -> None:
        """Register a part: a component that only fills a parameter of another."""

    def recipe(self, name: str, fields: Mapping[str, Any]) -> None:
        """Register a training recipe: fields of `harness.Recipe` by name."""


@hookspec
def bench_register(register: Registrar) -> None:
    """Tell the harness which components this plugin brings; return nothing.

    Called once for each entry point of `bench.plugins`, in a child process, and remembered until
    the module changes. The target of a component is a string, so that listing a component does not
    import it.
    """


# --- a run, as observers see it -------------------------------------------------------------------


class WatchedStage(Protocol):
    """A stage of the plan: its key, its kind (`victim`, `defend`), and the title of its cell."""

    @property
    def key(self) -> str:
        """The key of the object that the stage makes."""

    @property
    def kind(self) -> str:
        """The stage kind."""

    @property
    def title(self) -> str:
        """The cell that the stage belongs to, as tables label it."""


class StageEnd(Protocol):
    """The end of a stage."""

    @property
    def outcome(self) -> Outcome:
        """Done, failed, blocked, ..."""

    @property
    def message(self) -> str:
        """The reason, unless it is done."""

    @property
    def seconds(self) -> float:
        """Seconds that it took; 0 for one that did not run."""

    @property
    def log(self) -> Path | None:
        """The file with what it printed, if there is one."""


class WatchedSlot(Protocol):
    """A slot that stages run in."""

    @property
    def name(self) -> str:
        """Its name for people: "cuda:1", "cpu.0"."""


class StageAtWork(Protocol):
    """A stage that is running."""

    @property
    def stage(self) -> WatchedStage:
        """The stage."""

    @property
    def slot(self) -> WatchedSlot:
        """The slot that it runs in."""

    @property
    def since(self) -> float:
        """Its start, in seconds of `time.monotonic`."""

    @property
    def progress(self) -> Mapping[str, Any] | None:
        """Its last report of `step`, `total` and `loss`, and of `place` in words; `continued` and
        `earlier` (seconds) where it goes on from a checkpoint. None where there is none.
        """


class WatchedPlan(Protocol):
    """The stages of a run."""

    @property
    def stages(self) -> Mapping[str, WatchedStage]:
        """All stages by key."""

    @property
    def outcome(self) -> Mapping[str, Outcome]:
        """The standing of each before the run, by key: those that are to run are `TO_RUN`."""


class WatchedRun(Protocol):
    """A run while it goes on. Another thread may change its tables while an observer reads them."""

    @property
    def plan(self) -> WatchedPlan:
        """The plan."""

    @property
    def store(self) -> Any:
        """The store, a `harness.store.objects.Store`."""

    @property
    def options(self) -> Any:
        """The options of the run, as in `harness.run.state.Options`."""

    @property
    def slots(self) -> Sequence[WatchedSlot]:
        """All slots; empty where nothing is to run."""

    @property
    def wanted(self) -> int:
        """The number of stages that are to run, those included that have ended."""

    @property
    def ended(self) -> Mapping[str, StageEnd]:
        """The ends of stages, by key."""

    @property
    def kept(self) -> Mapping[str, float]:
        """Seconds of work that were kept of stages at the start of the run, by key."""

    @property
    def running(self) -> Mapping[str, StageAtWork]:
        """The stages at work, by key."""


class RunSummary(Protocol):
    """The result of a run."""

    @property
    def stages(self) -> Mapping[str, WatchedStage]:
        """All stages of the plan, by key."""

    @property
    def ended(self) -> Mapping[str, StageEnd]:
        """The ends of stages, by key."""

    @property
    def seconds(self) -> float:
        """Seconds that the run took."""

    @property
    def left(self) -> int:
        """The number of stages that an interruption left unfinished."""

    @property
    def interrupted(self) -> int | None:
        """The signal that ended the run, if one did."""

    @property
    def counts(self) -> Mapping[Outcome, int]:
        """The number of stages by outcome."""

    @property
    def failures(self) -> Mapping[str, StageEnd]:
        """The ends of those stages that failed, timed out or were blocked, by key."""


@hookspec
def bench_run_start(run: WatchedRun) -> None:
    """Take note that a run is about to start its first stage; return nothing.

    Called once, in the parent, with the run: its plan, store and options.
    """


@hookspec
def bench_stage_end(stage: WatchedStage, outcome: Outcome) -> None:
    """Take note that a stage has come to an end; return nothing.

    Called in the parent for each stage of the plan that was to run.
    """


@hookspec
def bench_run_end(summary: RunSummary) -> None:
    """Take note that the run is over, interrupted ones included; return nothing.

    Called once, in the parent, with the summary of what was done, failed, blocked and left.
    """
