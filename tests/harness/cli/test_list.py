from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness import cli
from harness.cli.streams import PIPE_CLOSED
from harness.errors import NothingSelected
from tests.kit.fake_plugins import install, registering
from tests.kit.places import ROOT

SHRINK = '''
from typing import Annotated
from pydantic import Field
from harness import Defense

class Shrink(Defense):
    """Scale the last layer.

    By a factor.
    """
    version = 4
    citation = "Nobody, 2024"
    presets = {"paper": {"factor": 0.5}}
    factor: Annotated[float, Field(gt=0, le=1)] = 0.9
    """what weights are multiplied by"""
    def defend(self, access):
        return access.victim()
'''


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def bench(tmp_path: Path, cache: Path) -> Any:
    def call(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "harness.cli", *words],
            cwd=tmp_path,
            env=surroundings(tmp_path, cache),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **more,
        )

    return call


def surroundings(site: Path, cache: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "BENCH_CACHE": str(cache)}


def plugin(tmp_path: Path) -> None:
    text = registering('register.defense("shrink", "shrink_plug.body:Shrink")')
    install(
        tmp_path,
        "shrinker",
        {"shrink_plug/__init__": text, "shrink_plug/body": SHRINK},
        entry="shrink_plug",
    )


def test_list_shows_every_kind_with_first_lines(bench: Any, tmp_path: Path) -> None:
    plugin(tmp_path)
    done = bench("list")
    assert done.returncode == 0
    assert done.stderr == ""
    words = [line.split() for line in done.stdout.splitlines()]
    assert ["shrink", "shrinker", "Scale", "the", "last", "layer."] in words
    titles = [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
    assert titles == ["attacks", "defenses", "models", "datasets", "metrics", "parts", "recipes"]


def test_list_as_json(bench: Any, tmp_path: Path) -> None:
    plugin(tmp_path)
    install(tmp_path, "lab", {"lab_plug": "raise RuntimeError('boom')"})
    rows = json.loads(bench("list", "defenses", "--json").stdout)
    assert {"name", "kind", "version", "distribution", "summary", "broken"} == set(rows[0])
    assert {row["kind"] for row in rows} == {"defense", "plugin"}
    by_name = {row["name"]: row for row in rows}
    assert by_name["shrink"] == {
        "name": "shrink",
        "kind": "defense",
        "version": 4,
        "distribution": "shrinker",
        "summary": "Scale the last layer.",
        "broken": None,
    }
    assert by_name["plug-lab"]["broken"] == "RuntimeError: boom"


def test_list_says_what_is_broken_and_goes_on(bench: Any, tmp_path: Path) -> None:
    plugin(tmp_path)
    install(tmp_path, "lab", {"lab_plug": registering('register.attack("ghost", "nowhere:Ghost")')})
    install(
        tmp_path,
        "twin",
        {"twin_plug": registering('register.defense("shrink", "twin_plug:Shrink")')},
    )
    done = bench("list")
    assert done.returncode == 0
    assert "attack ghost (lab): there is no module nowhere" in done.stdout
    assert (
        "defense shrink (shrinker, twin): defense 'shrink' is registered by shrinker 1.0"
        in done.stdout
    )
    assert "small-cnn" in done.stdout


def test_show_tells_parameters_and_origin(bench: Any, tmp_path: Path) -> None:
    plugin(tmp_path)
    done = bench("show", "shrink")
    assert done.returncode == 0
    for text in (
        "defense shrink, version 4",
        "By a factor.",
        "citation:   Nobody, 2024",
        "needs:      clean-labelled, victim",
        "from:       shrinker 1.0 (entry point 'plug-shrinker')",
        "shrink_plug/body.py:6",
        "factor: a number above 0 and at most 1 (default 0.9)",
        "what weights are multiplied by",
        "preset paper\n  factor = 0.5",
    ):
        assert text in done.stdout


def test_show_asks_which_and_suggests(bench: Any, tmp_path: Path) -> None:
    which = bench("show", "none")
    assert which.returncode == 2
    assert "`bench show attack none` or `bench show defense none`" in which.stderr
    unknown = bench("show", "small-cn")
    assert unknown.returncode == 2
    assert "Did you mean: small-cnn" in unknown.stderr
    kind = bench("show", "defence", "ft")
    assert kind.returncode == 2
    assert "unknown kind 'defence'. Did you mean: defense" in kind.stderr


def test_show_a_recipe_a_broken_plugin_and_a_broken_component(bench: Any, tmp_path: Path) -> None:
    install(tmp_path, "lab", {"lab_plug": "raise RuntimeError('boom')"})
    install(
        tmp_path, "half", {"half_plug": registering('register.attack("ghost", "half_plug:Ghost")')}
    )
    recipe = bench("show", "recipe", "signs")
    assert recipe.returncode == 0
    assert recipe.stdout.startswith("recipe signs, from doorbench")
    broken = bench("show", "plug-lab")
    assert broken.returncode == 0
    assert 'lab_plug.py", line 1' in broken.stdout
    ghost = bench("show", "attack", "ghost")
    assert ghost.returncode == 2
    assert "half_plug:Ghost: the module has no Ghost" in ghost.stderr


def test_the_parent_imports_no_method_and_nothing_heavy(tmp_path: Path, cache: Path) -> None:
    plugin(tmp_path)
    words = ["list", "list --json", "show recipe signs", "--help", "run --help", "--version"]
    text = (
        "import sys; from harness.cli import main; "
        "codes = [main(words.split()) for words in sys.argv[1:]]; "
        "print(' '.join(sys.modules), file=sys.stderr); sys.exit(any(codes))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", text, *words],
        cwd=tmp_path,
        env=surroundings(tmp_path, cache),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0
    loaded = set(done.stderr.split())
    assert not loaded & {
        "torch",
        "pandas",
        "rich",
        "numpy",
        "pydantic",
        "plugins",
        "shrink_plug",
        "shrink_plug.body",
    }


@pytest.mark.parametrize("words", [["--help"], ["list"]])
def test_it_is_quick_once_plugins_are_known(words: list[str], bench: Any) -> None:
    bench("list")
    times = []
    for _ in range(3):
        start = processor_seconds()
        assert bench(*words).returncode == 0
        times.append(processor_seconds() - start)
    assert min(times) < 0.3


def processor_seconds() -> float:
    """Return what finished child processes have taken: unlike the clock, a busy machine hardly
    moves it.
    """
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    "words", [[], ["lst"], ["list", "attack", "x"], ["run"], ["run", "g.toml", "--jobs", "0"]]
)
def test_mistakes_in_usage_exit_with_2(words: list[str], bench: Any) -> None:
    done = bench(*words)
    assert done.returncode == 2
    assert "usage: bench" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_package_called_plugins_is_refused(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "__init__.py").touch()
    done = bench("list")
    assert done.returncode == 2
    assert str(tmp_path / "plugins") in done.stderr
    assert str(ROOT / "plugins") in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_command_that_waits_for_a_plugin(
    number: int, code: int, tmp_path: Path, cache: Path
) -> None:
    pid = tmp_path / "pid"
    install(
        tmp_path,
        "stuck",
        {
            "stuck_plug": "import os, time; "
            f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
        },
    )
    command = subprocess.Popen(
        [sys.executable, "-P", "-m", "harness.cli", "list"],
        cwd=tmp_path,
        env=surroundings(tmp_path, cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background job ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(400):
        if pid.exists() and pid.read_text():
            break
        time.sleep(0.05)
    command.send_signal(number)
    _, error = command.communicate(timeout=15)
    assert command.returncode == code
    assert b"Traceback" not in error
    assert gone(int(pid.read_text()))


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_a_reader_that_leaves_is_no_error(tmp_path: Path, cache: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "harness.cli", "list"],
        cwd=tmp_path,
        env=surroundings(tmp_path, cache),
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert done.stderr == b""
    assert done.returncode == PIPE_CLOSED


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (NothingSelected("nothing matches"), 5, "bench: nothing matches\n"),
        (ValueError("odd"), 70, "this is a bug in bench itself"),
        (KeyboardInterrupt(), 130, "bench: interrupted"),
    ],
)
def test_what_a_verb_raises_becomes_an_exit_code(
    error: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main(["list"]) == code
    assert text in capsys.readouterr().err
