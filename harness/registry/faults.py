"""Faults of requests: sentences for the entries of a grid that cannot be resolved."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

from harness.registry.ask import Trouble
from harness.registry.names import Registered
from harness.registry.resolved import Fault, Request, Resolved


def within(parameter: str, faults: Sequence[Fault]) -> list[Fault]:
    """Return faults of the component that fills a parameter as those of its owner."""
    return [((parameter, *path), wrong, hint) for path, wrong, hint in faults]


def not_json(request: Request) -> list[Fault]:
    """Find parameters that no component could have declared: TOML has dates and times."""
    faults: list[Fault] = []
    for name, value in request.params.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            wrong = f"{value} is a {type(value).__name__}"
            faults.append(((name,), wrong, "no parameter takes that; quote it?"))
    return faults


def ungranted_needs(
    owner: Registered, needs: Collection[str], uses: Mapping[str, Resolved]
) -> list[Fault]:
    """Find used components that need more than their owner, whose grant they have.

    A `model` is the cell's and no grant. Attacks are granted everything there is.
    """
    faults: list[Fault] = []
    if owner.kind not in ("defense", "part"):
        return faults
    granted = {*needs, "model"}
    for name, used in uses.items():
        if used.kind not in ("defense", "part"):
            continue
        more = sorted(set(used.needs) - granted)
        if more:
            wrong = (
                f"{used.kind} {used.name!r} needs {', '.join(more)}, "
                f"which {called(owner)} is not granted"
            )
            faults.append(((name,), wrong, ""))
    return faults


def of_trouble(component: Registered, trouble: Trouble) -> list[Fault]:
    """Return what is wrong where a child could not describe a component."""
    if trouble.type == "problems":
        return list(trouble.problems)
    return [(("name",), f"{called(component)}: {trouble.reason}", trouble.place)]


def called(component: Registered | Resolved) -> str:
    """Name a component with its kind and distribution."""
    return (
        f"{component.kind} {component.name!r} of {component.distribution} {component.dist_version}"
    )
