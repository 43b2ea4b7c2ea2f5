"""The logs of stages: what methods printed, for `bench logs` and cells in Python."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from harness.outcomes import Outcome
from harness.store import plain

if TYPE_CHECKING:
    from harness.plan.plan import Plan
    from harness.store.objects import Store


def logs(plan: Plan, store: Store, keys: Iterable[str]) -> Iterator[str]:
    """Yield the log of each of these stages, and of what they are made from, that has run, upstream
    first: a line that names the stage, says how it ended, and where its log lies, and below it what
    the stage printed, without what moves the cursor.
    """
    upstream = plan.upstream(keys)
    for key, stage in plan.graph.stages.items():
        if key not in upstream:
            continue
        failure = store.failure(key)
        if failure is not None:
            state = str(failure.get("outcome", Outcome.FAILED.value))
            path = failure.get("log")
        elif store.manifest(key) is not None:
            state = Outcome.DONE.value
            path = store.log(key)
        else:
            continue
        text = f"=== {stage.kind} ({stage.title}), {state}: {path or 'printed nothing'}"
        if path is not None:
            text += f"\n{_printed(plain.content(path))}"
        yield text


def _printed(data: bytes) -> str:
    """Return what was printed; what was printed over, as progress bars are, on lines of its own."""
    text = data.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return plain.clean(text).rstrip("\n")
