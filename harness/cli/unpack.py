"""`bench unpack`: a pack of somebody else's results, merged into a store."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from harness.api.planning import open_store
from harness.cli.sizes import counted
from harness.run import claims, outputs
from harness.store import disk, merging, unpacking
from harness.store.manifest import LOG, Manifest
from harness.store.merging import Merged
from harness.store.unpacking import Pack

NAMED = 5
"""Objects that are named one by one."""


def run(args: argparse.Namespace) -> int:
    """Merge the pack. Exit code 0 where all of it is in the store now, 1 where something was
    refused or left out.
    """
    with unpacking.opened(args.file) as pack:
        store = open_store(args.store, make=True)
        merged = merging.merge(pack, store, _examine)
        _print(pack, merged, args)
    _complain(merged)
    return 1 if merged.refused or merged.unfit or merged.busy else 0


def _examine(manifest: Manifest, folder: Path) -> None:
    """Check an object as what a stage left is checked. Raises ValueError."""
    for name in sorted(manifest.absent):
        if name.endswith(".json"):
            raise ValueError(f"its {name} was left out, without which it is no result")
    claims.facts(manifest.record)
    files = disk.outputs(folder)
    files.pop(LOG, None)
    outputs.check_files(files)


def _print(pack: Pack, merged: Merged, args: argparse.Namespace) -> None:
    """Say what is in the store now, and how to go on."""
    title = pack.about.get("title")
    parts = [f"{len(merged.added):,} new"]
    if merged.completed:
        parts.append(f"{len(merged.completed):,} completed")
    parts.append(f"{len(merged.there):,} there already")
    if merged.other:
        parts.append(f"{len(merged.other):,} there with other content, which stays")
    about = f"{title}: " if isinstance(title, str) and title.isprintable() else ""
    print(f"{about}{counted(len(pack.keys), 'object')}: {', '.join(parts)}")
    if pack.grid:
        file = shlex.quote(str(args.file))
        print(f"The grid is in the pack: unzip {file} 'grid/*'")


def _complain(merged: Merged) -> None:
    """Say on stderr what is not in the store, and why."""
    _name("refused, not as its manifest says", merged.refused)
    why = "made from objects that this store has with other content"
    _name("left out", dict.fromkeys(merged.unfit, why))
    why = "a run is making it at the moment. Unpack again later"
    _name("left out", dict.fromkeys(merged.busy, why))


def _name(what: str, reasons: Mapping[str, str]) -> None:
    for key in list(reasons)[:NAMED]:
        print(f"bench: object {key}: {what}: {reasons[key]}", file=sys.stderr)
    more = len(reasons) - NAMED
    if more > 0:
        print(f"bench: and {counted(more, 'more object')}: {what}", file=sys.stderr)
