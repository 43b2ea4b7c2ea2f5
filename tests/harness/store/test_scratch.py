from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness.store import scratch
from harness.store.scratch import Scratch, short_lived


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


RUN = "from harness.store.scratch import Scratch; s = Scratch(); print(s.base, flush=True); input()"
WORK = """
from harness.store.scratch import short_lived
with short_lived("ask") as folder:
    print(folder.parent, flush=True)
    input()
"""


@pytest.mark.parametrize("script", [RUN, WORK])
def test_scratch_of_the_dead_is_removed_and_of_the_living_is_not(
    temporary: Path, script: str
) -> None:
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        base = Path(process.stdout.readline().strip())
        (base / "stage").mkdir()
        scratch.sweep()
        assert base.is_dir()
        process.kill()
        process.wait()
        scratch.sweep()
        assert not base.exists()


def test_foreign_folders_are_left_alone(temporary: Path) -> None:
    other = temporary / "doorbench-of-somebody"
    other.mkdir()
    (temporary / f"doorbench-{os.getuid()}-link").symlink_to(other)
    scratch.sweep()
    assert other.is_dir()
    assert len(list(temporary.iterdir())) == 2


def test_a_stage_cannot_keep_its_folder_by_taking_rights_away(temporary: Path) -> None:
    base = Scratch()
    with base.folder("a" * 64) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("x")
        (folder / "deep").chmod(0)
        assert folder.parent == base.base
    assert not folder.exists()
    base.close()
    assert list(temporary.iterdir()) == []


def test_a_piece_of_work_leaves_nothing(temporary: Path) -> None:
    with short_lived("ask") as folder:
        (folder / "file").write_text("x")
    assert list(temporary.iterdir()) == []
