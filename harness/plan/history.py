"""Stages of the past, after the store's manifests: how long they took, and how close they come to
those of a plan.
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
    from harness.stages.stage import Stage
    from harness.store.manifest import Manifest
    from harness.store.objects import Store

SAMPLE = 4000
"""Objects that are looked at for the sake of an estimate. Keys are digests, so the first of them
are a fair sample.
"""
_CANDIDATES = 500
"""Stored objects that a stage is compared with at most."""

Spec = Mapping[str, Any]


class PastStages:
    """Objects of a store, by what they are: `most` of them, None for all. Reads the manifest of
    each.
    """

    def __init__(self, store: Store, most: int | None = SAMPLE) -> None:
        self._store = store
        self._kept = store.checkpoints.seconds()
        self._seconds: dict[Hashable, list[float]] = defaultdict(list)
        self._alike: dict[Hashable, deque[str]] = defaultdict(partial(deque, maxlen=_CANDIDATES))
        for key in islice(store.keys(), most):
            manifest = store.manifest(key)
            if manifest is not None and "stage" in manifest.spec:
                self._note(key, manifest)

    def _note(self, key: str, manifest: Manifest) -> None:
        spec = manifest.spec
        seconds = manifest.record.get("seconds")
        if isinstance(seconds, int | float):
            for likeness in _likenesses(spec):
                self._seconds[likeness].append(seconds)
        self._alike[_names(spec)].append(key)
        self._alike[spec["stage"]].append(key)

    def expected(self, stage: Stage) -> float | None:
        """Return the seconds that `stage` may take: the mean of the stored ones most like it, less
        what is kept of it. None if none is of its kind.
        """
        if stage.kind not in self._seconds:
            return None
        for likeness in _likenesses(stage.spec):
            seconds = self._seconds.get(likeness)
            if seconds:
                return max(0.0, fmean(seconds) - self._kept.get(stage.key, 0.0))
        return None

    def nearest(self, stage: Stage) -> Manifest | None:
        """Return the stored object of the same kind whose spec differs least; of the same
        components if there is one.
        """
        keys = self._alike.get(_names(stage.spec)) or self._alike.get(stage.kind) or ()
        mine = flat(stage.spec)

        def distance(manifest: Manifest) -> tuple[bool, int, str]:
            theirs = flat(manifest.spec)
            names = mine.keys() | theirs.keys()
            differing = sum(mine.get(name) != theirs.get(name) for name in names)
            other_seed = _coordinates(manifest.spec) != _coordinates(stage.spec)
            return other_seed, differing, manifest.key

        candidates = []
        for key in keys:
            manifest = self._store.manifest(key)
            if manifest is not None:
                candidates.append(manifest)
        return min(candidates, key=distance, default=None)


def differences(stage: Stage, manifest: Manifest) -> Iterator[str]:
    """Say in what a stage differs from a stored object, one line for each entry; sources by
    module.
    """
    mine = flat(stage.spec)
    theirs = flat(manifest.spec)
    for name in sorted(mine.keys() | theirs.keys()):
        if name == "code" or mine.get(name) == theirs.get(name):
            continue
        if name.startswith("inputs."):
            yield f"{name}: another object"
        else:
            yield f"{name}: {_value(mine, name)} here, {_value(theirs, name)} there"
    for module in sorted(stage.code.keys() | manifest.code.keys()):
        here = stage.code.get(module, "not a source")
        there = manifest.code.get(module, "not a source")
        if here != there:
            yield f"source {module}: {here} here, {there} there"


def flat(spec: Spec, above: str = "") -> dict[str, Any]:
    """Return a nested table by dotted names; lists are values."""
    entries: dict[str, Any] = {}
    for name, value in spec.items():
        if isinstance(value, Mapping) and value:
            entries |= flat(value, f"{above}{name}.")
        elif isinstance(value, tuple):
            entries[above + name] = list(value)
        else:
            entries[above + name] = value
    return entries


def _likenesses(spec: Spec) -> list[Hashable]:
    """Return descriptions of a stage, from equal but for seed, inputs and sources to merely of one
    kind.
    """
    names = _names(spec)
    dataset = _coordinates(spec).get("dataset")
    settings = {}
    for name, value in spec.items():
        if name == "context":
            settings[name] = {key: value[key] for key in value if key != "coordinates"}
        elif name not in ("schema", "inputs", "code", "coordinates"):
            settings[name] = value
    return [(digest(settings), dataset), (names, dataset), names, spec["stage"]]


def _coordinates(spec: Spec) -> Mapping[str, Any]:
    """Return the coordinates of a stage's draws; none for a stage that draws nothing."""
    context = spec.get("context") or spec
    coordinates: Mapping[str, Any] = context.get("coordinates") or {}
    return coordinates


def _names(spec: Spec) -> Hashable:
    """Return the names of a stage's kind, its component and its model, or of its metrics."""
    components = [spec.get("component"), (spec.get("context") or {}).get("model")]
    components += (spec.get("metrics") or {}).values()
    return spec["stage"], *[component["name"] for component in components if component]


def _value(entries: Mapping[str, Any], name: str) -> str:
    if name not in entries:
        return "nothing"
    return json.dumps(entries[name], ensure_ascii=False)
