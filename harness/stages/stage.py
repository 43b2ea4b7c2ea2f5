"""A stage: one node of a plan, and how it gets its key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from harness.keys import digest
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
class StageSources:
    """The sources behind a stage: those of its kind and of its components; many stages have the
    same.

    `code` maps modules to revisions, `digest` stands for it in keys.
    """

    code: Mapping[str, str]
    digest: str

    @classmethod
    def of(cls, kind: Mapping[str, str], components: Iterable[Resolved[Any]]) -> Self:
        """Combine the sources of a stage kind with those of components."""
        merged = dict(kind)
        for component in components:
            merged.update(component.code)
        return cls(merged, digest(merged))


def make(
    title: str,
    payload: Payload,
    sources: StageSources,
    *,
    inputs: Sequence[Input],
    guarded: bool = True,
) -> Stage:
    """Make a stage of the payload's kind, with its key: all that its body is told, what stands
    upstream, and the sources behind it.
    """
    spec = {
        "schema": SCHEMA,
        "stage": payload.kind,
        "inputs": {item.role: item.key for item in inputs},
        "code": sources.digest,
        **payload.in_key(),
    }
    return Stage(
        payload.kind, digest(spec), title, spec, sources.code, tuple(inputs), payload, guarded
    )
