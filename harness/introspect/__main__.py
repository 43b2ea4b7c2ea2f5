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

from harness.introspect.problems import ParameterError

OPERATIONS = {
    "register": "harness.introspect.register",
    "resolve": "harness.introspect.parameters",
    "describe": "harness.introspect.describe",
    "compatible": "harness.introspect.behaviour",
    "combine": "harness.introspect.behaviour",
}
"""Where the function of the same name is: a table in, JSON out."""

_GRACE = 5


def main(arguments: list[str]) -> None:
    """Answer every question of the file, then leave without waiting for whatever a plugin has
    started.
    """
    request, reply, seconds = arguments
    # The parent keeps the time. If it is gone, the alarm ends this process.
    signal.alarm(int(float(seconds)) + _GRACE)
    with Path(reply).open("a", encoding="utf-8") as stream:
        for number, question in enumerate(json.loads(Path(request).read_bytes())):
            stream.write(json.dumps({"number": number, **answer(question)}) + "\n")
            stream.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """`{"ok": ...}`, or `{"error": {type, message, traceback, problems}}`. Never raises for what a
    plugin does.
    """
    try:
        body = dict(question)
        operation = body.pop("op")
        result = getattr(importlib.import_module(OPERATIONS[operation]), operation)(**body)
        json.dumps(result)
    except ParameterError as error:
        listed = [[list(path), what, hint] for path, what, hint in error.listed]
        return {"error": {"type": "problems", "message": str(error), "problems": listed}}
    except (Exception, SystemExit) as error:
        text = (
            str(error) if not isinstance(error, SystemExit) else f"called sys.exit({error.code!r})"
        )
        return {
            "error": {
                "type": type(error).__name__,
                "message": text,
                "traceback": traceback.format_exc(),
            }
        }
    return {"ok": result}


if __name__ == "__main__":
    main(sys.argv[1:])
