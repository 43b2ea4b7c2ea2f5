"""Questions about components answered by one child for many tests, where commands start one each
(and torch in it).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from harness.registry.ask import read_reply
from tests.kit.places import ROOT

ANSWERS = """
import json, sys
from harness.introspect.__main__ import answer
for line in sys.stdin:
    print(json.dumps([answer(question) for question in json.loads(line)]), flush=True)
"""


@contextmanager
def answering(*path: object) -> Iterator[None]:
    """Let `harness.registry.resolve` ask a child that stays, and that finds the modules in the
    folders `path`.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *map(str, path)])}
    command = [sys.executable, "-P", "-c", ANSWERS]
    child = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, cwd=ROOT, env=environment)
    assert child.stdin is not None
    assert child.stdout is not None
    asking, answers = child.stdin, child.stdout

    def ask(questions: Sequence[Mapping[str, Any]], timeout: float = 0) -> list[Any]:
        if not questions:
            return []
        print(json.dumps(list(questions)), file=asking, flush=True)
        replies = json.loads(answers.readline())
        return [read_reply(reply) for reply in replies]

    with child, pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.registry.ask.ask", ask)
        yield
        asking.close()
