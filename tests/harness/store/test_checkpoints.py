from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.store import checkpoints, disk
from harness.store.objects import DiskFull, Store

KEY = "ab" * 32
OTHER = "cd" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def keep(store: Store, folder: Path, text: str = "state", key: str = KEY) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "state.json").write_text(text)
    (folder / "0.safetensors").write_bytes(b"tensors" * 100)
    store.checkpoints.keep(
        key,
        disk.outputs(folder),
        spec={"stage": "victim"},
        code={"a.module": "r1"},
        parents={"data": (OTHER, "digest")},
        record={"place": "epoch 1 of 2", "seconds": 3.5},
    )


def test_what_is_kept_comes_back(store: Store, tmp_path: Path) -> None:
    assert store.checkpoints.manifest(KEY) is None
    assert store.checkpoints.fetch(KEY, tmp_path / "nothing") is None
    keep(store, tmp_path / "work")
    manifest = store.checkpoints.fetch(KEY, tmp_path / "back")
    assert manifest is not None
    assert manifest.record == {"place": "epoch 1 of 2", "seconds": 3.5}
    assert manifest.parents == {"data": {"key": OTHER, "digest": "digest"}}
    assert (tmp_path / "back" / "state.json").read_text() == "state"
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == sorted(manifest.files)
    assert store.checkpoints.held() == [KEY]


def test_there_is_one_for_each_key(store: Store, tmp_path: Path) -> None:
    for text in ("first", "second", "third"):
        keep(store, tmp_path / "work", text)
    keep(store, tmp_path / "work", "another's", OTHER)
    store.checkpoints.fetch(KEY, tmp_path / "back")
    assert (tmp_path / "back" / "state.json").read_text() == "third"
    assert len(list((store.root / "checkpoints" / KEY).iterdir())) == 1
    assert list((store.root / "tmp").iterdir()) == []
    assert store.checkpoints.held() == [KEY, OTHER]


def test_a_commit_removes_it(store: Store, tmp_path: Path) -> None:
    keep(store, tmp_path / "work")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.txt").write_text("done")
    store.commit(KEY, tmp_path / "out", spec={}, code={}, parents={}, record={})
    assert store.checkpoints.held() == []
    assert store.has(KEY)


def test_one_that_a_killed_run_left_beside_its_object_is_tidied_away(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.txt").write_text("done")
    store.commit(KEY, tmp_path / "out", spec={}, code={}, parents={}, record={})
    for key in (KEY, OTHER):
        keep(store, tmp_path / "work", key=key)
    store.tidy()
    assert store.checkpoints.held() == [OTHER]


HARMS: dict[str, Callable[[Path], object]] = {
    "altered": lambda at: (at / "0.safetensors").write_bytes(b"TENSORS" * 100),
    "cut off": lambda at: (at / "0.safetensors").write_bytes(b"tensors"),
    "gone": lambda at: (at / "state.json").unlink(),
    "a link": lambda at: (
        (at / "state.json").unlink(),
        (at / "state.json").symlink_to("/etc/passwd"),
    ),
    "no manifest": lambda at: (at / "manifest.json").unlink(),
    "manifest altered": lambda at: (at / "manifest.json").write_bytes(
        (at / "manifest.json").read_bytes().replace(b"3.5", b"3.6")
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_one_is_said_aloud_and_removed(
    harm: str, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep(store, tmp_path / "work")
    (place,) = (store.root / "checkpoints" / KEY).iterdir()
    HARMS[harm](place)
    with caplog.at_level(logging.WARNING):
        assert store.checkpoints.fetch(KEY, tmp_path / "back") is None
    assert f"checkpoint of {KEY} is damaged" in caplog.text
    assert not place.exists()
    assert not (tmp_path / "back").exists()
    keep(store, tmp_path / "work", "again")
    assert store.checkpoints.fetch(KEY, tmp_path / "back") is not None


def test_the_one_before_serves_where_the_newest_is_damaged(store: Store, tmp_path: Path) -> None:
    keep(store, tmp_path / "work")
    place = store.root / "checkpoints" / KEY / "2"
    place.mkdir()
    (place / "manifest.json").write_text("half of it")
    assert store.checkpoints.fetch(KEY, tmp_path / "back") is not None


def test_other_things_in_the_folder_break_nothing(store: Store, tmp_path: Path) -> None:
    keep(store, tmp_path / "work")
    folder = store.root / "checkpoints"
    (folder / "notes.txt").write_text("not ours")
    (folder / KEY / "old").mkdir()
    (folder / KEY / "-3").mkdir()
    (folder / OTHER).write_text("no folder")
    assert store.checkpoints.held() == [KEY, OTHER]
    assert store.checkpoints.manifest(KEY) is not None
    assert store.checkpoints.manifest(OTHER) is None


def test_a_full_disk_leaves_the_one_before(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(store, tmp_path / "work", "first")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "fill", full)
    with pytest.raises(DiskFull):
        keep(store, tmp_path / "work", "second")
    assert list((store.root / "tmp").iterdir()) == []
    store.checkpoints.fetch(KEY, tmp_path / "back")
    assert (tmp_path / "back" / "state.json").read_text() == "first"
