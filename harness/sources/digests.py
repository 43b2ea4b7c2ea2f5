"""Which source text stands behind a component or stage, and in what revision: what `code` in a key
holds.

A module's sources are itself and, transitively, what it imports (inside functions too) of its own
distribution, of `plugins`, and of the rooms of `harness` that move numbers. A text that its
package's blessed.json knows stands as "r<revision>", any other as "sha256:<first 16 hex digits of
its digest>". Nothing is imported to find this out. Not seen: other distributions, data files,
compiled code, imports made by calling a function.

`python -m harness.sources [PACKAGE ...]` keeps the lists of blessed texts;
harness/sources/bless.py does that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.doors import DOORS
from harness.errors import BenchError, PluginError
from harness.sources import locate
from harness.sources import text as source_text
from harness.sources.locate import find
from harness.sources.text import Import, Text

__all__ = ["Blessed", "Sources", "find", "tracked", "unblessed"]

ROOMS = ("harness.access", "harness.components", "harness.learn", "harness.stages")
"""The rooms of `harness` that move numbers. Its other modules are in no key."""

Blessed = dict[str, dict[str, Any]]
"""blessed.json: {module: {"revision": from 1 up, "digest": 64 hex digits}}."""

_Stamp = tuple[int, int]


class Sources:
    """Source digests, remembered as long as a file keeps its modification time and size.

    `memo`: any mapping from str to JSON values that outlives the process; what was learnt of a text
    is kept in it under the SHA-256 of the file. Modules are looked for once, so make a new instance
    after files come and go.
    """

    def __init__(self, memo: MutableMapping[str, Any] | None = None) -> None:
        self._memo = memo if memo is not None else {}
        self._texts: dict[Path, tuple[_Stamp, Text]] = {}
        self._lists: dict[Path, tuple[_Stamp, Blessed]] = {}
        self._found: dict[str, locate.Found | None] = {}
        self._reached: dict[tuple[str, str], tuple[str, ...]] = {}

    def of(self, module: str, packages: Iterable[str] = ()) -> dict[str, str]:
        """Revision or digest of each source of `module`, by module name, sorted; empty if it has no
        source.

        `packages`: further top-level names of its own distribution (see `locate.top_levels`).
        Raises PluginError for a blessed.json that cannot be read.
        """
        return {name: self._value(name) for name in sorted(self.closure(module, packages))}

    def closure(self, module: str, packages: Iterable[str] = ()) -> set[str]:
        """Names of all sources of `module`."""
        own = frozenset({_top(module), *packages})
        if self._source(module) is None:
            return set()
        reached = {module}
        waiting = [module, *(name for name in _parents(module) if self._counts(name, own, reached))]
        reached.update(waiting[1:])
        while waiting:
            for name in self._imported(waiting.pop()):
                if self._counts(name, own, reached):
                    reached.add(name)
                    waiting.append(name)
        return reached

    def text(self, module: str) -> Text | None:
        """What the module's text says; None if it has no source."""
        path = self._source(module)
        if path is None:
            return None
        stamp = _stamp(path)
        known = self._texts.get(path)
        if known is None or known[0] != stamp:
            known = self._texts[path] = stamp, self._read(path)
        return known[1]

    def blessed(self, package: str) -> Blessed:
        """A top-level package's list of blessed texts; empty without one. Raises PluginError if it
        is unreadable.
        """
        path = self.blessed_path(package)
        if path is None or not path.is_file():
            return {}
        stamp = _stamp(path)
        known = self._lists.get(path)
        if known is None or known[0] != stamp:
            known = self._lists[path] = stamp, _read_list(path)
        return known[1]

    def blessed_path(self, package: str) -> Path | None:
        """Where a package's blessed.json lies or would lie; None for what is no package with a
        folder.
        """
        found = self._locate(package)
        return found.folders[0] / "blessed.json" if found and found.folders else None

    def _value(self, module: str) -> str:
        text = self.text(module)
        assert text is not None  # the closure holds modules with source only
        entry = self.blessed(_top(module)).get(module)
        return (
            f"r{entry['revision']}"
            if entry and entry["digest"] == text.digest
            else f"sha256:{text.digest[:16]}"
        )

    def _counts(self, name: str, own: frozenset[str], reached: set[str]) -> bool:
        return name not in reached and _in_scope(name, own) and self._source(name) is not None

    def _imported(self, module: str) -> tuple[str, ...]:
        """Every name that the module's imports may load, modules or not."""
        text, found = self.text(module), self._locate(module)
        if text is None or found is None:
            return ()
        known = self._reached.get((module, text.digest))
        if known is None:
            package = module if found.folders else module.rpartition(".")[0]
            names = dict.fromkeys(
                name for item in text.imports for name in _candidates(item, package)
            )
            known = self._reached[module, text.digest] = tuple(names)
        return known

    def _read(self, path: Path) -> Text:
        data = path.read_bytes()
        name = hashlib.sha256(data).hexdigest()
        try:
            digest, imports, targets = self._memo[name]
            return Text(
                digest,
                tuple(Import(level, at, tuple(names)) for level, at, names in imports),
                tuple(targets),
            )
        except (KeyError, TypeError, ValueError):  # not remembered, or not by us
            text = source_text.read(data)
            self._memo[name] = [
                text.digest,
                [list(item) for item in text.imports],
                list(text.targets),
            ]
            return text

    def _source(self, module: str) -> Path | None:
        found = self._locate(module)
        return found.source if found else None

    def _locate(self, module: str) -> locate.Found | None:
        if module not in self._found:
            self._found[module] = locate.locate(module)
        return self._found[module]


@dataclass(frozen=True)
class Review:
    """How a package stands to its blessed.json: names of modules, sorted."""

    new: list[str]
    changed: list[str]
    gone: list[str]


def tracked(package: str) -> list[str]:
    """The modules of a package that can be in a key, and so stand in its blessed.json."""
    return [name for name in locate.modules(package) if _in_scope(name, frozenset({package}))]


def review(package: str, sources: Sources) -> Review:
    """Compare a package with its list. Raises BenchError if there is no such package."""
    present = {name: text.digest for name in tracked(package) if (text := sources.text(name))}
    if sources.blessed_path(package) is None:
        raise BenchError(
            f"no package {package!r} with a folder can be found. Run this where it can be imported"
        )
    known = sources.blessed(package)
    return Review(
        new=sorted(present.keys() - known.keys()),
        changed=sorted(
            name
            for name, digest in present.items()
            if name in known and known[name]["digest"] != digest
        ),
        gone=sorted(known.keys() - present.keys()),
    )


def unblessed(package: str) -> list[str]:
    """Modules of a package whose text is not the blessed one."""
    found = review(package, Sources())
    return sorted(found.new + found.changed)


def _in_scope(name: str, own: frozenset[str]) -> bool:
    top = _top(name)
    if top == "harness":
        return any(name == room or name.startswith(f"{room}.") for room in ROOMS)
    # plugins/__init__.py only registers: a new plugin must not change the keys of all others.
    return name != "plugins" if top == "plugins" else top in own


def _candidates(item: Import, package: str) -> Iterator[str]:
    name = item.module
    if item.level:
        parts = package.split(".")
        anchor = parts[: len(parts) - item.level + 1]
        if not anchor:  # beyond the top level: Python will say so
            return
        name = ".".join([*anchor, *filter(None, [name])])
    homes = DOORS.get(name, {})
    exported = [homes[part] for part in item.names if part in homes]
    for target in (name, *(f"{name}.{part}" for part in item.names), *exported):
        yield from _parents(target)
        yield target


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _top(module: str) -> str:
    return module.partition(".")[0]


def _stamp(path: Path) -> _Stamp:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


def _read_list(path: Path) -> Blessed:
    try:
        table = json.loads(path.read_bytes())
        for entry in table.values():
            if entry.keys() != {"revision", "digest"} or type(entry["revision"]) is not int:
                raise ValueError(f"{entry} is not {{revision, digest}}")
    except (OSError, ValueError, AttributeError) as error:
        raise PluginError(
            f"{path}: no list of blessed texts: {error}. `python -m harness.sources` writes one"
        ) from error
    return dict(table)
