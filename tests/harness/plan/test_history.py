"""What stored objects tell of stages like theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.keys import digest
from harness.plan.history import PastStages
from harness.stages.stage import Stage, StageSources, make
from harness.store.objects import Store
from tests.kit.payloads import AnyPayload
from tests.kit.reports import resolved


def stage(epochs: int, seed: int = 0, kind: str = "defend") -> Stage:
    component = resolved("defense", "ft", {"epochs": epochs}).key_entry
    coordinates = {"replicate": seed, "dataset": "signs"}
    told = {"component": component, "context": {"coordinates": coordinates}}
    return make("", AnyPayload(kind, told), StageSources({}, ""), inputs=())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a.bin").write_bytes(b"a")
    for epochs, seconds in ((1, 1.0), (1, 3.0), (5, 10.0)):
        made = stage(epochs, int(seconds))
        record = {"seconds": seconds}
        store.commit(
            made.key, tmp_path / "work", spec=made.spec, code={}, parents={}, record=record
        )
    return store


def test_the_likest_say_how_long_it_takes(store: Store) -> None:
    history = PastStages(store)
    assert history.expected(stage(1)) == 2.0  # of the same settings, whatever the seed
    assert history.expected(stage(7)) == pytest.approx(14 / 3)  # of the same component
    assert history.expected(stage(1, kind="victim")) is None


@pytest.mark.parametrize(("kept", "left"), [(0.5, 1.5), (60.0, 0.0)])
def test_what_is_kept_need_not_be_done_again(
    kept: float, left: float, store: Store, tmp_path: Path
) -> None:
    store.checkpoints.keep(
        stage(1).key,
        {"a.bin": tmp_path / "work" / "a.bin"},
        spec={},
        code={},
        parents={},
        record={"seconds": kept},
    )
    history = PastStages(store)
    assert history.expected(stage(1)) == left
    assert history.expected(stage(1, 4)) == 2.0


def test_a_part_of_a_large_store_is_enough_for_an_estimate(store: Store) -> None:
    first, *_ = store.keys()
    only = store.manifest(first)
    assert only is not None
    assert PastStages(store, 1).expected(stage(7)) == only.record["seconds"]


def test_the_nearest_differs_least(store: Store) -> None:
    assert (found := PastStages(store, None).nearest(stage(5, 10))) is not None
    assert found.key == digest(stage(5, 10).spec)
    assert (near := PastStages(store, None).nearest(stage(6, 10))) is not None
    assert near.spec["component"]["params"] == {"epochs": 5}
