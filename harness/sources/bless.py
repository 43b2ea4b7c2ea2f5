"""Keeping the lists of blessed texts: `python -m harness.sources [PACKAGE ...]`.

For each changed module somebody decides whether its results are the same (the revision stays: what
is in stores stays good) or changed (the revision goes up: what depends on it is made again). New
modules get revision 1. The line of a module that is gone stays, so that a later module of that name
cannot pass for it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BenchError
from harness.sources.digests import Blessed, Sources, tracked

_SHOWN = 8


@dataclass(frozen=True)
class Review:
    """A package beside its blessed.json: names of modules, sorted."""

    new: list[str]
    changed: list[str]
    gone: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, then write the lists; return the exit status."""
    options = _options(argv)
    packages = options.packages or ["harness", "plugins"]
    try:
        _bless_all(packages, options.answer)
    except (BenchError, OSError) as error:
        print(f"bless: {error}", file=sys.stderr)
        return 2
    return 0


def review(package: str, sources: Sources) -> Review:
    """Compare a package with its list. Raises BenchError if there is no such package."""
    present = {}
    for name in tracked(package):
        text = sources.text(name)
        if text is not None:
            present[name] = text.digest
    if sources.blessed_path(package) is None:
        raise BenchError(
            f"no package {package!r} with a folder can be found. Run this where it can be imported"
        )
    known = sources.blessed(package)
    in_both = present.keys() & known.keys()
    return Review(
        new=sorted(present.keys() - known.keys()),
        changed=sorted(name for name in in_both if known[name]["digest"] != present[name]),
        gone=sorted(known.keys() - present.keys()),
    )


def unblessed(package: str) -> list[str]:
    """Return the modules of a package whose text is not the blessed one."""
    state = review(package, Sources())
    return sorted(state.new + state.changed)


def bless(package: str, state: Review, sources: Sources, same: Callable[[str], bool]) -> Blessed:
    """Return a package's list brought up to date; `same(module)` decides on each changed module
    whether its revision stays.
    """
    print(f"{package}: {len(state.new)} new, {len(state.changed)} changed, {len(state.gone)} gone")
    listed = dict(sources.blessed(package))
    for module in state.new:
        print(f"  new      {module}")
        listed[module] = {"revision": 1, "digest": _digest(module, sources)}
    for module in state.changed:
        revision = listed[module]["revision"]
        if not same(module):
            revision += 1
        listed[module] = {"revision": revision, "digest": _digest(module, sources)}
    for module in state.gone:
        print(f"  gone     {module} (its line stays)")
    return listed


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.sources", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help="default: harness plugins")
    answer = parser.add_mutually_exclusive_group()
    answer.add_argument(
        "--same",
        dest="answer",
        action="store_const",
        const="s",
        help="all changed modules: results stay the same",
    )
    answer.add_argument(
        "--changed",
        dest="answer",
        action="store_const",
        const="c",
        help="all changed modules: results change",
    )
    return parser.parse_args(argv)


def _bless_all(packages: Sequence[str], answer: str | None) -> None:
    """Bring the lists of packages up to date; `answer` is `s` or `c` for all changed modules, or
    None to ask.
    """
    sources = Sources()
    states = {package: review(package, sources) for package in packages}
    users = _users({"harness", "plugins", *packages}, sources)

    def same(module: str) -> bool:
        return _ask(module, answer, users)

    # All answers first, so that whoever stops half-way leaves everything as it was.
    lists = {}
    for package, state in states.items():
        lists[package] = bless(package, state, sources, same)
    for package, state in states.items():
        path = sources.blessed_path(package)
        if path is not None and (state.new or state.changed):
            _write(path, lists[package])


def _ask(module: str, answer: str | None, users: dict[str, set[str]]) -> bool:
    """Tell whether the results of a changed module are the same, by `answer` or by asking."""
    reached = sorted(name for name, closure in users.items() if module in closure)
    listed = ", ".join(reached[:_SHOWN]) or "nothing registered"
    if len(reached) > _SHOWN:
        listed += f" and {len(reached) - _SHOWN} more"
    print(f"  changed  {module}, which reaches {listed}")
    while answer not in ("s", "c"):
        try:
            line = input("           are results the same (s) or changed (c)? ")
        except EOFError:
            raise BenchError(
                "nobody is there to answer. Say --same or --changed; nothing was written"
            ) from None
        answer = line.strip().lower()[:1]
    return answer == "s"


def _users(packages: Iterable[str], sources: Sources) -> dict[str, set[str]]:
    """Return the sources of everything that has keys, by module: of the stages, and of the modules
    that "module:Class" strings name.
    """
    present: set[str] = set()
    for package in packages:
        present.update([package, *tracked(package)])
    keyed: set[str] = set()
    for name in present:
        if name.startswith("harness.stages."):
            keyed.add(name)
        text = sources.text(name)
        if text is not None:
            keyed.update(present.intersection(text.targets))
    return {name: sources.closure(name) for name in sorted(keyed)}


def _digest(module: str, sources: Sources) -> str:
    text = sources.text(module)
    assert text is not None  # reviewed modules have source
    return text.digest


def _write(path: Path, listed: Blessed) -> None:
    lines = [f"{json.dumps(name)}: {json.dumps(listed[name])}" for name in sorted(listed)]
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    unfinished.replace(path)
