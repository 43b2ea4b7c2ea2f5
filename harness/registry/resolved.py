"""A component as a grid names it, and as a plan knows it once its parameters are validated."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic

# In `typing` from Python 3.13 on; pydantic, which `harness.components` needs, brings it.
from typing_extensions import TypeVar

from harness.components.facts import AnyFacts, PartFacts
from harness.components.spec import IN_PLACE, ComponentSpec
from harness.keys import Shared

Fault = tuple[tuple[str | int, ...], str, str]
"""The place in the parameters (empty: the entry itself), what is wrong there, and what would be
right.
"""

F = TypeVar("F", bound=AnyFacts, default=Any)
"""The facts of one kind. A plain `Resolved` may be of any kind, and its facts are not checked."""


@dataclass(frozen=True)
class Request:
    """A component as a grid names it.

    `base` is the folder that relative `File` parameters are looked up in, `bases` those of single
    parameters that come from another grid file; `dataset` is the name of the dataset that it will
    work on, for presets such as `bcu/gtsrb`; `in_place` are the attacks that fill parameters,
    resolved.
    """

    kind: str
    name: str
    preset: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    base: Path = Path()
    dataset: str | None = None
    bases: Mapping[str, Path] = field(default_factory=dict)
    in_place: Mapping[str, Resolved] = field(default_factory=dict)


@dataclass(frozen=True)
class Resolved(Generic[F]):
    """A component whose parameters are known to be right; everything but `uses` and `facts` is
    JSON.

    `params` are complete, with absolute paths: a child rebuilds the component from them. `identity`
    is what enters keys: without paths (files by SHA-256), without `NotInKey` fields, and without
    `uses`, which enter by keys of their own. An attack that fills a parameter is in `params` and
    `identity`, and what it needs and uses counts as the owner's. `changed` are the entries of
    `identity` that differ from their defaults. `code` maps the modules behind the component to
    revisions or digests. `facts` are of the class that `FACTS_BY_KIND` has for the kind. `checks`:
    it overrides `compatible`.
    """

    kind: str
    name: str
    target: str
    distribution: str
    dist_version: str
    version: int
    params: dict[str, Any]
    identity: dict[str, Any]
    changed: dict[str, Any]
    uses: dict[str, Resolved]
    code: dict[str, str]
    needs: list[str]
    seeded: bool
    recipe: dict[str, Any] | str | None
    facts: F
    checks: bool
    summary: str
    citation: str
    presets: list[str]

    # A grid of ten thousand cells asks for these tens of thousands of times.

    @cached_property
    def key_entry(self) -> Shared:
        """The component's entry in a key."""
        return Shared(kind=self.kind, name=self.name, version=self.version, params=self.identity)

    @cached_property
    def stands_in(self) -> bool:
        """True where it, or what fills its parameters, replaces published weights (`stand_in` of a
        part).
        """
        if isinstance(self.facts, PartFacts) and self.facts.stand_in:
            return True
        return any(used.stands_in for used in self.uses.values())

    @cached_property
    def body(self) -> ComponentSpec:
        """All it takes to build the component again."""
        files = dict(_files(self.params, self.identity))
        return ComponentSpec(self.target, self.params, self.kind, self.name, self.key_entry, files)

    @cached_property
    def called(self) -> str:
        """Name and non-default parameters, whatever the grid calls it: in titles, and what metrics
        are stored under.
        """
        if not self.changed:
            return self.name
        settings = []
        for name, value in sorted(self.changed.items()):
            settings.append(f"{name}={_short(value)}")
        return f"{self.name}[{','.join(settings)}]"


def _files(value: Any, entry: Any) -> Iterator[tuple[str, str]]:
    """Return path and SHA-256 of each file in a value of parameters, whose entry in keys is
    `entry`.
    """
    if isinstance(value, str):
        if isinstance(entry, Mapping) and set(entry) == {"sha256"}:
            yield value, entry["sha256"]
    elif isinstance(value, Mapping) and isinstance(entry, Mapping):
        if set(value) == {IN_PLACE}:
            value = value[IN_PLACE]
        for name in value.keys() & entry.keys():
            yield from _files(value[name], entry[name])
    elif isinstance(value, list) and isinstance(entry, list):
        for item, its_entry in zip(value, entry, strict=True):
            yield from _files(item, its_entry)


def _short(value: Any) -> str:
    """Write a parameter as JSON; a file as the first digits of its SHA-256."""
    if isinstance(value, dict) and set(value) == {"sha256"}:
        return str(value["sha256"][:8])
    return json.dumps(value)
