"""Manifests that somebody else wrote: sealed and well formed ones may still tell anything."""

from __future__ import annotations

from typing import Any

from harness import keys
from harness.store import disk, plain
from harness.store.manifest import MANIFEST, Manifest, dump
from harness.store.packs import OWN


def check(manifest: Manifest, data: bytes) -> None:
    """Check a manifest whose file has the bytes `data`: that it is written as we write it, and that
    its key is that of its settings, which name its parents and its sources. Raises ValueError.
    """
    _check_tables(manifest, data)
    for name, entry in manifest.files.items():
        _check_file(name, entry)
    for role, parent in manifest.parents.items():
        _check_parent(role, parent)
    if not manifest.files:
        raise ValueError(f"its {MANIFEST} lists no files")
    if again(manifest) != data:
        raise ValueError(f"its {MANIFEST} is not written as `bench` writes it")
    inputs = {role: parent["key"] for role, parent in manifest.parents.items()}
    if keys.digest(manifest.spec) != manifest.key:
        raise ValueError("its key is not that of its settings")
    if manifest.spec.get("inputs") != inputs:
        raise ValueError("its settings name other inputs than its parents")
    if manifest.spec.get("code") != keys.digest(manifest.code):
        raise ValueError("its settings name other sources than it lists")


def again(manifest: Manifest) -> bytes:
    """Return the bytes of manifest.json for what a manifest tells."""
    return dump(
        manifest.key,
        spec=manifest.spec,
        code=manifest.code,
        files=manifest.files,
        parents=manifest.parents,
        record=manifest.record,
    )


def _check_tables(manifest: Manifest, data: bytes) -> None:
    plain.table(data)  # neither too deep nor with numbers that are none
    for name, member in (
        ("spec", manifest.spec),
        ("code", manifest.code),
        ("files", manifest.files),
        ("parents", manifest.parents),
        ("record", manifest.record),
    ):
        if not isinstance(member, dict):
            raise ValueError(f"{name} of its {MANIFEST} is no table")


def _check_file(name: str, entry: Any) -> None:
    if not disk.inside(name) or len(name) > disk.LONGEST or name in OWN:
        raise ValueError(f"its {MANIFEST} lists {name!r}, which is no name of a file")
    if not isinstance(entry, dict) or entry.keys() != {"size", "sha256"}:
        raise ValueError(f"its {MANIFEST} lists {name!r} without size and SHA-256")
    size = entry["size"]
    if type(size) is not int or size < 0 or not _is_digest(entry["sha256"]):
        raise ValueError(f"its {MANIFEST} lists {name!r} without size and SHA-256")


def _check_parent(role: str, parent: Any) -> None:
    if not isinstance(parent, dict) or parent.keys() != {"key", "digest"}:
        raise ValueError(f"parent {role} of its {MANIFEST} is no key and digest")
    if not all(map(_is_digest, parent.values())):
        raise ValueError(f"parent {role} of its {MANIFEST} is no key and digest")


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and disk.KEY.fullmatch(value) is not None
