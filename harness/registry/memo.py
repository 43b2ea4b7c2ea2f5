"""Answers of children, remembered across commands so that the second look is instant.

A memo can be deleted at any time: whatever is damaged, unreadable or not writable counts as not
remembered. Each entry is one JSON file named by what was asked; its `valid_for` says what must
still hold for the answer to count, so that a change overwrites an entry instead of adding one.
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
        if folder is None:
            folder = environment.cache_folder() / "memo"
        self.folder = folder
        self._environment = environment.fingerprint()

    def get(self, question: Any, valid_for: Any = None) -> Any | None:
        """Return the answer to a JSON value `question` that was put for an equal `valid_for`; None
        if there is none.

        Answers that were put with `files` count only while each of these is as it was.
        """
        try:
            entry = json.loads(self._file(question).read_bytes())
            if entry["question"] != _plain(question):
                return None
            if entry["valid_for"] != self._conditions(valid_for):
                return None
            for path, seen in entry["files"].items():
                if environment.file_state(path) != seen:
                    return None
            return entry["answer"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def put(
        self,
        question: Any,
        answer: Any,
        valid_for: Any = None,
        files: Mapping[str, Any] | None = None,
    ) -> None:
        """Remember a JSON value.

        `files` maps paths to the `environment.file_state` at which they were read.
        """
        entry = {
            "question": question,
            "valid_for": self._conditions(valid_for),
            "files": dict(files or {}),
            "answer": answer,
        }
        with contextlib.suppress(OSError):
            _replace(self._file(question), json.dumps(entry))

    def _conditions(self, valid_for: Any) -> Any:
        return _plain([self._environment, valid_for])

    def _file(self, question: Any) -> Path:
        name = digest(question)[:40]
        return self.folder / name[:2] / f"{name}.json"


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _replace(file: Path, text: str) -> None:
    """Write a file whole or not at all, since other commands may read it meanwhile."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(f".{uuid.uuid4().hex}.tmp")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def _plain(value: Any) -> Any:
    """Return the value as it comes back from a file: tuples are lists there, and keys are
    strings.
    """
    return json.loads(json.dumps(value))
