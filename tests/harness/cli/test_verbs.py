"""What every verb of the command line keeps to: exit codes, where the store is, and what its
process never imports.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.cli import main
from tests.kit import tiny
from tests.kit.command import Bench
from tests.kit.fake_plugins import install, registering
from tests.kit.one_child import answering

GRID = f"""
{tiny.GRID}
[[defense]]
name = "widen"
[[metric]]
name = "weight-norm"
"""

BAD = """
extends = "grid.toml"
[[defense]]
name = "hostile"
as = "hang"
how = "hang"
[[defense]]
name = "hostile"
as = "raise"
how = "raise"
"""

TELL = """
import atexit, os, sys
if "harness.cli" in sys.orig_argv and "LOADED" in os.environ:
    atexit.register(lambda: open(os.environ["LOADED"], "w").write(" ".join(sys.modules)))
"""
"""A `sitecustomize` by which a command's own process, and no child of it, tells what it has
imported.
"""


@dataclass(frozen=True)
class Told:
    """A command that ended, and the modules that its process had imported by then."""

    result: subprocess.CompletedProcess[str]
    modules: frozenset[str]


@dataclass(frozen=True)
class Place:
    """A folder with a grid that has been run to its end without naming a store, and how to call
    commands in it.
    """

    folder: Path
    call: Callable[..., Told]
    made: Told

    @property
    def grid(self) -> Path:
        return self.folder / "grid.toml"

    @property
    def store(self) -> Path:
        return self.folder / ".bench"


@pytest.fixture(scope="module")
def place(
    bench: Bench, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Place:
    folder = tmp_path_factory.mktemp("verbs")
    (folder / "sitecustomize").mkdir()
    (folder / "sitecustomize" / "sitecustomize.py").write_text(TELL)
    (folder / "grid.toml").write_text(GRID)
    path = os.pathsep.join([str(folder / "sitecustomize"), environment["PYTHONPATH"]])
    # A path of its own needs a cache of its own: others would be asked everything anew.
    shared = {
        "PYTHONPATH": path,
        "BENCH_CACHE": str(folder / "cache"),
        "LOADED": str(folder / "loaded"),
    }

    def call(*arguments: object, **more: str) -> Told:
        result = bench(*arguments, cwd=folder, env={**shared, **more})
        return Told(result, frozenset((folder / "loaded").read_text().split()))

    return Place(folder, call, call("run", "grid.toml"))


def foreign(modules: frozenset[str]) -> set[str]:
    """What no command may import: methods, of the box or from outside, torch, and what would make
    all of them slow.
    """
    tops = {"torch", "torchvision", "timm", "plugins", "bench_probes", "pandas", "PIL"}
    return {name for name in modules if name.partition(".")[0] in tops}


# --- what a command imports -----------------------------------------------------------------------


def test_a_run_that_does_work_ends_well_and_imports_no_method(place: Place) -> None:
    assert place.made.result.returncode == 0, place.made.result.stderr
    assert foreign(place.made.modules) == set()
    assert "harness.run.execute" in place.made.modules
    assert (
        place.store / "STORE.json"
    ).is_file()  # in the working directory, for want of another word


@pytest.mark.parametrize(
    "words",
    [
        "run grid.toml",
        "plan grid.toml",
        "plan grid.toml --explain",
        "status",
        "status grid.toml",
        "report grid.toml",
        "report grid.toml --format markdown",
        "report grid.toml --format csv",
        "report grid.toml --format json --full",
        "logs grid.toml",
        "report grid.toml --format latex --best",
        "report grid.toml --costs",
        "preview grid.toml",
        "pack grid.toml -o grid.zip",
        "cache",
        "cache grid.toml",
        "cache prune grid.toml --yes",
        "cache verify",
        "list",
        "list defenses --json",
        "show acc",
        "--version",
        "--help",
    ],
)
def test_no_verb_imports_a_method(words: str, place: Place) -> None:
    told = place.call(*words.split())
    assert told.result.returncode == 0, told.result.stderr
    assert told.result.stdout
    assert "harness.cli" in told.modules
    assert foreign(told.modules) == set()


def test_unpacking_imports_no_method(place: Place) -> None:
    place.call("pack", "grid.toml", "-o", "packed.zip")
    told = place.call("unpack", "packed.zip", "--store", "unpacked")
    assert told.result.returncode == 0, told.result.stderr
    assert foreign(told.modules) == set()


def test_a_plan_that_has_work_to_do_says_why_and_makes_nothing(place: Place) -> None:
    (place.folder / "more.toml").write_text(
        'extends = "grid.toml"\n[[defense]]\nname = "ft"\nlr = 0.5\n'
    )
    before = sorted(place.store.rglob("*"))
    told = place.call("plan", "more.toml", "--explain")
    assert told.result.returncode == 0, told.result.stderr
    assert "3 cells: 2 complete, 1 to run" in told.result.stdout
    assert "component.params.lr" in told.result.stdout
    assert foreign(told.modules) == set()
    assert sorted(place.store.rglob("*")) == before


# --- exit codes -----------------------------------------------------------------------------------


def test_status_sees_a_run_from_another_terminal_until_it_is_interrupted(
    place: Place, environment: Mapping[str, str]
) -> None:
    (place.folder / "bad.toml").write_text(BAD)
    words = ["run", "bad.toml", "--jobs", "2"]
    with (place.folder / "log").open("w") as log:
        command = [sys.executable, "-m", "harness.cli", *words]
        run = subprocess.Popen(
            command, cwd=place.folder, env=dict(environment), stdout=log, stderr=log
        )
    try:
        until(
            lambda: (
                list((place.store / "failures").glob("*/record.json"))
                and "hang" in lives(place.store)
            )
        )
        status = place.call("status", "bad.toml").result
        assert "5 cells: 1 failed, 1 to run, 3 done" in status.stdout
        assert "\nrunning: 1\n  defend  badnets · hang\n" in status.stdout
        assert 'how = "' not in status.stdout
        verbose = place.call("status", "bad.toml", "--verbose").result.stdout
        running, failed = verbose.split("\nfailed: 1\n")
        assert (
            '    component: defense hostile (how = "hang")\n    model: model small-cnn' in running
        )
        assert "\n    seed: 0\n    cpu." in running
        assert "    defend  badnets · raise\n      key: " in failed
        assert "component: defense hostile (every default)" in failed
        assert "\nfailed: 1\n" in status.stdout
        assert "a defense that does not work" in status.stdout
        assert status.returncode == 1  # something has failed
        assert (
            place.call("status", "grid.toml").result.returncode == 0
        )  # and has no part in this grid
    finally:
        run.send_signal(signal.SIGINT)
        run.wait(timeout=60)
    assert run.returncode == 130, (place.folder / "log").read_text()
    assert place.call("status").result.stdout.startswith("nothing is running\n\nfailed: 1\n")
    words = place.call("status", "-v").result.stdout
    assert words.startswith("nothing is running\n\nfailed: 1\n  failed: RuntimeError: a defense")
    place_of_it = r"that does not work, at /.*/bench_probes/hostile\.py:\d+\n"
    assert re.search(place_of_it + "    defend  badnets · raise", words)
    assert "\n      key: " in words
    report = place.call("report", "bad.toml").result
    assert report.returncode == 1
    assert "a defense that does not work" in report.stdout
    assert "not run yet" in report.stdout


def lives(store: Path) -> str:
    return "".join(path.read_text() for path in (store / "live").glob("*.json"))


def until(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except OSError:  # a file that was there a moment ago
            pass
        time.sleep(0.05)
    raise AssertionError("it did not happen within a minute")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["run"],
        ["run", "grid.toml", "--fast"],
        [
            "run",
            "grid.toml",
            "--job",
            "2",
        ],  # no abbreviations: they would break when an option is added
        ["run", "grid.toml", "--threads", "many"],
        ["run", "grid.toml", "--timeout", "nan"],
        ["plan", "grid.toml", "--jobs", "2"],
        ["report", "grid.toml", "--format", "html"],
        ["status", "one.toml", "two.toml"],
        ["list", "defences"],
        ["show"],
    ],
)
def test_mistakes_in_usage_exit_with_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("usage: bench")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a grid that has nothing to run, in a process with two broken plugins."""
    folder = tmp_path_factory.mktemp("broken")
    install(folder, "lab", {"lab_plug": "raise RuntimeError('boom')"})
    ghost = registering('register.defense("ghost", "half_plug.ghost:Ghost")')
    install(
        folder,
        "half",
        {"half_plug/__init__": ghost, "half_plug/ghost": "import nowhere_to_be_found"},
        "half_plug",
    )
    # A target that is no class: every cell is incompatible.
    (folder / "grid.toml").write_text(
        GRID.replace('"badnets"', '"badnets"\ntarget = 10').replace('"widen"', '"nad"')
    )
    text = (folder / "grid.toml").read_text().replace('[[metric]]\nname = "weight-norm"\n', "")
    (folder / "grid.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch, answering(folder):
        patch.setenv("BENCH_CACHE", str(folder / "cache"))
        patch.delenv("BENCH_STORE", raising=False)
        patch.syspath_prepend(str(folder))
        yield folder


def test_a_broken_plugin_that_nobody_needs_is_named_and_no_more(
    quick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(quick / "grid.toml"), "--store", str(quick / "store")]) == 0
    assert (
        "bench: plugin lab 1.0 (entry point 'plug-lab') is broken: RuntimeError: boom\n"
        in capsys.readouterr().err
    )


def test_strict_makes_a_broken_plugin_exit_code_3(
    quick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(quick / "grid.toml"), "--store", str(quick / "store"), "--strict"]) == 3
    assert (
        "plugin lab 1.0 (entry point 'plug-lab') is broken: RuntimeError: boom"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "ghosts",
            "It may belong to a plugin that is broken: lab 1.0 (entry point 'plug-lab'): "
            "RuntimeError: boom",
        ),
        (
            "ghost",
            "defense 'ghost' of half 1.0: "
            "ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        ),
    ],
)
def test_a_grid_that_names_something_broken_exits_with_2(
    name: str, reason: str, quick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (quick / "grid.toml").read_text()
    (quick / "named.toml").write_text(text + f'[[defense]]\nname = "{name}"\n')
    line = len(text.splitlines()) + 2
    assert (
        main(["run", str(quick / "named.toml"), "--store", str(quick / "other"), "--strict"]) == 2
    )
    error = capsys.readouterr().err
    assert error.startswith(f"bench: {quick}/named.toml:{line}: defense[3].name: ")
    assert reason in error
    assert not (quick / "other").exists()


def test_nothing_selected_is_exit_code_5(quick: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("plan", "run", "logs", "preview"):
        assert (
            main([verb, str(quick / "grid.toml"), "--store", str(quick / "store"), "-k", "badnet"])
            == 5
        )
        assert "no cell has 'badnet'. Did you mean: badnets" in capsys.readouterr().err
    assert main(["plan", str(quick / "grid.toml"), "-k", "(badnets"]) == 2


# --- the store ------------------------------------------------------------------------------------


@pytest.fixture
def stores(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, and in it a folder `elsewhere`; neither has a store."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_STORE", raising=False)
    return tmp_path


def test_the_store_is_the_option_else_the_variable_else_here(
    stores: Path, place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said() -> str:
        return capsys.readouterr().err

    assert main(["status"]) == 1
    assert f"bench: {stores}/.bench: there is no store. `bench run` makes one" in said()
    monkeypatch.setenv("BENCH_STORE", "elsewhere")
    assert main(["status"]) == 1
    assert f"bench: {stores}/elsewhere: there is no store" in said()
    assert main(["status", "--store", "mine"]) == 1
    assert f"bench: {stores}/mine: there is no store" in said()
    assert sorted(path.name for path in stores.rglob("*")) == ["elsewhere"]  # looking makes none
    monkeypatch.setenv("BENCH_STORE", str(place.store))
    main(["status"])
    assert said() == ""


@pytest.mark.parametrize("verb", ["run", "plan", "report", "logs", "status", "preview"])
def test_a_store_of_another_format_is_refused(
    verb: str, quick: Path, stores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stores / "elsewhere" / "STORE.json").write_text('{"format": 2}')
    assert main([verb, str(quick / "grid.toml"), "--store", "elsewhere"]) == 1
    told = capsys.readouterr().err
    assert f"{stores}/elsewhere/STORE.json: store format 2, but this version reads format 1" in told
    assert "--store" in told
    assert [path.name for path in (stores / "elsewhere").iterdir()] == ["STORE.json"]


def test_a_folder_with_something_else_is_no_store(
    quick: Path, stores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (stores / "elsewhere" / "thesis.tex").touch()
    assert main(["run", str(quick / "grid.toml"), "--store", "elsewhere"]) == 1
    assert (
        "holds 'thesis.tex' and is no store. Name a new or an empty folder"
        in capsys.readouterr().err
    )


# --- report ---------------------------------------------------------------------------------------


def test_a_report_goes_to_a_file(place: Place, tmp_path: Path) -> None:
    words = ["report", "grid.toml", "--format", "csv"]
    written = place.call(*words, "--output", tmp_path / "table").result
    assert (written.returncode, written.stdout) == (0, "")
    assert (tmp_path / "table").read_text() == place.call(*words).result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["table"]


@pytest.mark.parametrize("options", [(), ("--costs",)])
@pytest.mark.parametrize("columns", [110, 60, 30])
def test_a_report_fits_the_terminal(
    columns: int, options: tuple[str, ...], place: Place, environment: Mapping[str, str]
) -> None:
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    command = [sys.executable, "-m", "harness.cli", "report", str(place.grid), *options]
    shown = subprocess.Popen(
        [*command, "--store", str(place.store)],
        stdout=theirs,
        env={**environment, "COLUMNS": ""},
        cwd=place.folder,
    )
    os.close(theirs)
    text = b""
    try:
        while piece := os.read(ours, 1 << 16):
            text += piece
    except OSError:  # the other side has closed it
        pass
    finally:
        os.close(ours)
    assert shown.wait(60) == 0
    lines = text.decode().splitlines()
    assert columns / 2 < max(map(len, lines)) <= columns


def test_what_a_defense_recorded_is_a_metric(place: Place, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(
        'extends = "base.toml"\n[[defense]]\nname = "fine-pruning"\nepochs = 1\n'
        '[[metric]]\nname = "record:pruned"\nas = "pruned"\n'
    )
    (tmp_path / "base.toml").write_text(GRID)
    grid = tmp_path / "grid.toml"
    ran = place.call("run", grid, "-k", "fine-pruning or ft").result
    assert ran.returncode == 0, ran.stderr
    words = ("report", grid, "--format", "json")
    lines = json.loads(place.call(*words).result.stdout)
    pruned = {
        line["defense"]: (line["status"], line["value"])
        for line in lines
        if line["metric"] == "pruned"
    }
    assert pruned["fine-pruning"][0] == "done"
    assert pruned["fine-pruning"][1] == int(pruned["fine-pruning"][1])
    assert pruned["ft"] == ("incompatible", None)


def test_a_report_that_cannot_be_written_says_so(place: Place, tmp_path: Path) -> None:
    told = place.call("report", "grid.toml", "--output", tmp_path / "nowhere" / "table.md").result
    assert told.returncode == 2
    assert (
        f"{tmp_path}/nowhere/table.md: No such file or directory. --output names a file in a folder"
        in told.stderr
    )


def test_a_report_is_made_of_what_is_stored_only(place: Place, tmp_path: Path) -> None:
    lacking = place.call("report", "grid.toml", "--store", tmp_path / "nowhere").result
    assert lacking.returncode == 1
    assert "there is no store" in lacking.stderr
    (tmp_path / "STORE.json").write_text(json.dumps({"format": 1}))
    empty = place.call("report", "grid.toml", "--store", tmp_path).result
    assert empty.returncode == 1
    assert "not run yet" in empty.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["STORE.json"]
