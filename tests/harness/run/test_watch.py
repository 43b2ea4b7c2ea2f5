"""A stage that is to be alone has everything noted that it alters outside its own folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, pathlib, sys, tempfile
from harness.run.watch import watching

own, other, alone, deed = sys.argv[1:]
own, other = pathlib.Path(own), pathlib.Path(other)
os.chdir(own)
with watching([], own, alone=alone == "True"):
    exec(deed)
"""
DEEDS = {
    "written": "(other / 'new').write_text('x')",
    "appended": "(other / 'there').open('a').close()",
    "opened by number": "os.close(os.open(other / 'there', os.O_RDWR))",
    "dated": "os.utime(other / 'there', (1, 1))",
    "dated by number": "file = (other / 'there').open(); os.utime(file.fileno(), (1, 1))",
    "allowed": "(other / 'there').chmod(0o600)",
    "marked": "os.setxattr(other / 'there', 'user.note', b'x')",
    "made": "(other / 'folder').mkdir()",
    "renamed": "(other / 'there').rename(other / 'gone')",
    "linked": "os.link(other / 'there', own / 'there')",
    "removed": "(other / 'there').unlink()",
    "led to": "(other / 'link').symlink_to(own)",
}


def noted(tmp_path: Path, deed: str, *, alone: bool = True) -> list[str]:
    """Do something while a stage is watched; return what was noted of it."""
    own, other = tmp_path / "stages" / "own", tmp_path / "other"
    own.mkdir(parents=True)
    other.mkdir()
    (other / "there").write_text("before")
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, own, other, str(alone), deed], check=True
    )
    return (own / "trespasses.txt").read_text().splitlines()


@pytest.mark.parametrize("name", DEEDS)
def test_what_is_altered_elsewhere_is_noted(tmp_path: Path, name: str) -> None:
    told = noted(tmp_path, DEEDS[name])
    assert told
    for line in told:
        assert line.startswith(f"altered {tmp_path / 'other'}/")
        assert line.endswith(", outside its own folder, while a model was judged")


def test_not_of_other_stages(tmp_path: Path) -> None:
    assert noted(tmp_path, DEEDS["written"], alone=False) == []


def test_what_is_read_or_altered_in_its_own_folder_is_not_noted(tmp_path: Path) -> None:
    deed = """
(other / "there").read_text()
(own / "folder").mkdir()
(own / "folder" / "new").write_text("x")
(own / "folder" / "new").rename(own / "new")
pathlib.Path("new").chmod(0o600)
os.utime("new")
with open("/dev/null", "w") as file:
    file.write("x")
"""
    assert noted(tmp_path, deed) == []


def test_a_hundred_deeds_are_told_in_short(tmp_path: Path) -> None:
    deed = "\nfor number in range(100): (other / str(number)).touch()"
    assert 1 <= len(noted(tmp_path, deed)) <= 20
