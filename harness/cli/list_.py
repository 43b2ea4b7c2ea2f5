"""`bench list`: what can be named in a grid. Imports no plugin; descriptions are read from source
text.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import Any

from harness.registry import synopsis
from harness.registry.discovery import discover
from harness.registry.memo import Memo
from harness.registry.names import KINDS, Registry, collision


def run(args: argparse.Namespace) -> int:
    """Print the components and recipes of `args.kind` (a plural) or of all kinds; broken plugins
    come last.
    """
    memo = Memo()
    rows = list(rows_of(discover(memo), args.kind and args.kind.removesuffix("s"), memo))
    print(json.dumps(rows, indent=2) if args.json else _text(rows))
    return 0


def rows_of(registry: Registry, kind: str | None, memo: Memo) -> Iterable[dict[str, Any]]:
    """Tables of name, kind, version, distribution, summary, broken (None, or the reason)."""
    for entry in registry.entries():
        if kind in (None, entry.kind):
            found = synopsis.read(entry.target, memo)
            name = f"{entry.name}:<{entry.argument}>" if entry.argument else entry.name
            yield _row(
                name,
                entry.kind,
                found.version,
                entry.distribution,
                found.summary,
                found.fault or None,
            )
    if kind in (None, "recipe"):
        for name in registry.recipes:
            recipe = registry.recipe(name)
            summary = ", ".join(
                f"{field} {_short(value)}" for field, value in recipe.fields.items()
            )
            yield _row(name, "recipe", None, recipe.origin.distribution, summary, None)
    for claimed, name, origins in registry.collisions:
        if kind in (None, claimed):
            owners = ", ".join(origin.distribution for origin in origins)
            yield _row(name, claimed, None, owners, "", collision(f"{claimed} {name!r}", origins))
    for broken in registry.broken:
        origin = broken.origin
        yield _row(origin.entry_point, "plugin", None, origin.distribution, "", broken.reason)


def _row(
    name: str, kind: str, version: int | None, distribution: str, summary: str, broken: str | None
) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "version": version,
        "distribution": distribution,
        "summary": summary,
        "broken": broken,
    }


def _text(rows: list[dict[str, Any]]) -> str:
    sound = [row for row in rows if row["broken"] is None]
    names = max((len(row["name"]) for row in sound), default=0)
    owners = max((len(row["distribution"]) for row in sound), default=0)
    blocks = []
    for kind in (*KINDS, "recipe"):
        lines = [
            f"  {row['name']:{names}}  {row['distribution']:{owners}}  {row['summary']}".rstrip()
            for row in sound
            if row["kind"] == kind
        ]
        blocks += ["\n".join([f"{kind}s", *lines])] if lines else []
    lines = [
        f"  {row['kind']} {row['name']} ({row['distribution']}): {row['broken']}"
        for row in rows
        if row["broken"]
    ]
    if lines:
        blocks.append("\n".join(["broken (bench show NAME says more)", *lines]))
    return "\n\n".join(blocks) or "nothing is registered"


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
