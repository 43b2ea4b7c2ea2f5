"""The four hooks of the pluggy project `bench`: one to register components, three to watch a run.

Components are registered by modules of the entry-point group `bench.plugins`; their hook is called
in a child process. Observers come from the group `bench.observers`; their hooks are called in the
process of the command line, so such a module imports neither torch nor a method. An observer that
raises is reported and the run goes on. No order of calls is promised, and no work is ever passed
through a hook: components are called directly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from harness.introspect.register import Register
    from harness.outcomes import Outcome
    from harness.run.execute import Run, Summary
    from harness.stages import Stage

PROJECT = "bench"
PLUGINS = "bench.plugins"
"""The entry-point group of modules that implement `bench_register`."""
OBSERVERS = "bench.observers"
"""The entry-point group of modules that implement the life-cycle hooks."""

_F = TypeVar("_F", bound="Callable[..., Any]")
_specify = HookspecMarker(PROJECT)
_implement = HookimplMarker(PROJECT)


def hookspec(function: _F) -> _F:
    """Mark a function of this module as the specification of a hook."""
    return _specify(function)


def hookimpl(function: _F) -> _F:
    """Mark a plugin's function as the implementation of the hook of the same name."""
    return _implement(function)


# --- registration ---------------------------------------------------------------------------------


@hookspec
def bench_register(register: Register) -> None:
    """Tell the harness which components this plugin brings; return nothing.

    Called once for each entry point of `bench.plugins`, in a child process, and remembered until
    the module changes. `register.attack(name, "module:Class")`, and likewise `.defense`, `.model`,
    `.dataset`, `.metric`, `.part`: the target is a string, so that listing a component does not
    import it. With `argument="arch"`, `name:x` stands for the component with `arch = "x"`.
    `register.recipe(name, fields)` adds a named training recipe.
    """


# --- a run ----------------------------------------------------------------------------------------


@hookspec
def bench_run_start(run: Run) -> None:
    """A run is about to start its first stage; return nothing.

    Called once, in the parent, with what the run is: its plan, store and options.
    """


@hookspec
def bench_stage_end(stage: Stage, outcome: Outcome) -> None:
    """A stage has come to an end; return nothing.

    Called in the parent for each stage of the plan that was to run, with its `Stage` and its
    `Outcome`.
    """


@hookspec
def bench_run_end(summary: Summary) -> None:
    """The run is over, interrupted ones included; return nothing.

    Called once, in the parent, with the `Summary` of what was done, failed, blocked and left.
    """
