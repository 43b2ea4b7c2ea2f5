"""Objects of a store made from each other, described as those of real stages are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import keys
from harness.store.objects import Manifest, Store

CODE = {"plugins.defenses.ft": "r1"}


def describe(name: str, parents: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of a stage called `name`, with its inputs by role."""
    return {"stage": "test", "name": name, "inputs": dict(parents), "code": keys.digest(CODE)}


def key_of(name: str, parents: Mapping[str, str] | None = None) -> str:
    return keys.digest(describe(name, parents or {}))


def add(
    store: Store,
    name: str,
    files: Mapping[str, bytes],
    parents: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Manifest:
    """Commit an object with these files, made from the objects `parents` (key by role)."""
    spec = describe(name, parents or {})
    key = keys.digest(spec)
    folder = store.root.parent / f"made-{key[:8]}"
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    lineage = {}
    for role, parent in (parents or {}).items():
        manifest = store.manifest(parent)
        assert manifest is not None
        lineage[role] = (parent, manifest.digest)
    return store.commit(
        key, folder, spec=spec, code=CODE, parents=lineage, record={"seconds": 1.0}, log=log
    )
