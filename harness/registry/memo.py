"""Answers of children, remembered across commands so that the second look is instant.

A memo can be deleted at any time: whatever is damaged, unreadable or not writable counts as not
remembered. Each entry is one JSON file named by what was asked; its `stamp` says what must still
hold for the answer to count, so that a change overwrites an entry instead of adding one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import environment


class Memo:
    """Remembered answers in `folder` (default: the cache folder's `memo/`)."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder if folder is not None else environment.cache_folder() / "memo"
        self._surroundings = environment.fingerprint()

    def get(self, question: Any, stamp: Any = None) -> Any | None:
        """The answer to a JSON value `question` that was put under an equal `stamp`; None if there
        is none.

        Answers that were put with `files` count only while each of these is as it was.
        """
        try:
            entry = json.loads(self._file(question).read_bytes())
            if entry["question"] != _plain(question) or entry["stamp"] != self._stamp(stamp):
                return None
            if any(environment.file_state(path) != seen for path, seen in entry["files"].items()):
                return None
            return entry["answer"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def put(
        self, question: Any, answer: Any, stamp: Any = None, files: Mapping[str, Any] | None = None
    ) -> None:
        """Remember a JSON value; `files` maps paths to the `environment.file_state` at which they were
        read.
        """
        file = self._file(question)
        entry = {
            "question": question,
            "stamp": self._stamp(stamp),
            "files": dict(files or {}),
            "answer": answer,
        }
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(f".{uuid.uuid4().hex}.tmp")
            try:
                temporary.write_text(json.dumps(entry), encoding="utf-8")
                temporary.replace(file)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise

    def _stamp(self, stamp: Any) -> Any:
        return _plain([self._surroundings, stamp])

    def _file(self, question: Any) -> Path:
        digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:40]
        return self.folder / digest[:2] / f"{digest}.json"


def _plain(value: Any) -> Any:
    """The value as it comes back from a file: tuples are lists there, and keys are strings."""
    return json.loads(json.dumps(value))
