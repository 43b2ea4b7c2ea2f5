"""Fixtures that many tests share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.kit import tiny
from tests.kit.command import GRID, Bench, Ran, user_environment
from tests.kit.fake_plugins import install_probes


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny networks are slower on several threads, and much slower on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the probes are installed, as a distribution of their own."""
    return install_probes(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def environment(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The environment of a user who has the probes installed and has never run `bench`."""
    return user_environment(site, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def bench(environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """`bench(*arguments, cwd=..., env=..., timeout=...)`, in a process of its own."""
    elsewhere = tmp_path_factory.mktemp("cwd")

    def run(
        *arguments: object,
        cwd: Path = elsewhere,
        env: Mapping[str, str] | None = None,
        timeout: float = 200,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "harness.cli", *map(str, arguments)],
            cwd=cwd,
            env={**environment, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def ran(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The session's grid, run once; others read it or copy its store."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "grid.toml").write_text(GRID)
    result = bench("run", folder / "grid.toml", "--store", folder / "store")
    return Ran(folder / "grid.toml", folder / "store", result)


@pytest.fixture(scope="session")
def tiny_ran(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A grid of two cells that was run once, quickly; others read it or copy its store."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "grid.toml").write_text(tiny.GRID)
    result = bench("run", folder / "grid.toml", "--store", folder / "store")
    assert result.returncode == 0, result.stderr
    return Ran(folder / "grid.toml", folder / "store", result)
