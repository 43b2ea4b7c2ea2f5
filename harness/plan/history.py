"""What the store's manifests tell of stages like those of a plan: how long they took, and how close
they come.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Hashable, Iterator, Mapping
from functools import partial
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING, Any

from harness.keys import digest

if TYPE_CHECKING:
    from harness.stages import Stage
    from harness.store.manifest import Manifest
    from harness.store.objects import Store

SAMPLE = 4000
"""Objects that are looked at for the sake of an estimate. Keys are digests, so the first of them
are a fair sample.
"""
_CANDIDATES = 500
"""Stored objects that a stage is compared with at most."""

Spec = Mapping[str, Any]


class History:
    """Objects of a store, by what they are: `most` of them, None for all. Reads the manifest of
    each.
    """

    def __init__(self, store: Store, most: int | None = SAMPLE) -> None:
        self._store = store
        self._seconds: dict[Hashable, list[float]] = defaultdict(list)
        self._alike: dict[Hashable, deque[str]] = defaultdict(partial(deque, maxlen=_CANDIDATES))
        for key in islice(store.keys(), most):
            manifest = store.manifest(key)
            if manifest is None or "stage" not in manifest.spec:
                continue
            seconds = manifest.record.get("seconds")
            for likeness in _likenesses(manifest.spec):
                if isinstance(seconds, int | float):
                    self._seconds[likeness].append(seconds)
            for name in (_names(manifest.spec), manifest.spec["stage"]):
                self._alike[name].append(key)

    def expected(self, stage: Stage) -> float | None:
        """Seconds that `stage` may take: the mean of the stored ones most like it. None if none is
        of its kind.
        """
        if stage.kind not in self._seconds:
            return None
        lengths = (self._seconds.get(likeness) for likeness in _likenesses(stage.spec))
        return next((fmean(seconds) for seconds in lengths if seconds), None)

    def nearest(self, stage: Stage) -> Manifest | None:
        """The stored object of the same kind whose spec differs least; of the same components if
        there is one.
        """
        keys = self._alike.get(_names(stage.spec)) or self._alike.get(stage.kind) or ()
        found = (manifest for key in keys if (manifest := self._store.manifest(key)) is not None)
        mine = flat(stage.spec)

        def distance(manifest: Manifest) -> tuple[bool, int, str]:
            theirs = flat(manifest.spec)
            apart = sum(mine.get(name) != theirs.get(name) for name in mine.keys() | theirs.keys())
            return manifest.spec.get("seed") != stage.spec.get("seed"), apart, manifest.key

        return min(found, key=distance, default=None)


def differences(stage: Stage, manifest: Manifest) -> Iterator[str]:
    """What a stage has otherwise than a stored object, an entry a line; sources by module."""
    mine, theirs = flat(stage.spec), flat(manifest.spec)
    for name in sorted(mine.keys() | theirs.keys()):
        if name == "code" or mine.get(name) == theirs.get(name):
            continue
        if name.startswith("inputs."):
            yield f"{name}: another object"
        else:
            yield f"{name}: {_told(mine, name)} here, {_told(theirs, name)} there"
    for module in sorted(stage.code.keys() | manifest.code.keys()):
        here, there = (code.get(module, "not a source") for code in (stage.code, manifest.code))
        if here != there:
            yield f"source {module}: {here} here, {there} there"


def flat(spec: Spec, above: str = "") -> dict[str, Any]:
    """A nested table by dotted names; lists are values."""
    found: dict[str, Any] = {}
    for name, value in spec.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{above}{name}.")
        else:
            found[above + name] = list(value) if isinstance(value, tuple) else value
    return found


def _likenesses(spec: Spec) -> list[Hashable]:
    """From equal but for seed, inputs and sources to merely of one kind."""
    names, dataset = _names(spec), (spec.get("seed") or {}).get("dataset")
    settings = {name: spec.get(name) for name in ("stage", "components", "choices")}
    return [(digest(settings), dataset), (names, dataset), names, spec["stage"]]


def _names(spec: Spec) -> Hashable:
    components = spec.get("components", {})
    return spec["stage"], *sorted(
        (role, component["name"]) for role, component in components.items()
    )


def _told(entries: Mapping[str, Any], name: str) -> str:
    return json.dumps(entries[name], ensure_ascii=False) if name in entries else "nothing"
