"""The stage kinds: one file each, with a torch-free head that a plan reads and a body that runs in
a child.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from harness.keys import Shared, digest

if TYPE_CHECKING:
    from harness.access.context import Deadline
    from harness.registry.resolved import Resolved

SCHEMA = 2
"""Part of every key: raised when the layout of what stages leave in the store changes."""


@dataclass(frozen=True)
class Input:
    """Files of an upstream object, copied to `inputs/<role>/` in the stage's scratch folder.

    `files` are `fnmatch` patterns: what is not named is not there.
    """

    role: str
    key: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """One node of a plan.

    `spec` is what `key` is the digest of; `code` the sources behind it; `payload` what the body is
    told beside its inputs (JSON); `guarded` whether the body runs plugin code that must not see the
    store.
    """

    kind: str
    key: str
    title: str
    spec: Mapping[str, Any]
    code: Mapping[str, str]
    inputs: tuple[Input, ...]
    payload: Mapping[str, Any]
    guarded: bool = True


@dataclass
class Job:
    """What a stage's body is given.

    `inputs` holds a folder a role; files written to `out` are the artefact; `record` takes facts
    worth keeping in the manifest (the precision used, images processed).
    """

    payload: Mapping[str, Any]
    inputs: Path
    out: Path
    scratch: Path
    device: str
    deadline: Deadline
    progress: Callable[[int, int, float | None], None]
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StageComponents:
    """The components of a stage by role, as its key, its sources and its body take them; many
    stages have the same.
    """

    key_entry: Shared
    bodies: Mapping[str, Any]
    code: Mapping[str, str]
    digest: str
    """What stands for `code` in a key."""

    @classmethod
    def of(cls, components: Mapping[str, Resolved], code: Mapping[str, str]) -> Self:
        """`components` by role (`component`, `model`); to `code`, the sources of the stage kind,
        theirs are added.
        """
        key_entry = Shared({role: component.key_entry for role, component in components.items()})
        bodies = {role: component.body for role, component in components.items()}
        merged = dict(code)
        for component in components.values():
            merged.update(component.code)
        return cls(key_entry, bodies, merged, digest(merged))


def make(
    kind: str,
    title: str,
    cast: StageComponents,
    *,
    inputs: Sequence[Input],
    seed: Mapping[str, Any] | None = None,
    choices: Mapping[str, Any] | None = None,
    payload: Mapping[str, Any] | None = None,
    guarded: bool = True,
) -> Stage:
    """A stage with its key: `seed` are the coordinates that determine its draws, `choices` the
    settings that move numbers.
    """
    spec = {
        "schema": SCHEMA,
        "stage": kind,
        "components": cast.key_entry,
        "inputs": {item.role: item.key for item in inputs},
        "seed": seed,
        "choices": choices or {},
        "code": cast.digest,
    }
    return Stage(
        kind,
        digest(spec),
        title,
        spec,
        cast.code,
        tuple(inputs),
        {**cast.bodies, **(payload or {})},
        guarded,
    )
