"""Asking a child: the parent's side of `python -m harness.introspect`.

Plugin code is imported and run in children only. A child gets its questions in a file, answers each
on a line of another as soon as it knows, and is killed with all it started when it is done or too
slow.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT = 60.0
"""Seconds that a child may take for all its questions."""

_TAIL = 4000
_LONGEST = 500
_AT_ONCE = 4


@dataclass(frozen=True)
class Trouble:
    """Why a question has no answer.

    `type` is the exception's class name, or `timeout`, or `died`; `traceback` the traceback, or the
    tail of what the child printed; `problems` pairs parameter paths with (what is wrong, what would
    be right).
    """

    type: str
    message: str
    traceback: str = ""
    problems: tuple[tuple[tuple[str | int, ...], str, str], ...] = ()

    @property
    def reason(self) -> str:
        """One line."""
        message = " ".join(self.message.split())
        message = message if len(message) <= _LONGEST else message[: _LONGEST - 3] + "..."
        return (
            message
            if self.type in _SPOKEN or not self.type
            else f"{self.type}: {message}".removesuffix(": ")
        )

    @property
    def place(self) -> str:
        """Where it was raised; of a child that said nothing, the last line that it printed."""
        if self.silent:
            return self.traceback.rpartition("\n")[2]
        places: list[tuple[str, str]] = _PLACE.findall(self.traceback)
        return f"raised at {places[-1][0]}:{places[-1][1]}" if places else ""

    @property
    def silent(self) -> bool:
        """Whether the child was gone before it could answer."""
        return self.type in ("timeout", "died")


_PLACE = re.compile(r'File "([^"]+)", line (\d+)')
_SPOKEN = frozenset({"timeout", "died", "problems", "PluginError"})


def ask(questions: Sequence[Mapping[str, Any]], timeout: float = TIMEOUT) -> list[Any]:
    """Answer each question (a JSON table with `op`) in one child: the answer, or a `Trouble`.

    If the child dies or takes longer than `timeout` seconds, what it left unanswered is asked again
    in a child each, so that one bad plugin does not spoil the others.
    """
    if not questions:
        return []
    answers = _ask_child(questions, timeout)
    left = [
        number
        for number, answer in enumerate(answers)
        if isinstance(answer, Trouble) and answer.silent
    ]
    if not left or len(questions) == 1:
        return answers
    for number, answer in zip(
        left, ask_apart([questions[number] for number in left], timeout), strict=True
    ):
        answers[number] = answer
    return answers


def ask_apart(questions: Sequence[Mapping[str, Any]], timeout: float = TIMEOUT) -> list[Any]:
    """As `ask`, with a child for each question."""
    running: set[int] = set()
    pool = ThreadPoolExecutor(max_workers=_AT_ONCE)
    try:
        return list(
            pool.map(lambda question: _ask_child([question], timeout, running)[0], questions)
        )
    except BaseException:
        # Ctrl-C must not wait for a child that hangs.
        pool.shutdown(wait=False, cancel_futures=True)
        for group in list(running):
            _kill(group)
        raise
    finally:
        pool.shutdown()


def _ask_child(
    questions: Sequence[Mapping[str, Any]], timeout: float, running: set[int] | None = None
) -> list[Any]:
    with tempfile.TemporaryDirectory(prefix="doorbench-ask-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps(list(questions)), encoding="utf-8")
        end = _run(folder, timeout, set() if running is None else running)
        answers = _read(folder / "reply.jsonl")
        silent = _silence(end, timeout, folder / "log.txt")
    return [answers.get(number, silent) for number in range(len(questions))]


def _run(folder: Path, timeout: float, running: set[int]) -> int | None:
    """The child's exit status (negative: the signal that killed it), or None if its time was up."""
    command = [
        sys.executable,
        "-m",
        "harness.introspect",
        str(folder / "request.json"),
        str(folder / "reply.jsonl"),
    ]
    with (folder / "log.txt").open("wb") as log:
        child = subprocess.Popen(
            [*command, str(timeout)],
            cwd=folder,
            env=_surroundings(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        running.add(child.pid)
        try:
            return child.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            # Its whole group, so that nothing it started outlives it; Ctrl-C of the terminal does
            # not reach the group.
            _kill(child.pid)
            running.discard(child.pid)
            child.wait()


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _surroundings() -> dict[str, str]:
    """The child finds what this process finds, and no module by the accident of a working
    directory.
    """
    path = [str(Path(entry).absolute()) for entry in sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)), "PYTHONSAFEPATH": "1"}


def _read(file: Path) -> dict[int, Any]:
    answers: dict[int, Any] = {}
    with contextlib.suppress(OSError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            # A line that the child had no time to finish is no answer.
            with contextlib.suppress(ValueError, KeyError, TypeError):
                reply = json.loads(line)
                answers[reply["number"]] = (
                    reply["ok"] if "ok" in reply else _trouble(reply["error"])
                )
    return answers


def _trouble(error: Mapping[str, Any]) -> Trouble:
    problems = tuple((tuple(path), what, hint) for path, what, hint in error.get("problems", ()))
    return Trouble(error["type"], error["message"], error.get("traceback", ""), problems)


def _silence(end: int | None, timeout: float, log: Path) -> Trouble:
    tail = ""
    with contextlib.suppress(OSError):
        tail = log.read_bytes()[-_TAIL:].decode("utf-8", "replace").strip()
    if end is None:
        return Trouble("timeout", f"did not finish within {timeout:g} s", tail)
    if end < 0:
        with contextlib.suppress(ValueError):
            return Trouble(
                "died",
                f"the process was killed by signal {-end} ({signal.Signals(-end).name})",
                tail,
            )
        return Trouble("died", f"the process was killed by signal {-end}", tail)
    return Trouble("died", f"the process ended itself (exit status {end}) before it answered", tail)
