"""The guard of a process that answers for plugins; what it kills is tested where plugins are asked
(tests/harness/registry/test_discovery.py).
"""

from __future__ import annotations

import os
import sys

import pytest

from harness.introspect import guard


def test_without_linux_the_process_itself_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no call to adopt orphans, and asking about plugins must work without it."""

    def refuse() -> int:
        raise AssertionError("it has forked")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(os, "fork", refuse)
    guard.stay_behind()
