"""Files behind parameters: whatever changes in them is noticed, whatever their times and sizes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.components import load_component
from harness.components.spec import ComponentSpec
from harness.environment import file_state
from harness.introspect import files
from harness.registry.discovery import discover
from harness.registry.memo import Memo
from harness.registry.resolve import Resolver
from harness.registry.resolved import Request, Resolved

LONG_AGO = 1_600_000_000_000_000_000


def aged(path: Path, seconds: float = 0.05) -> Path:
    """Wait until a later change must bear another time."""
    time.sleep(seconds)
    return path


def overwritten(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def replaced(path: Path, content: bytes) -> None:
    other = path.with_name("other")
    other.write_bytes(content)
    other.replace(path)


def linked(path: Path, content: bytes) -> None:
    other = path.with_name("other")
    other.write_bytes(content)
    path.unlink()
    path.symlink_to(other)


def by_memory(path: Path, content: bytes) -> None:
    mapped = np.memmap(path, np.uint8, "r+")
    mapped[:] = np.frombuffer(content, np.uint8)
    mapped.flush()
    del mapped


@pytest.mark.parametrize("change", [overwritten, replaced, linked, by_memory])
def test_another_content_is_seen_under_the_same_size_and_time(
    change: Callable[[Path, bytes], None], tmp_path: Path
) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"before")
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    state = file_state(aged(path))
    change(path, b"after.")
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    assert path.stat().st_size == 6
    assert path.stat().st_mtime_ns == LONG_AGO
    assert file_state(path) != state


def test_the_state_is_the_one_before_a_file_was_read(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("before")
    state = file_state(aged(path))
    with files.opened() as states:
        path.read_text()
        path.write_text("meanwhile")
        path.read_text()
    assert states[str(path)] == state != file_state(path)


def test_what_has_just_been_written_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("new")
    with files.opened() as states:
        path.read_text()
    assert states == {str(path): None}


def test_a_place_that_was_empty_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beside the grid goes before one in $BENCH_DATA, also if it comes later."""
    data = tmp_path / "data"
    grid = tmp_path / "grid"
    grid.mkdir()
    (data / "folder").mkdir(parents=True)
    (data / "file").write_text("far")
    monkeypatch.setenv("BENCH_DATA", str(data))
    with files.opened() as states:
        assert files.locate("path", Path("file"), grid) == data / "file"
        assert files.locate_folder(Path("folder"), grid) == data / "folder"
    assert states[str(grid / "file")] is None
    assert states[str(grid / "folder")] is None
    (grid / "file").write_text("near")
    assert file_state(grid / "file") is not None


# --- remembered answers ---------------------------------------------------------------------------


def npz(path: Path, level: int) -> None:
    images = np.full((6, 4, 4, 3), level, np.uint8)
    labels = np.arange(6) % 3
    np.savez(path, train_images=images, train_labels=labels)


def resolved(folder: Path) -> Resolved:
    """As a command of its own asks; answers are remembered in the folder."""
    memo = Memo(folder / "memo")
    request = Request("dataset", "npz", params={"path": "data.npz"}, base=folder)
    (answer,) = Resolver(discover(memo), memo=memo).resolve_all([request])
    assert isinstance(answer, Resolved), answer
    return answer


def test_an_archive_with_other_pictures_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    npz(path, 1 + 100)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    before = resolved(tmp_path)
    assert before.body.files == {str(path): before.identity["path"]["sha256"]}
    aged(path)
    npz(path, 200)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    after = resolved(tmp_path)
    assert before.facts.fingerprint != after.facts.fingerprint
    assert before.identity != after.identity


def test_a_folder_with_another_picture_is_asked_again(tmp_path: Path) -> None:
    from PIL import Image

    root = tmp_path / "set"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (4, 4), (9, 9, 9)).save(root / name / "0.bmp")
        os.utime(root / name / "0.bmp", ns=(LONG_AGO, LONG_AGO))
    memo = Memo(tmp_path / "memo")
    request = Request("dataset", "folder", params={"path": "set"}, base=tmp_path)
    (before,) = Resolver(discover(memo), memo=memo).resolve_all([request])
    aged(root)
    Image.new("RGB", (4, 4), (7, 7, 7)).save(root / "b/0.bmp")
    os.utime(root / "b/0.bmp", ns=(LONG_AGO, LONG_AGO))
    (after,) = Resolver(discover(memo), memo=memo).resolve_all([request])
    assert isinstance(before, Resolved)
    assert isinstance(after, Resolved)
    assert before.facts.fingerprint != after.facts.fingerprint


# --- at work --------------------------------------------------------------------------------------


def test_a_file_is_verified_by_content_when_a_stage_builds_the_component(tmp_path: Path) -> None:
    npz(tmp_path / "data.npz", 101)
    spec = resolved(tmp_path).body
    load_component(spec)
    shutil.copy(tmp_path / "data.npz", tmp_path / "copy.npz")
    npz(tmp_path / "data.npz", 200)
    with pytest.raises(ValueError, match=r"data\.npz changed after it was planned with; run it"):
        load_component(spec)
    shutil.copy(tmp_path / "copy.npz", tmp_path / "data.npz")
    load_component(spec)


def test_files_of_an_attack_in_place_and_of_lists_are_verified_too() -> None:
    params = {
        "many": ["/a", "/b"],
        "attack": {
            "component": {"kind": "attack", "name": "n", "params": {"mask": "/c", "x": "y"}}
        },
        "plain": "/d",
    }
    identity = {
        "many": [{"sha256": "1"}, {"sha256": "2"}],
        "attack": {"kind": "attack", "name": "n", "params": {"mask": {"sha256": "3"}, "x": "y"}},
        "plain": "/d",
    }
    from harness.registry.resolved import _files

    assert dict(_files(params, identity)) == {"/a": "1", "/b": "2", "/c": "3"}
    assert ComponentSpec("m:C").files == {}
