"""A pack of somebody else's objects, merged into a store.

Each object is judged on its own: a sealed manifest under the key that its settings amount to, files
with the SHA-256 that it lists. It is committed as a run commits one: filled beside the others,
synced, under the lock of its key, there with one rename.
"""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.store import disk, foreign, partial
from harness.store.manifest import LOG, MANIFEST, Manifest
from harness.store.objects import Store
from harness.store.packs import PackError
from harness.store.unpacking import Pack

Examine = Callable[[Manifest, Path], None]
"""Raises ValueError where an object, which lies in a folder, is none that others can read."""


@dataclass
class Merged:
    """The outcome of merging, key by key.

    `there`: objects that the store had; `other`: those that it has with other content, which stay.
    `refused`, with reasons: those that are not as their manifests say. `unfit`: those that were
    made from others than the store has; `busy`: those that a run is making.
    """

    added: list[str] = field(default_factory=list)
    completed: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    unfit: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)


def merge(pack: Pack, store: Store, examine: Examine) -> Merged:
    """Add to a store what it does not have. What is there stays as it is, but that files are added
    which were left out of it; what is damaged there is set aside, aloud.

    Each object is filled beside the store's, compared with its manifest, examined, and appears with
    one rename, under the lock of its key. Raises StoreError where the store cannot be written, and
    PackError where the pack's objects are made from each other in a circle.
    """
    merged = Merged()
    try:
        notes = dict(pack.incompatible())
    except ValueError as error:
        raise PackError(f"its notes are not as they should be: {error}") from error
    manifests = {}
    for key in pack.keys:
        try:
            manifests[key] = pack.manifest(key).only("files", "parents")
        except (ValueError, TypeError) as error:
            merged.refused[key] = str(error)
    for key in _upstream_first(manifests):
        with store.lock(key) as ours:
            if not ours:
                merged.busy.append(key)
                continue
            try:
                _merge_one(pack, store, key, examine, merged)
            except ValueError as error:
                merged.refused[key] = str(error)
    for key, note in notes.items():
        if store.failure(key) is None and store.manifest(key) is None:
            store.fail(key, note)
    return merged


def _upstream_first(manifests: Mapping[str, Manifest]) -> list[str]:
    """Return the keys of objects, each behind those that it was made from."""
    above = {}
    for key, manifest in manifests.items():
        parents = {parent["key"] for parent in manifest.parents.values()}
        above[key] = sorted(parents & manifests.keys())
    try:
        return list(graphlib.TopologicalSorter(above).static_order())
    except graphlib.CycleError as error:
        raise PackError("its objects are made from each other in a circle") from error


def _merge_one(pack: Pack, store: Store, key: str, examine: Examine, merged: Merged) -> None:
    """Add one object, or what the store lacks of it. Raises ValueError where it is refused."""
    manifest = pack.manifest(key)
    theirs = store.manifest(key)
    if theirs is None:
        parents = {parent["key"] for parent in manifest.parents.values()}
        if store.outdated(manifest) or parents.intersection(merged.unfit):
            merged.unfit.append(key)
            return
        _add(pack, store, manifest, examine)
        merged.added.append(key)
    elif theirs.digest != manifest.digest:
        merged.other.append(key)
    elif theirs.absent - manifest.absent:
        _complete(pack, store, manifest, theirs.absent, examine)
        merged.completed.append(key)
    else:
        if not theirs.absent:  # a completion may have been killed before its last step
            (store.folder(key) / partial.LEFT_OUT).unlink(missing_ok=True)
        merged.there.append(key)


def _add(pack: Pack, store: Store, manifest: Manifest, examine: Examine) -> None:
    key = manifest.key
    with disk.writing(store.root), store.workspace(key) as work:
        _fill(pack, manifest, manifest.files.keys() - manifest.absent, work, examine)
        if manifest.absent:
            partial.write(work, manifest.absent)
        if pack.has_log(key):
            pack.copy(key, LOG, work / LOG)
        disk.write(work / MANIFEST, foreign.again(manifest))
        for folder in (work, *(path for path in work.rglob("*") if path.is_dir())):
            disk.sync(folder)
        store.publish(manifest, work)
    store.clear_failure(key)
    store.checkpoints.drop(key)


def _complete(
    pack: Pack, store: Store, manifest: Manifest, absent: frozenset[str], examine: Examine
) -> None:
    """Add files to an object that was left without them. Each appears with one rename, and the
    object is what it was before, or more complete, at any time.
    """
    key = manifest.key
    folder = store.folder(key)
    with disk.writing(store.root), store.workspace(key) as work:
        names = absent - manifest.absent
        _fill(pack, manifest, names, work, examine)
        for name in sorted(names):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (work / name).rename(target)
            disk.sync(target.parent)
        left = absent - names
        if left:
            disk.replace(folder / partial.LEFT_OUT, partial.text(left), store.root / "tmp")
        else:
            (folder / partial.LEFT_OUT).unlink()


def _fill(
    pack: Pack, manifest: Manifest, names: Collection[str], work: Path, examine: Examine
) -> None:
    """Copy files of an object into the folder `work`. Raises ValueError where they are not those
    that the manifest describes.
    """
    for name in sorted(names):
        target = work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        size, checksum = pack.copy(manifest.key, name, target)
        entry = manifest.files[name]
        if size != entry["size"] or checksum != entry["sha256"]:
            raise ValueError(f"{name} is not what its {MANIFEST} describes, by size or SHA-256")
    examine(manifest, work)
