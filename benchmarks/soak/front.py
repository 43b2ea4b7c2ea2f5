"""`bench` in forks of one process that has everything imported: the real front door, hundreds of
times a minute.

Questions about plugins are answered in forks, too, by the function that their child calls. The rest
is what `bench` does: its own `main`, its own exit code.
"""

from __future__ import annotations

import os
import resource
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

PROCESSOR = 60
"""Seconds of processor time after which a command counts as endless."""
PATIENCE = 240
"""Seconds that it may take on a machine that may be busy."""
MEMORY = 3 << 30
"""Bytes of address space that it may take beyond what it starts with."""
CRASHED = 99
"""Exit code of a command that raised: `main` never should."""


@dataclass(frozen=True)
class Answer:
    """What a command said and took. `code` is negative for a signal; `memory` in bytes."""

    code: int
    said: str
    seconds: float
    memory: int


def bench(words: Sequence[object], env: Mapping[str, str], folder: Path, site: Path) -> Answer:
    """Run one command in a fork, with `folder` to work in and what is installed in `site`."""
    _import_everything()
    output = folder / "said.txt"
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _be(list(map(str, words)), env, folder, site, output)
    killed = False
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        if not killed and time.monotonic() - began > PATIENCE:
            killed = True
            os.kill(pid, 9)
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    said = output.read_text("utf-8", "replace")
    return Answer(code, said, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def _import_everything() -> None:
    """Import what commands and children that are asked import, once."""
    if "harness.introspect.behaviour" in sys.modules:
        return
    import importlib

    for name in (
        "torch",
        "plugins",
        "harness.introspect.__main__",
        "harness.introspect.behaviour",
        "harness.introspect.describe",
        "harness.introspect.parameters",
        "harness.introspect.register",
        "harness.plan.plan",
        "harness.registry.resolve",
        "harness.cli.plan",
        "harness.cli.report",
        "harness.cli.status",
    ):
        importlib.import_module(name)


def _be(
    words: list[str], env: Mapping[str, str], folder: Path, site: Path, output: Path
) -> NoReturn:
    """Be the command."""
    code = CRASHED
    try:
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for number in (1, 2):
            os.dup2(handle, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(folder)
        sys.path.insert(0, str(site))
        import tempfile

        tempfile.tempdir = None  # another folder than before
        resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR, PROCESSOR))
        space = _address_space() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        from harness import cli
        from harness.registry import ask

        ask._run = _ask_fork
        code = cli.main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    return pages * resource.getpagesize()


def _ask_fork(folder: Path, timeout: float, running: set[int]) -> int | None:
    """Stand in for `harness.registry.ask._run`: a fork answers instead of a new process."""
    pid = os.fork()
    if pid == 0:
        try:
            handle = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT, 0o644)
            for number in (1, 2):
                os.dup2(handle, number)
            os.chdir(folder)
            from harness.introspect.__main__ import main

            main([str(folder / "request.json"), str(folder / "reply.jsonl"), str(timeout)])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
