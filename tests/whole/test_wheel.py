"""The wheel: what is in it, and that it works from a folder in which somebody else's `plugins`
lies.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.kit.command import Bench
from tests.kit.places import ROOT

SOURCES = ("harness", "plugins", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    # From a copy: building leaves a folder behind, of which the next wheel would be made too.
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, source)
    (source / "tests").mkdir()
    (source / "tests" / "__init__.py").touch()  # what else lies about must not get in
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"]
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *options, str(source)], check=True, cwd=folder)
    (made,) = folder.glob("doorbench-*.whl")
    return made


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_it_holds_the_two_packages_and_what_they_need(unpacked: Path) -> None:
    assert sorted(path.name.partition("-")[0] for path in unpacked.iterdir()) == [
        "doorbench",
        "harness",
        "plugins",
    ]
    for package in ("harness", "plugins"):
        held = {
            path.relative_to(unpacked) for path in (unpacked / package).rglob("*") if path.is_file()
        }
        source = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        source |= {path.relative_to(ROOT) for path in (ROOT / package).glob("blessed.json")}
        assert held == {*source, Path(package) / "py.typed"}


def test_every_folder_of_it_is_a_package(unpacked: Path) -> None:
    for package in ("harness", "plugins"):
        folders = {path.parent for path in (unpacked / package).rglob("*.py")}
        assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_it_says_how_it_is_called_and_whose_plugins_it_brings(unpacked: Path) -> None:
    (information,) = unpacked.glob("*.dist-info")
    points = (information / "entry_points.txt").read_text()
    assert "[console_scripts]\nbench = harness.cli:main\n" in points
    assert "[bench.plugins]\nbuiltin = plugins\n" in points
    metadata = (information / "METADATA").read_text()
    assert "License-Expression: MIT\n" in metadata
    assert "Requires-Dist: torch>=2.6\n" in metadata
    assert list(information.rglob("LICENSE"))


def surroundings(unpacked: Path, cache: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(unpacked), "BENCH_CACHE": str(cache)}


@pytest.fixture
def decoy(tmp_path: Path) -> Path:
    """A working directory with a package `plugins` that must not be taken for ours."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "__init__.py").write_text(
        "raise SystemExit('the decoy was imported')\n"
    )
    return tmp_path


def test_a_decoy_that_wins_the_import_is_refused(bench: Bench, unpacked: Path, decoy: Path) -> None:
    # `python -m` puts the working directory before everything else.
    told = bench("list", cwd=decoy, env=surroundings(unpacked, decoy / "cache"))
    assert told.returncode == 2
    assert f"`import plugins` finds {decoy}/plugins" in told.stderr
    assert f"the built-in methods in {unpacked}/plugins are expected" in told.stderr
    assert "the decoy was imported" not in told.stderr + told.stdout


def test_a_decoy_that_does_not_win_is_nobodys_business(
    environment: Mapping[str, str], unpacked: Path, decoy: Path
) -> None:
    # As the command `bench` is started: without the working directory on the path.
    told = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from harness.cli import main; sys.exit(main())",
            "list",
            "--json",
        ],
        cwd=decoy,
        env={**environment, **surroundings(unpacked, decoy / "cache"), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    rows = json.loads(told.stdout)
    assert {"badnets", "ft", "signs", "small-cnn", "acc"} <= {row["name"] for row in rows}
    assert [row["broken"] for row in rows if row["broken"]] == []


def test_an_editable_install_is_not_mistaken_for_it(
    unpacked: Path, environment: Mapping[str, str]
) -> None:
    """The check above means what it says only if the modules were those of the wheel."""
    code = (
        "import harness, plugins\n"
        "print(harness.__file__, plugins.__file__, harness.__version__, sep='\\n')\n"
    )
    told = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**environment, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=True,
    )
    harness, plugins, version = told.stdout.split()
    assert (harness, plugins) == (
        f"{unpacked}/harness/__init__.py",
        f"{unpacked}/plugins/__init__.py",
    )
    assert (unpacked / f"doorbench-{version}.dist-info").is_dir()
