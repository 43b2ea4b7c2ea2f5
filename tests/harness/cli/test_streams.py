"""Standard streams that are closed, full, without a reader, or in a narrow encoding."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.kit.command import Bench
from tests.kit.tiny import GRID

LOST = "bench: the output cannot be written: No space left on device\n"
VERBS = {
    "run": ("run", "grid.toml"),
    "plan": ("plan", "grid.toml", "--explain"),
    "status": ("status", "grid.toml"),
    "report": ("report", "grid.toml"),
    "csv": ("report", "grid.toml", "--format", "csv"),
    "list": ("list",),
    "show": ("show", "ft"),
    "preview": ("preview", "badnets"),
    "--help": ("--help",),
    "--version": ("--version",),
}


@pytest.fixture(scope="module")
def folder(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a grid, and a store in which all that the verbs need is done."""
    folder = tmp_path_factory.mktemp("streams")
    (folder / "grid.toml").write_text(GRID)
    for arguments in (VERBS["run"], VERBS["preview"]):
        result = bench(*arguments, cwd=folder)
        assert result.returncode == 0, result.stderr
    return folder


def redirected(
    arguments: Sequence[str],
    redirections: str,
    folder: Path,
    environment: Mapping[str, str],
    **more: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell does, with the streams that the shell gives it."""
    script = f'exec "$@" {redirections}'
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "harness.cli", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env={**environment, **more},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("verb", VERBS)
def test_output_that_does_not_fit_is_said_in_a_sentence(
    verb: str, folder: Path, environment: Mapping[str, str]
) -> None:
    result = redirected(VERBS[verb], ">/dev/full", folder, environment)
    assert result.returncode == 74
    assert result.stderr.endswith(LOST)
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_a_command_without_any_stream_ends_as_with_them(
    verb: str, folder: Path, environment: Mapping[str, str]
) -> None:
    assert redirected(VERBS[verb], "<&- >&- 2>&-", folder, environment).returncode == 0


@pytest.mark.parametrize("streams", [">&-", "<&-", "2>&-", "2>/dev/full", "<&- 2>&-"])
@pytest.mark.parametrize("verb", ["run", "report"])
def test_a_closed_stream_costs_nothing_but_what_it_would_have_shown(
    verb: str, streams: str, folder: Path, environment: Mapping[str, str]
) -> None:
    whole = redirected(VERBS[verb], "", folder, environment)
    result = redirected(VERBS[verb], streams, folder, environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ("" if ">&-" in streams.split() else whole.stdout)
    assert result.stderr == ("" if "2>" in streams else whole.stderr)


@pytest.mark.parametrize("verb", VERBS)
def test_a_reader_who_leaves_is_no_matter_for_a_message(
    verb: str, folder: Path, environment: Mapping[str, str]
) -> None:
    # Unbuffered, so that the first line already meets a pipe that nobody reads.
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "harness.cli", *VERBS[verb]]
    result = subprocess.run(
        command,
        cwd=folder,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        timeout=100,
        check=False,
    )
    os.close(theirs)
    assert result.returncode == 141
    assert "bench:" not in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("streams", [">/dev/full", "2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_run_that_cannot_speak_does_its_work(
    streams: str, folder: Path, environment: Mapping[str, str], bench: Bench, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    result = redirected((*VERBS["run"], "--store", store), streams, folder, environment)
    assert result.returncode == (74 if streams == ">/dev/full" else 0)
    report = bench("report", "grid.toml", "--store", store, cwd=folder)
    assert report.returncode == 0, report.stdout
    assert (tmp_path / "store" / "STORE.json").read_text() == '{"format": 1}\n'


def test_a_run_whose_log_is_read_no_more_does_its_work(
    folder: Path, environment: Mapping[str, str], bench: Bench, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    ours, theirs = os.pipe()
    os.close(ours)
    command = [sys.executable, "-m", "harness.cli", *VERBS["run"], "--store", store]
    code = subprocess.call(
        command, cwd=folder, env=dict(environment), stdout=theirs, stderr=theirs, timeout=100
    )
    os.close(theirs)
    assert code == 141
    assert bench("report", "grid.toml", "--store", store, cwd=folder).returncode == 0


def test_mistakes_keep_their_code_whatever_can_be_told_of_them(
    folder: Path, environment: Mapping[str, str]
) -> None:
    for streams in (">&-", "2>&-", ">/dev/full", "2>/dev/full"):
        for arguments in (("nonsense",), ("plan", "no-grid.toml")):
            result = redirected(arguments, streams, folder, environment)
            assert result.returncode == 2, streams
            assert "Traceback" not in result.stderr


def test_a_pipe_that_does_not_wait_gets_everything(
    folder: Path, environment: Mapping[str, str]
) -> None:
    """As where the command shares its output with a program that has made it non-blocking."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    # Often enough that it does not fit into the pipe.
    many = "import sys; from harness.cli import main\n" + "main(sys.argv[1:])\n" * 20
    command = [sys.executable, "-c", many, *VERBS["csv"], "--full"]
    process = subprocess.Popen(
        command, cwd=folder, env=dict(environment), stdout=theirs, stderr=subprocess.PIPE, text=True
    )
    os.close(theirs)
    with os.fdopen(ours, encoding="utf-8") as lines:
        assert process.poll() is None
        text = lines.read()
    _, said = process.communicate(timeout=100)
    assert (process.returncode, said) == (0, "")
    assert len(text) > 1 << 16, "it would have fitted into the pipe"
    assert text == text[: len(text) // 20] * 20


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_an_encoding_does_not_have_are_replaced(
    encoding: str, folder: Path, environment: Mapping[str, str]
) -> None:
    (folder / "words.toml").write_text(f'title = "μ → \N{SNOWMAN}"\n{GRID}')
    arguments = ("report", "words.toml")
    result = redirected(arguments, "", folder, environment, PYTHONIOENCODING=encoding)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("? ? ?")
    wide = redirected(arguments, "", folder, environment, PYTHONIOENCODING="utf-8")
    assert wide.stdout.startswith("μ → ☃")


def test_a_grid_whose_name_is_no_text_is_planned(
    folder: Path, environment: Mapping[str, str]
) -> None:
    name = os.fsdecode(b"g\xff.toml")
    try:
        shutil.copy(folder / "grid.toml", folder / name)
    except OSError as error:
        if error.errno == errno.EILSEQ:
            pytest.skip("this file system takes names in UTF-8 only")
        raise
    strict = "utf-8:strict"
    result = redirected(("plan", name), "", folder, environment, PYTHONIOENCODING=strict)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("g?.toml: 2 cells")


# --- files in place of the terminal ---------------------------------------------------------------


def test_a_device_is_written_to_and_stays_a_device(
    folder: Path, environment: Mapping[str, str], tmp_path: Path
) -> None:
    plain = redirected(VERBS["report"], "", folder, environment)
    link = tmp_path / "out"
    link.symlink_to("/dev/stdout")
    for path in ("/dev/stdout", str(link)):
        arguments = (*VERBS["report"], "--output", path)
        assert redirected(arguments, "", folder, environment).stdout == plain.stdout
    assert link.is_symlink()
    full = redirected((*VERBS["report"], "--output", "/dev/full"), "", folder, environment)
    assert (full.returncode, full.stderr) == (74, "bench: /dev/full: No space left on device\n")
    assert Path("/dev/full").is_char_device()


def test_a_link_leads_to_the_new_report(
    folder: Path, environment: Mapping[str, str], tmp_path: Path
) -> None:
    target = tmp_path / "table.txt"
    target.write_text("old")
    link = tmp_path / "latest"
    link.symlink_to(target)
    arguments = (*VERBS["report"], "--output", str(link))
    assert redirected(arguments, "", folder, environment).returncode == 0
    assert link.readlink() == target
    assert "badnets" in target.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "table.txt"]


@pytest.mark.parametrize("name", ["", ".", "/", "a" * 250, "a" * 300, "a/" * 3000])
def test_a_name_that_no_file_can_have_is_a_mistake(
    name: str, folder: Path, environment: Mapping[str, str]
) -> None:
    result = redirected((*VERBS["report"], "--output", name), "", folder, environment)
    assert result.returncode == 2
    assert result.stderr.startswith("bench: ")
    assert "--output names a file" in result.stderr
