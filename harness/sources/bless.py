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
from pathlib import Path

from harness.errors import BenchError
from harness.sources.digests import Blessed, Review, Sources, review, tracked

_SHOWN = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, then write the lists; the exit status."""
    options = _options(argv)
    sources = Sources()
    packages = options.packages or ["harness", "plugins"]
    try:
        found = {package: review(package, sources) for package in packages}
        users = _users({"harness", "plugins", *packages}, sources)
        # All answers first, so that whoever stops half-way leaves everything as it was.
        lists = {
            package: bless(
                package, state, sources, lambda module: _ask(module, options.answer, users)
            )
            for package, state in found.items()
        }
        for package, state in found.items():
            path = sources.blessed_path(package)
            if path is not None and (state.new or state.changed):
                _write(path, lists[package])
    except (BenchError, OSError) as error:
        print(f"bless: {error}", file=sys.stderr)
        return 2
    return 0


def bless(package: str, state: Review, sources: Sources, same: Callable[[str], bool]) -> Blessed:
    """A package's list brought up to date; `same(module)` decides on each changed module whether
    its revision stays.
    """
    print(f"{package}: {len(state.new)} new, {len(state.changed)} changed, {len(state.gone)} gone")
    listed: Blessed = {name: dict(entry) for name, entry in sources.blessed(package).items()}
    for module in state.new:
        print(f"  new      {module}")
        listed[module] = {"revision": 1, "digest": _digest(module, sources)}
    for module in state.changed:
        revision = listed[module]["revision"] + (0 if same(module) else 1)
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


def _ask(module: str, answer: str | None, users: dict[str, set[str]]) -> bool:
    reached = sorted(name for name, closure in users.items() if module in closure)
    more = f" and {len(reached) - _SHOWN} more" if len(reached) > _SHOWN else ""
    print(
        f"  changed  {module}, which reaches {', '.join(reached[:_SHOWN]) or 'nothing registered'}{more}"
    )
    while answer not in ("s", "c"):
        try:
            answer = (
                input("           are results the same (s) or changed (c)? ").strip().lower()[:1]
            )
        except EOFError:
            raise BenchError(
                "nobody is there to answer. Say --same or --changed; nothing was written"
            ) from None
    return answer == "s"


def _users(packages: Iterable[str], sources: Sources) -> dict[str, set[str]]:
    """The sources of everything that has keys: the stages, and the modules that "module:Class"
    strings name.
    """
    present = {name for package in packages for name in (package, *tracked(package))}
    named = {target for name in present if (text := sources.text(name)) for target in text.targets}
    stages = {name for name in present if name.startswith("harness.stages.")}
    return {name: sources.closure(name) for name in sorted(stages | named & present)}


def _digest(module: str, sources: Sources) -> str:
    text = sources.text(module)
    assert text is not None  # reviewed modules have source
    return text.digest


def _write(path: Path, listed: Blessed) -> None:
    lines = [f"{json.dumps(name)}: {json.dumps(listed[name])}" for name in sorted(listed)]
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    unfinished.replace(path)
