"""Answer the questions of one request file; see the package's docstring."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.introspect import guard
from harness.introspect.problems import ParameterError

OPERATIONS = {
    "register": "harness.introspect.register",
    "resolve": "harness.introspect.parameters",
    "describe": "harness.introspect.describe",
    "compatible": "harness.introspect.behaviour",
    "combine": "harness.introspect.behaviour",
}
"""By operation the module of the function of the same name: a table in, JSON out."""

_GRACE = 5
"""Seconds that the parent may be late."""


def main(arguments: list[str]) -> None:
    """Answer every question of the file, then leave without waiting for whatever a plugin has
    started.
    """
    request, reply, seconds = arguments
    guard.stay_behind()
    # The parent keeps the time. If it is gone, the alarm ends this process.
    signal.alarm(int(float(seconds)) + _GRACE)
    questions = json.loads(Path(request).read_bytes())
    with Path(reply).open("a", encoding="utf-8") as stream:
        for number, question in enumerate(questions):
            line = json.dumps({"number": number, **answer(question)})
            stream.write(line + "\n")
            stream.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"ok": ...}`, or `{"error": {type, message, traceback, problems}}`.

    Never raises for what a plugin does.
    """
    try:
        arguments = dict(question)
        operation = arguments.pop("op")
        function = getattr(importlib.import_module(OPERATIONS[operation]), operation)
        result = function(**arguments)
        json.dumps(result)  # a plugin may have put in anything
    except ParameterError as error:
        problems = [[list(path), wrong, hint] for path, wrong, hint in error.listed]
        return {"error": {"type": "problems", "message": str(error), "problems": problems}}
    except SystemExit as error:
        return _error(error, f"called sys.exit({error.code!r})")
    except Exception as error:
        return _error(error, str(error))
    return {"ok": result}


def _error(error: BaseException, message: str) -> dict[str, Any]:
    entry = {
        "type": type(error).__name__,
        "message": message,
        "traceback": traceback.format_exc(),
    }
    return {"error": entry}


if __name__ == "__main__":
    main(sys.argv[1:])
