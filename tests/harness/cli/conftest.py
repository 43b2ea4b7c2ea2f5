"""Commands in the process of a test, beside a grid that has been run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.cli import main
from tests.kit.command import Call, Ran


@pytest.fixture
def call(
    tiny_ran: Ran,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Call:
    """`call("pack", ...)`, in this process, in an empty folder with a copy of the grid; returns
    exit code, output and errors.
    """
    monkeypatch.setenv("BENCH_CACHE", environment["BENCH_CACHE"])
    monkeypatch.setenv("BENCH_STORE", str(tiny_ran.store))
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny_ran.grid, tmp_path)

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        return (code, *capsys.readouterr())

    return run
