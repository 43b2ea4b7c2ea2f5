"""Disks that are full, no home, no processes, no files: sentences and documented codes, and nothing
that was finished is lost.
"""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.kit.command import Bench
from tests.kit.places import ROOT
from tests.kit.tiny import GRID

Result = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def folder(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a grid whose store is complete."""
    folder = tmp_path_factory.mktemp("limits")
    (folder / "grid.toml").write_text(GRID)
    assert bench("run", "grid.toml", cwd=folder).returncode == 0
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """`small(bytes)`: a folder of its own file system, of that size; the size may change."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = []

    def make(size: int) -> Path:
        how = "remount," if mounted else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{how}size={size}", "tmpfs", str(place)]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no `mount`, so no file system of a chosen size")
        if result.returncode:
            pytest.skip(f"no file system can be mounted here: {result.stderr.strip()}")
        mounted.append(size)
        return place

    yield make
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


def expect_sentence(result: Result, code: int, *words: str) -> None:
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


# --- full disks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kilobytes", [16, 250])
def test_a_store_that_is_full_keeps_what_is_whole_and_goes_on_with_more_room(
    kilobytes: int, folder: Path, bench: Bench, small: Callable[[int], Path]
) -> None:
    store = small(kilobytes * 1024) / "store"
    arguments = ("grid.toml", "--store", store)
    result = bench("run", *arguments, cwd=folder)
    expect_sentence(result, 1, "the disk is full")
    assert list((store / "tmp").iterdir()) == []
    kept = {path.parent.name for path in (store / "objects").rglob("manifest.json")}
    everything = {path.name for path in (store / "objects").glob("*/*")}
    assert everything == kept, "a part of an object was left behind"
    assert bench("report", *arguments, cwd=folder).returncode == 1
    assert bench("plan", *arguments, cwd=folder).returncode == 0
    assert "Traceback" not in bench("status", *arguments, cwd=folder).stderr

    small(8 << 20)
    again = bench("run", *arguments, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert f"{len(kept)} cached" in again.stderr or not kept
    assert bench("status", *arguments, cwd=folder).returncode == 0


def filled(place: Path, free: int) -> Path:
    """Fill a file system but for some pages."""
    page = os.sysconf("SC_PAGE_SIZE")
    room = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    (place / "other").write_bytes(b"\0" * (room - free * page))
    return place


def test_where_temporary_files_have_no_room(
    folder: Path, bench: Bench, small: Callable[[int], Path], tmp_path: Path
) -> None:
    place = filled(small(256 * 1024), 3)
    env = {"TMPDIR": str(place)}
    store = tmp_path / "store"
    result = bench("run", "grid.toml", "--store", store, cwd=folder, env=env)
    expect_sentence(result, 1, "disk full")
    # What is cached needs no room.
    assert bench("run", "grid.toml", cwd=folder, env=env).returncode == 0
    picture = tmp_path / "p.png"
    preview = bench("preview", "badnets", "-o", picture, cwd=folder, env=env)
    assert preview.returncode in (1, 71)
    expect_sentence(preview, preview.returncode, "No space left on device")
    assert not picture.exists()
    assert [path.name for path in place.iterdir()] == ["other"], "scratch was left behind"
    assert bench("run", "grid.toml", "--store", store, cwd=folder).returncode == 0


@pytest.mark.parametrize("words", ["list", "show ft", "plan grid.toml"])
def test_plugins_are_not_called_broken_where_their_answers_have_no_room(
    words: str, folder: Path, bench: Bench, small: Callable[[int], Path], tmp_path: Path
) -> None:
    place = filled(small(256 * 1024), 1)
    env = {"TMPDIR": str(place), "BENCH_CACHE": str(tmp_path / "new")}
    result = bench(*words.split(), cwd=folder, env=env)
    expect_sentence(result, 71, "No space left on device", "$TMPDIR")
    assert "broken" not in result.stderr
    assert "unknown" not in result.stderr
    shutil.rmtree(tmp_path / "new", ignore_errors=True)
    assert bench(*words.split(), cwd=folder, env={**env, "TMPDIR": "/tmp"}).returncode == 0


def test_a_picture_for_which_there_is_no_room_while_drawing(
    folder: Path, bench: Bench, small: Callable[[int], Path], tmp_path: Path
) -> None:
    assert bench("preview", "badnets", "-o", tmp_path / "one.png", cwd=folder).returncode == 0
    for pages in (1, 6, 13, 64):
        place = filled(small(256 * 1024), pages)
        env = {"TMPDIR": str(place)}
        result = bench("preview", "badnets", "-o", tmp_path / "p.png", cwd=folder, env=env)
        assert "Traceback" not in result.stderr, pages
        assert result.returncode in (0, 71), result.stderr
        if result.returncode == 0:
            break
        (place / "other").unlink()
    assert (tmp_path / "p.png").read_bytes() == (tmp_path / "one.png").read_bytes()
    assert pages > 1


def test_a_report_that_does_not_fit_leaves_the_old_one(
    folder: Path, bench: Bench, small: Callable[[int], Path]
) -> None:
    place = small(256 * 1024)
    (place / "table.txt").write_text("old")
    filled(place, 0)
    result = bench("report", "grid.toml", "--output", place / "table.txt", cwd=folder)
    expect_sentence(result, 74, "table.txt: No space left on device")
    assert (place / "table.txt").read_text() == "old"
    assert sorted(path.name for path in place.iterdir()) == ["other", "table.txt"]


def limited(option: str, value: int, command: Sequence[object]) -> list[str]:
    """Return a command under a limit of the shell's `ulimit`."""
    return ["bash", "-c", f'ulimit {option} {value}; exec "$@"', "bash", *map(str, command)]


def test_files_that_may_not_grow(
    folder: Path, bench: Bench, environment: Mapping[str, str], tmp_path: Path
) -> None:
    """The store's limit where nothing can be mounted: no file may have more than 40 kB."""
    command = [sys.executable, "-m", "harness.cli", "run", "grid.toml"]
    command += ["--store", str(tmp_path / "store")]
    result = _run(limited("-f", 40, command), folder, environment)
    expect_sentence(result, 1, "File too large")
    assert bench("run", "grid.toml", "--store", tmp_path / "store", cwd=folder).returncode == 0


# --- processes and files --------------------------------------------------------------------------


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Result:
    return subprocess.run(
        command,
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.fixture(scope="module")
def nobody(
    environment: Mapping[str, str],
) -> Iterator[Callable[..., Result]]:
    """`nobody(arguments, processes, **variables)`: a command of a user who has no home, no name,
    and may start few processes; it runs in a folder with a grid.
    """
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root, with `setpriv`, can become a user of whom no process runs yet")
    user = next(number for number in range(54321, 60000) if not _runs_something(number))
    become = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups"]
    python = _readable_python(become, environment)
    # Folders of pytest are root's alone.
    home = Path(tempfile.mkdtemp(prefix="nobody-"))
    (home / "grid.toml").write_text(GRID)
    os.chown(home, user, user)

    def run(arguments: Sequence[str], processes: int | None = None, **variables: str) -> Result:
        paths = [environment["PYTHONPATH"], *site.getsitepackages()]
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(paths),
            "TMPDIR": str(home),
            **variables,
        }
        command: list[str] = [python, "-m", "harness.cli", *arguments]
        if processes is not None:
            command = limited("-u", processes, command)
        return _run([*become, *command], home, env)

    yield run
    shutil.rmtree(home)


def _runs_something(user: int) -> bool:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid == user:
                    return True
            except OSError:
                continue
    return False


def _readable_python(become: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return an interpreter of this version that another user can start, with our libraries."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([environment["PYTHONPATH"], *site.getsitepackages()]),
    }
    start = "import sys, subprocess, torch; subprocess.run([sys.executable, '-c', ''], check=True)"
    for python in (sys.executable, f"/usr/local/bin/{version}", f"/usr/bin/{version}"):
        try:
            tried = _run([*become, python, "-c", start], ROOT, env)
        except OSError:
            continue
        if tried.returncode == 0:
            return python
    pytest.skip("another user cannot read this checkout, or start Python with its libraries")


def test_a_user_without_a_home_is_asked_for_a_folder(nobody: Callable[..., Result]) -> None:
    expect_sentence(nobody(["list"]), 2, "$HOME is not set", "$BENCH_CACHE")


def test_a_run_of_a_user_without_a_home(
    nobody: Callable[..., Result],
) -> None:
    result = nobody(["run", "grid.toml", "--store", "store"], BENCH_CACHE="cache")
    assert result.returncode == 0, result.stderr


def test_few_processes_end_a_run_in_a_sentence_and_lose_nothing(
    nobody: Callable[..., Result],
) -> None:
    codes = []
    for number in (1, 3, 5, 7, 40):
        arguments = ["run", "grid.toml", "--store", "few", "--jobs", "2"]
        result = nobody(arguments, number, BENCH_CACHE="cache")
        codes.append(result.returncode)
        assert result.returncode in (0, 1, 71), result.stderr
        expect_sentence(result, result.returncode)
        if result.returncode == 71:
            expect_sentence(result, 71, "can be started", "ulimit -u")
    assert codes[0] == 71
    assert 1 in codes
    assert codes[-1] == 0, "what earlier runs left could not be used"
    expect_sentence(nobody(["list"], 1, BENCH_CACHE="new"), 71, "ulimit -u")


def test_few_open_files_end_a_run_in_a_sentence(
    folder: Path, environment: Mapping[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "harness.cli", "run", "grid.toml"]
    command += ["--store", str(tmp_path / "store")]
    codes = []
    for number in (9, 64):
        result = _run(limited("-n", number, command), folder, environment)
        codes.append(result.returncode)
        expect_sentence(result, result.returncode)
    assert codes[0] in (1, 71)
    assert codes[1] == 0


# --- folders --------------------------------------------------------------------------------------


def test_no_environment_at_all(folder: Path) -> None:
    command = [sys.executable, "-m", "harness.cli", "run", str(folder / "grid.toml")]
    result = _run([*command, "--store", str(folder / ".bench")], ROOT, {})
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("verb", ["run", "plan", "report", "status"])
def test_a_current_folder_that_is_gone(
    verb: str, folder: Path, environment: Mapping[str, str], tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = [sys.executable, "-m", "harness.cli", verb, str(folder / "grid.toml")]
    script = ["sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", *command]
    expect_sentence(_run(script, gone, environment), 71, "current folder has been deleted")
