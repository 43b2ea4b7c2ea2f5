"""`bench list`: what can be named in a grid. Imports no plugin; descriptions are read from source
text.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

from harness.registry import synopsis
from harness.registry.discovery import discover
from harness.registry.memo import Memo
from harness.registry.names import Registry, collision
from harness.vocabulary import KINDS


def run(args: argparse.Namespace) -> int:
    """Print the components and recipes of `args.kind` (a plural) or of all kinds; broken plugins
    come last.
    """
    memo = Memo()
    kind = args.kind.removesuffix("s") if args.kind else None
    rows = list(rows_of(discover(memo), kind, memo))
    print(json.dumps(rows, indent=2) if args.json else _text(rows))
    return 0


def rows_of(registry: Registry, kind: str | None, memo: Memo) -> Iterator[dict[str, Any]]:
    """Yield tables of name, kind, version, distribution, summary, broken (None, or the reason)."""
    for entry in registry.entries(kind):
        found = synopsis.read(entry.target, memo)
        name = entry.name
        if entry.argument:
            name += f":<{entry.argument}>"
        fault = found.fault or None
        yield _row(name, entry.kind, entry.distribution, found.version, found.summary, fault)
    if kind in (None, "recipe"):
        for name in registry.recipes:
            recipe = registry.recipe(name)
            fields = [f"{field} {_short(value)}" for field, value in recipe.fields.items()]
            yield _row(name, "recipe", recipe.origin.distribution, None, ", ".join(fields))
    for claimed, name, origins in registry.collisions:
        if kind in (None, claimed):
            owners = ", ".join(origin.distribution for origin in origins)
            fault = collision(f"{claimed} {name!r}", origins)
            yield _row(name, claimed, owners, broken=fault)
    for plugin in registry.broken:
        origin = plugin.origin
        yield _row(origin.entry_point, "plugin", origin.distribution, broken=plugin.reason)


def _row(
    name: str,
    kind: str,
    distribution: str,
    version: int | None = None,
    summary: str = "",
    broken: str | None = None,
) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "version": version,
        "distribution": distribution,
        "summary": summary,
        "broken": broken,
    }


def _text(rows: Sequence[dict[str, Any]]) -> str:
    """Return one block for each kind, its columns aligned, and one of what is broken."""
    usable = []
    broken = []
    for row in rows:
        if row["broken"] is None:
            usable.append(row)
        else:
            broken.append(row)
    name_width = max((len(row["name"]) for row in usable), default=0)
    owner_width = max((len(row["distribution"]) for row in usable), default=0)
    blocks = []
    for kind in (*KINDS, "recipe"):
        lines = [f"{kind}s"]
        for row in usable:
            if row["kind"] == kind:
                name = row["name"].ljust(name_width)
                owner = row["distribution"].ljust(owner_width)
                lines.append(f"  {name}  {owner}  {row['summary']}".rstrip())
        if len(lines) > 1:
            blocks.append("\n".join(lines))
    if broken:
        lines = ["broken (bench show NAME says more)"]
        for row in broken:
            lines.append(f"  {row['kind']} {row['name']} ({row['distribution']}): {row['broken']}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) or "nothing is registered"


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
