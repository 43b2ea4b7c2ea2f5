"""A stage: one node of a plan, and how it gets its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from harness.keys import Shared, digest
from harness.stages.payloads import Payload

if TYPE_CHECKING:
    from harness.registry.resolved import Resolved

SCHEMA = 2
"""Part of every key: raised when the layout of the objects that stages leave in the store changes,
or the names of the modules behind them.
"""


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

    `title` is the cell that the stage belongs to, as tables label it. `key` is the digest of
    `spec`; `code` maps the sources behind it to revisions; `payload` is all that the body is told
    beside its inputs; `guarded` says that the body runs plugin code, which must not see the store.
    """

    kind: str
    key: str
    title: str
    spec: Mapping[str, Any]
    code: Mapping[str, str]
    inputs: tuple[Input, ...]
    payload: Payload
    guarded: bool = True


@dataclass(frozen=True)
class StageComponents:
    """The components of a stage by role, as they stand in its key; many stages have the same.

    `code` maps all sources behind them and the stage kind to revisions, `digest` stands for it in
    keys.
    """

    key_entries: Shared
    code: Mapping[str, str]
    digest: str

    @classmethod
    def of(cls, components: Mapping[str, Resolved[Any]], code: Mapping[str, str]) -> Self:
        """Combine `components` by role (`component`, `model`) with `code`, the sources of the stage
        kind.
        """
        key_entries = Shared()
        merged = dict(code)
        for role, component in components.items():
            key_entries[role] = component.key_entry
            merged.update(component.code)
        return cls(key_entries, merged, digest(merged))


def make(
    title: str,
    payload: Payload,
    components: StageComponents,
    *,
    inputs: Sequence[Input],
    seed: Mapping[str, Any] | None = None,
    choices: Mapping[str, Any] | None = None,
    guarded: bool = True,
) -> Stage:
    """Make a stage of the payload's kind, with its key.

    `seed` are the coordinates that determine its draws, `choices` the settings that move numbers.
    """
    spec = {
        "schema": SCHEMA,
        "stage": payload.kind,
        "components": components.key_entries,
        "inputs": {item.role: item.key for item in inputs},
        "seed": seed,
        "choices": choices or {},
        "code": components.digest,
    }
    return Stage(
        payload.kind, digest(spec), title, spec, components.code, tuple(inputs), payload, guarded
    )
