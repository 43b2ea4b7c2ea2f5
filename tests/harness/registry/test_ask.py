from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.registry import ask
from harness.registry.ask import Trouble

LATE = Trouble("timeout", "did not finish within 1 s")
KILLED = Trouble("died", "the process was killed by signal 9 (SIGKILL)")


class Machine:
    """Children that a test plays: `fate` says what becomes of a question at each of its tries."""

    def __init__(self, fate: Mapping[str, Sequence[Any]]) -> None:
        self.fate = fate
        self.tries: dict[str, int] = {}
        self.asked: list[tuple[list[str], float]] = []

    def ask_child(
        self, questions: Sequence[Mapping[str, Any]], timeout: float, running: set[int]
    ) -> list[Any]:
        names = [question["target"] for question in questions]
        self.asked.append((names, timeout))
        answers: list[Any] = []
        for name in names:
            number = self.tries.get(name, 0)
            self.tries[name] = number + 1
            fates = self.fate.get(name, ["fine"])
            answers.append(fates[min(number, len(fates) - 1)])
        return answers


def play(monkeypatch: pytest.MonkeyPatch, **fate: Sequence[Any]) -> Machine:
    machine = Machine(fate)
    monkeypatch.setattr(ask, "_ask_child", machine.ask_child)
    return machine


def questions(*targets: str) -> list[dict[str, str]]:
    return [{"op": "resolve", "target": target} for target in targets]


@pytest.mark.parametrize("mishap", [LATE, KILLED])
def test_one_mishap_costs_no_answer(monkeypatch: pytest.MonkeyPatch, mishap: Trouble) -> None:
    machine = play(monkeypatch, a=[mishap, "late but right"])
    assert ask.ask(questions("a", "b"), 1) == ["late but right", "fine"]
    assert machine.asked == [(["a", "b"], 1), (["a"], 1)]


@pytest.mark.parametrize("mishap", [LATE, KILLED])
def test_what_stays_silent_is_asked_alone_with_more_time(
    monkeypatch: pytest.MonkeyPatch, mishap: Trouble
) -> None:
    machine = play(monkeypatch, a=[mishap, mishap, "at last"], b=[mishap, mishap, "too"])
    assert ask.ask(questions("a", "b"), 1) == ["at last", "too"]
    assert machine.asked[-2:] == [(["a"], 3), (["b"], 3)]


def test_a_single_question_is_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = play(monkeypatch, a=[LATE])
    assert ask.ask(questions("a"), 1) == [LATE]
    assert machine.asked == [(["a"], 1), (["a"], 3)]


def test_of_a_module_that_hangs_one_question_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = play(monkeypatch, a=[LATE], b=[KILLED])
    answers = ask.ask_apart(questions("a", "a", "a", "b", "b"), 1)
    assert answers == [LATE, LATE, LATE, KILLED, KILLED]
    assert [names for names, timeout in machine.asked if timeout == 3] == [["a"], ["b"], ["b"]]


def test_a_child_works_where_later_commands_clean_up_after_dead_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A command that is killed while it asks removes nothing itself."""
    places = []

    def run(folder: Path, timeout: float, running: set[int]) -> int:
        places.append(folder)
        return 0

    monkeypatch.setattr(ask, "_run", run)
    ask.ask(questions("a"), 1)
    for place in places:
        assert place.parent.name.startswith(f"doorbench-{os.getuid()}-{os.getpid()}-")
        assert not place.parent.exists()
    assert len(places) == 2
