"""Defenses that take too much, leave too much, or end in ways that nobody expects."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

from harness import Access, Defense


class Greedy(Defense):
    """Take, leave or break too much."""

    how: str = "flood"
    """in which way"""

    def defend(self, access: Access) -> object:
        getattr(self, "do_" + self.how.replace("-", "_"))(access)
        return access.victim()

    def do_flood(self, access):
        for _ in range(50):
            print("much ado about nothing " * 45_000)

    def do_offspring(self, access):
        """Leave processes behind, some in sessions of their own."""
        for number in range(20):
            command = [sys.executable, "-S", "-c", "import time; time.sleep(600)", "offspring"]
            subprocess.Popen(command, start_new_session=number % 2 == 0)

    def do_threads(self, access):
        for _ in range(50):
            threading.Thread(target=threading.Event().wait, daemon=True).start()

    def do_deaf(self, access):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def do_many_files(self, access):
        for number in range(10_001):
            (out(access) / f"{number}.txt").touch()

    def do_deep_folders(self, access):
        place = out(access)
        for _ in range(40):
            place = place / "deeper"
            place.mkdir()
        (place / "file").touch()

    def do_pipe(self, access):
        os.mkfifo(out(access) / "pipe")

    def do_strange_file(self, access):
        (out(access) / "two\nlines.txt").write_text("x")

    def do_bytes_file(self, access):
        Path(os.fsdecode(os.fsencode(out(access)) + b"/\xff\xfe")).write_text("x")

    def do_no_scratch(self, access):
        shutil.rmtree(access.scratch.parent)

    def do_no_rights(self, access):
        for folder in (out(access), access.scratch):
            folder.chmod(0)

    def do_closed(self, access):
        os.closerange(0, 256)

    def do_open_files(self, access):
        self._kept.extend(os.open("/dev/null", os.O_RDONLY) for _ in range(100))
        while True:
            self._kept.append(os.open("/dev/null", os.O_RDONLY))

    def do_memory(self, access):
        bytearray(1 << 46)

    def do_recursion(self, access):
        self.do_recursion(access)

    def do_system_exit(self, access):
        raise SystemExit(0)

    def do_interrupt(self, access):
        raise KeyboardInterrupt

    def do_segfault(self, access):
        ctypes.string_at(0)

    def do_kill_group(self, access):
        os.killpg(0, signal.SIGKILL)

    def do_lies(self, access):
        record = {"status": "ok", "images": -1, "seconds": "none", "environment": 3, "opened": 1}
        (access.scratch.parent / "record.json").write_text(json.dumps(record))
        os._exit(0)

    def do_long_record(self, access):
        (access.scratch.parent / "record.json").write_bytes(b"[" * (1 << 20))
        os._exit(0)

    def do_other_task(self, access):
        (access.scratch.parent / "task.json").write_text("{}")
        (access.scratch.parent / "log.txt").unlink()
        os.mkfifo(access.scratch.parent / "log.txt")

    _kept: list = []  # noqa: RUF012 - nobody shares it


def out(access: Access) -> Path:
    """Return the folder of what the stage leaves."""
    return access.scratch.parent / "out"
