"""A confined process writes in its own folder only, and reaches nobody; others notice nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import landlockpy
import pytest

pytestmark = pytest.mark.skipif(not landlockpy.supported(), reason="the kernel confines no process")

PROGRAM = """
import os, pathlib, shutil, signal, socket, sys
from harness.stages.confine import confine

scratch, outside = map(pathlib.Path, sys.argv[1:])
(outside / "there").write_text("before")
opened = (outside / "opened").open("w")
assert confine(scratch)

def refused(what):
    try:
        what()
    except PermissionError:
        return
    raise SystemExit(f"line {what.__code__.co_firstlineno} was let through")

refused(lambda: (outside / "new").write_text("x"))
refused(lambda: (outside / "there").write_text("x"))
refused(lambda: (outside / "there").unlink())
refused(lambda: (outside / "folder").mkdir())
refused(lambda: (outside / "link").symlink_to(scratch))
refused(lambda: os.mkfifo(outside / "pipe"))
refused(lambda: shutil.move(scratch / "given", outside / "given"))
refused(lambda: socket.socket(socket.AF_UNIX).bind(str(outside / "socket")))
abi = int(os.environ["ABI"])
if abi >= 6:
    refused(lambda: os.kill(os.getppid(), signal.SIGCONT))
    refused(lambda: socket.socket(socket.AF_UNIX).connect("\\0" + os.environ["ABSTRACT"]))
if abi >= 4:
    refused(lambda: socket.create_connection(("127.0.0.1", 9)))
    refused(lambda: socket.create_server(("127.0.0.1", 0)))

assert (outside / "there").read_text() == "before"
opened.write("goes on")
opened.close()
pathlib.Path("/dev/null").write_text("x")
(scratch / "folder").mkdir()
(scratch / "folder" / "new").write_text("x")
(scratch / "folder" / "new").replace(scratch / "moved")
os.kill(os.getpid(), 0)
assert os.system("exit 0") == 0
"""


def test_a_confined_process_reaches_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "scratch" / "given").write_text("x")
    with socket.socket(socket.AF_UNIX) as listening:
        name = f"bench-confine-{tmp_path.name}"
        listening.bind(f"\0{name}")
        listening.listen()
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, tmp_path / "scratch", tmp_path / "outside"],
            env={"ABI": str(landlockpy.abi_version()), "ABSTRACT": name, "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outside" / "opened").read_text() == "goes on"
    (tmp_path / "outside" / "there").write_text("this process is free as before")
