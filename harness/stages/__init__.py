"""The stage kinds: one file each, with a torch-free head that a plan reads and a body that runs in a child."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.keys import canonical, digest, table

if TYPE_CHECKING:
    from harness.resolved import Resolved
    from harness.surroundings import Deadline

SCHEMA = 1
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

    `spec` is what `key` is the digest of; `code` the sources behind it; `payload` what the body is told beside its
    inputs (JSON); `guarded` whether the body runs plugin code that must not see the store.
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

    `inputs` holds a folder a role; files written to `out` are the artefact; `record` takes facts worth keeping in the
    manifest (the precision used, images processed).
    """

    payload: Mapping[str, Any]
    inputs: Path
    out: Path
    scratch: Path
    device: str
    deadline: Deadline
    progress: Callable[[int, int, float | None], None]
    record: dict[str, Any] = field(default_factory=dict)


def body(component: Resolved) -> dict[str, Any]:
    """What a child needs to build the component again."""
    return {"kind": component.kind, "name": component.name, "target": component.target, "params": component.params}


def called(component: Resolved) -> str:
    """Name and non-default parameters, whatever the grid calls it: in titles, and what metrics are stored under."""
    changed = ",".join(f"{name}={_told(value)}" for name, value in sorted(component.changed.items()))
    return f"{component.name}[{changed}]" if changed else component.name


def _told(value: Any) -> str:
    """A parameter as JSON; a file by the first digits of its SHA-256."""
    return value["sha256"][:8] if isinstance(value, dict) and set(value) == {"sha256"} else json.dumps(value)


class Code(dict[str, str]):
    """The sources behind a stage, digested once however many stages share them."""

    @cached_property
    def digest(self) -> str:
        """What stands for them in a key."""
        return digest(dict(self))


def merge(code: Mapping[str, str], components: Iterable[Resolved]) -> Code:
    """The sources of a stage kind with those of its components."""
    merged = Code(code)
    for component in components:
        merged.update(component.code)
    return merged


def make(
    kind: str,
    title: str,
    *,
    components: Mapping[str, Resolved],
    inputs: Sequence[Input],
    code: Mapping[str, str],
    seed: Mapping[str, Any] | None = None,
    choices: Mapping[str, Any] | None = None,
    payload: Mapping[str, Any] | None = None,
    guarded: bool = True,
) -> Stage:
    """A stage with its key.

    `components` by role (`component`, `model`); `seed` are the coordinates that determine its draws; `choices` the
    settings that move numbers; `code` the sources of the stage kind, to which those of the components are added (a
    `Code` has them already).
    """
    sources = code if isinstance(code, Code) else merge(code, components.values())
    spec = {
        "schema": SCHEMA,
        "stage": kind,
        "components": {role: component.standing for role, component in components.items()},
        "inputs": {item.role: item.key for item in inputs},
        "seed": dict(seed) if seed else None,
        "choices": dict(choices or {}),
        "code": sources.digest,
    }
    text = {name: canonical(value) for name, value in spec.items() if name != "components"}
    text["components"] = table({role: component.text for role, component in components.items()})
    told = {role: body(component) for role, component in components.items()}
    # Long-lived plans hold tens of thousands of stages: strings that repeat are kept once.
    kind = sys.intern(kind)
    key = sha256(table(text)).hexdigest()
    return Stage(kind, key, title, spec, sources, tuple(inputs), {**told, **(payload or {})}, guarded)
