"""The source text behind a component or stage, and its revision: what `code` in a key holds.

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
from collections.abc import Collection, Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

from harness.doors import DOORS
from harness.errors import PluginError
from harness.sources import locate
from harness.sources import text as source_text
from harness.sources.text import Import, Text

ROOMS = ("harness.access", "harness.components", "harness.learn", "harness.stages")
"""The rooms of `harness` that move numbers. Its other modules are in no key."""

Blessed = dict[str, dict[str, Any]]
"""blessed.json: {module: {"revision": from 1 up, "digest": 64 hex digits}}."""

_FileState = tuple[int, int, int, int]
"""Modification time in ns, size in bytes, change time in ns, inode."""


class Sources:
    """Source digests, remembered as long as a file keeps its times, size and inode.

    `memo`: any mapping from str to JSON values that outlives the process; what was learnt of a text
    is kept in it under the SHA-256 of the file. Modules are looked for once, so make a new instance
    after files come and go.
    """

    def __init__(self, memo: MutableMapping[str, Any] | None = None) -> None:
        self._memo = memo if memo is not None else {}
        self._texts: dict[Path, tuple[_FileState, Text]] = {}
        self._lists: dict[Path, tuple[_FileState, Blessed]] = {}
        self._files: dict[str, locate.ModuleFiles | None] = {}
        self._imported: dict[tuple[str, str], tuple[str, ...]] = {}

    def of(self, module: str, packages: Iterable[str] = ()) -> dict[str, str]:
        """Return revision or digest of each source of `module`, by module name, sorted; nothing if
        it has no source.

        `packages`: further top-level names of its own distribution (see `locate.top_levels`).
        Raises PluginError for a blessed.json that cannot be read.
        """
        found = {}
        for name in sorted(self.closure(module, packages)):
            revision = self.revision(name)
            assert revision is not None  # the closure holds modules with source only
            found[name] = revision
        return found

    def closure(self, module: str, packages: Iterable[str] = ()) -> set[str]:
        """Return the names of all sources of `module`."""
        if self._source(module) is None:
            return set()
        own = {_top(module), *packages}
        reached = {module}
        waiting = [module]
        for name in _parents(module):
            if self._counts(name, own):
                reached.add(name)
                waiting.append(name)
        while waiting:
            for name in self._may_load(waiting.pop()):
                if name not in reached and self._counts(name, own):
                    reached.add(name)
                    waiting.append(name)
        return reached

    def text(self, module: str) -> Text | None:
        """Return what the module's text says; None if it has no source."""
        path = self._source(module)
        if path is None:
            return None
        state = _file_state(path)
        known = self._texts.get(path)
        if known is None or known[0] != state:
            known = (state, self._read(path))
            self._texts[path] = known
        return known[1]

    def blessed(self, package: str) -> Blessed:
        """Return a top-level package's list of blessed texts; empty without one.

        Raises PluginError if it is unreadable.
        """
        path = self.blessed_path(package)
        if path is None or not path.is_file():
            return {}
        state = _file_state(path)
        known = self._lists.get(path)
        if known is None or known[0] != state:
            known = (state, _read_list(path))
            self._lists[path] = known
        return known[1]

    def blessed_path(self, package: str) -> Path | None:
        """Return the place of a package's blessed.json, whether it is there or not; None for what
        is no package with a folder.
        """
        files = self._locate(package)
        if files is None or not files.folders:
            return None
        return files.folders[0] / "blessed.json"

    def revision(self, module: str) -> str | None:
        """Return revision or digest of a module's own text; None if it has no source. Raises
        PluginError for a blessed.json that cannot be read.
        """
        text = self.text(module)
        if text is None:
            return None
        entry = self.blessed(_top(module)).get(module)
        if entry and entry["digest"] == text.digest:
            return f"r{entry['revision']}"
        return f"sha256:{text.digest[:16]}"

    def _counts(self, name: str, own: Collection[str]) -> bool:
        """Tell whether a module is a source of those whose distribution has the top-level names
        `own`.
        """
        return _in_scope(name, own) and self._source(name) is not None

    def _may_load(self, module: str) -> tuple[str, ...]:
        """Return every name that the module's imports may load, modules or not."""
        text = self.text(module)
        files = self._locate(module)
        if text is None or files is None:
            return ()
        known = self._imported.get((module, text.digest))
        if known is None:
            package = module if files.folders else module.rpartition(".")[0]
            names: dict[str, None] = {}  # in order, each once
            for item in text.imports:
                names.update(dict.fromkeys(_candidates(item, package)))
            known = tuple(names)
            self._imported[module, text.digest] = known
        return known

    def _read(self, path: Path) -> Text:
        data = path.read_bytes()
        name = hashlib.sha256(data).hexdigest()
        try:
            return _from_json(self._memo[name])
        except (KeyError, TypeError, ValueError):  # not remembered, or not by us
            text = source_text.read(data)
            self._memo[name] = _as_json(text)
            return text

    def _source(self, module: str) -> Path | None:
        files = self._locate(module)
        if files is None:
            return None
        return files.source

    def _locate(self, module: str) -> locate.ModuleFiles | None:
        if module not in self._files:
            self._files[module] = locate.locate(module)
        return self._files[module]


def tracked(package: str) -> list[str]:
    """Return the modules of a package that can be in a key, and so stand in its blessed.json."""
    return [name for name in locate.modules(package) if _in_scope(name, {package})]


def _in_scope(name: str, own: Collection[str]) -> bool:
    top = _top(name)
    if top == "harness":
        return any(name == room or name.startswith(f"{room}.") for room in ROOMS)
    if top == "plugins":
        # plugins/__init__.py only registers: a new plugin must not change the keys of all others.
        return name != "plugins"
    return top in own


def _candidates(item: Import, package: str) -> Iterator[str]:
    """Yield every name that an import in a module of `package` may load, parents first."""
    name = item.module
    if item.level:
        parts = package.split(".")
        anchor = parts[: len(parts) - item.level + 1]
        if not anchor:  # beyond the top level: Python will say so
            return
        name = ".".join([*anchor, name] if name else anchor)
    targets = [name]
    # What is imported from a package may be a module of it.
    targets += [f"{name}.{part}" for part in item.names]
    homes = DOORS.get(name, {})
    targets += [homes[part] for part in item.names if part in homes]
    for target in targets:
        yield from _parents(target)
        yield target


def _parents(name: str) -> list[str]:
    """Return the packages that a module lies in, outermost first."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _top(module: str) -> str:
    return module.partition(".")[0]


def _file_state(path: Path) -> _FileState:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ctime_ns, status.st_ino


def _as_json(text: Text) -> list[Any]:
    return [text.digest, [list(item) for item in text.imports], list(text.targets)]


def _from_json(entry: Any) -> Text:
    digest, imports, targets = entry
    read = [Import(level, module, tuple(names)) for level, module, names in imports]
    return Text(digest, tuple(read), tuple(targets))


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
