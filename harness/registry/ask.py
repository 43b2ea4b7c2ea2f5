"""Asking a child: the parent's side of `python -m harness.introspect`.

Plugin code is imported and run in children only. A child gets its questions in a file, answers each
on a line of another as soon as it knows, and is killed with all it started when it is done or too
slow.

A child that is killed by a signal, or too slow, need not have a broken plugin: memory may be short,
or the machine busy. So a question that stays without an answer is asked again, when nothing else is
asked, with more time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.environment import is_full
from harness.store import plain
from harness.store.scratch import short_lived

TIMEOUT = 60.0
"""Seconds that a child may take for all its questions."""

PATIENCE = 3
"""Times as long that a child may take which is asked again, alone."""

_REPLY = 1 << 28
"""Bytes of all answers of a child that are read."""
_TAIL = 4000
"""Bytes of what a silent child printed that are kept."""
_LONGEST = 500
"""Characters of a message that fit in a line."""
_MOMENT = 5.0
"""Seconds that a child may take to end what plugins have started."""
_AT_ONCE = 4
"""Children that run side by side."""

_PLACE = re.compile(r'File "([^"]+)", line (\d+)')
_NEEDS_NO_TYPE = frozenset({"timeout", "died", "problems", "PluginError"})
"""Types of trouble whose message says it all."""


_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trouble:
    """The reason why a question has no answer.

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
        """The message in one line."""
        message = " ".join(self.message.split())
        if len(message) > _LONGEST:
            message = message[: _LONGEST - 3] + "..."
        if not self.type or self.type in _NEEDS_NO_TYPE:
            return message
        return f"{self.type}: {message}".removesuffix(": ")

    @property
    def place(self) -> str:
        """The place where it was raised; of a silent child, the last line that it printed."""
        if self.silent:
            return self.traceback.rpartition("\n")[2]
        places: list[tuple[str, str]] = _PLACE.findall(self.traceback)
        if not places:
            return ""
        file, line = places[-1]
        return f"raised at {file}:{line}"

    @property
    def silent(self) -> bool:
        """True if the child was gone before it could answer."""
        return self.type in ("timeout", "died")


def ask(questions: Sequence[Mapping[str, Any]], timeout: float = TIMEOUT) -> list[Any]:
    """Answer each question (a JSON table with `op`) in one child: the answer, or a `Trouble`.

    If the child dies or takes longer than `timeout` seconds, what it left unanswered is asked again
    in a child each, so that one bad plugin does not spoil the others, and what stays unanswered
    once more, one after the other, with `PATIENCE` times as long.
    """
    if not questions:
        return []
    answers = _ask_child(questions, timeout, set())
    if len(questions) == 1:
        _ask_again_alone(questions, answers, PATIENCE * timeout)
        return answers
    unanswered = _silent(answers)
    second_answers = ask_apart([questions[number] for number in unanswered], timeout)
    for number, answer in zip(unanswered, second_answers, strict=True):
        answers[number] = answer
    return answers


def ask_apart(questions: Sequence[Mapping[str, Any]], timeout: float = TIMEOUT) -> list[Any]:
    """Do as `ask`, with a child for each question."""
    answers = _ask_side_by_side(questions, timeout)
    _ask_again_alone(questions, answers, PATIENCE * timeout)
    return answers


def _ask_side_by_side(questions: Sequence[Mapping[str, Any]], timeout: float) -> list[Any]:
    running: set[int] = set()

    def ask_one(question: Mapping[str, Any]) -> Any:
        (answer,) = _ask_child([question], timeout, running)
        return answer

    pool = ThreadPoolExecutor(max_workers=_AT_ONCE)
    try:
        return list(pool.map(ask_one, questions))
    except BaseException:
        # Ctrl-C must not wait for a child that hangs.
        pool.shutdown(wait=False, cancel_futures=True)
        for group in list(running):
            _kill(group)
        raise
    finally:
        pool.shutdown()


def _ask_again_alone(
    questions: Sequence[Mapping[str, Any]], answers: list[Any], timeout: float
) -> None:
    """Ask once more what stayed without an answer, one after the other.

    Where a module hangs even then, other questions about it are given up: each would take as long.
    """
    hangs = set()
    for number in _silent(answers):
        question = questions[number]
        module = question.get("module", question.get("target"))
        if answers[number].type == "timeout" and module in hangs:
            continue
        _log.warning(
            "%s: %s. It is asked again, alone, with %g s",
            module,
            answers[number].reason,
            timeout,
        )
        (answers[number],) = _ask_child([question], timeout, set())
        if _silent([answers[number]]) and answers[number].type == "timeout":
            hangs.add(module)


def _silent(answers: Sequence[Any]) -> list[int]:
    """Return the numbers of the questions that a child was gone before it could answer."""
    return [
        number
        for number, answer in enumerate(answers)
        if isinstance(answer, Trouble) and answer.silent
    ]


def read_reply(reply: Mapping[str, Any]) -> Any:
    """Return the answer that a reply of `harness.introspect` holds, or its `Trouble`."""
    if "ok" in reply:
        return reply["ok"]
    error = reply["error"]
    problems = []
    for path, wrong, hint in error.get("problems", ()):
        problems.append((tuple(path), wrong, hint))
    return Trouble(error["type"], error["message"], error.get("traceback", ""), tuple(problems))


def _ask_child(
    questions: Sequence[Mapping[str, Any]], timeout: float, running: set[int]
) -> list[Any]:
    """Ask one child, whose process group is in `running` as long as it lives. Raises OSError where
    it cannot be started, or has no room for its answers.
    """
    with short_lived("ask") as folder:
        (folder / "request.json").write_text(json.dumps(list(questions)), encoding="utf-8")
        status = _run(folder, timeout, running)
        answers = _read_replies(folder / "reply.jsonl")
        if len(answers) < len(questions) and status is not None and is_full(folder):
            # Nothing is wrong with the plugins: the child could not write what they answered.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        trouble = _why_silent(status, timeout, folder / "log.txt")
    return [answers.get(number, trouble) for number in range(len(questions))]


def _run(folder: Path, timeout: float, running: set[int]) -> int | None:
    """Return the child's exit status (negative: the signal that killed it), or None if its time was
    up.
    """
    command = [sys.executable, "-m", "harness.introspect"]
    command += [str(folder / "request.json"), str(folder / "reply.jsonl"), str(timeout)]
    with (folder / "log.txt").open("wb") as log:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=_child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        running.add(child.pid)
        try:
            return child.wait(timeout)
        except subprocess.TimeoutExpired:
            # It kills what has left its group, which takes a moment.
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_MOMENT)
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


def _child_environment() -> dict[str, str]:
    """Let the child find what this process finds, and no module by the accident of a working
    directory.
    """
    path = [str(Path(entry).absolute()) for entry in sys.path]
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path))
    environment["PYTHONSAFEPATH"] = "1"
    return environment


def _read_replies(file: Path) -> dict[int, Any]:
    """Read answers by the number of their question."""
    answers: dict[int, Any] = {}
    try:
        data = plain.content(file, _REPLY)
    except (OSError, ValueError):
        return answers
    for line in data.splitlines():
        # A line that the child had no time to finish is no answer, nor is what is no reply.
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            reply = json.loads(line)
            answers[reply["number"]] = read_reply(reply)
    return answers


def _why_silent(status: int | None, timeout: float, log: Path) -> Trouble:
    """Say why a child left questions unanswered; `status` as `_run` returns it."""
    tail = ""
    with contextlib.suppress(OSError, ValueError):
        tail = plain.clean(plain.tail(log, _TAIL).decode("utf-8", "replace").strip())
    if status is None:
        return Trouble("timeout", f"did not finish within {timeout:g} s", tail)
    if status >= 0:
        message = f"the process ended itself (exit status {status}) before it answered"
        return Trouble("died", message, tail)
    signal_name = f"signal {-status}"
    with contextlib.suppress(ValueError):
        signal_name = f"signal {-status} ({signal.Signals(-status).name})"
    return Trouble("died", f"the process was killed by {signal_name}", tail)
