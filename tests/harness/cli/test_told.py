"""What a real store tells of its results beside the numbers: quotas cut short, mixed machines."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import environment as machine
from harness.store.manifest import MANIFEST, Manifest, dump
from tests.kit.command import Bench
from tests.kit.tiny import GRID

# 160 images train, 16 of each class: of the 17 that are asked for, 16 are there.
SHORT = """
[[attack]]
name = "badnets"
as = "greedy"
eligible = "target"
poison_rate = 0.105
"""
SAID = "poisoned 16 of 160 images (0.1), where poison_rate asks for 0.105: no more are eligible"


@pytest.fixture(scope="module")
def folder(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a grid, two of its attacks, and its store."""
    folder = tmp_path_factory.mktemp("told")
    (folder / "grid.toml").write_text(GRID + SHORT)
    (folder / "plain.toml").write_text(GRID)
    result = bench("run", "grid.toml", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


def test_status_tells_of_a_quota_that_was_cut_short(folder: Path, bench: Bench) -> None:
    status = bench("status", "grid.toml", cwd=folder)
    assert status.returncode == 0, status.stderr
    lines = status.stdout.splitlines()
    at = lines.index("cut short: 1")
    assert lines[at + 1] == "  poison  greedy"
    assert lines[at + 2] == f"    {SAID}"
    assert SAID in bench("report", "grid.toml", cwd=folder).stdout.replace("\n    ", " ")
    verbose = bench("status", "grid.toml", "--verbose", cwd=folder).stdout
    assert "poison_rate = 0.105" in verbose.partition(SAID)[0]


def test_status_is_silent_where_every_quota_was_met(folder: Path, bench: Bench) -> None:
    assert "cut short" not in bench("status", "plain.toml", cwd=folder).stdout
    assert "cut short" not in bench("status", cwd=folder).stdout


def test_status_looks_at_no_images_and_imports_no_torch(
    folder: Path, environment: Mapping[str, str]
) -> None:
    script = (
        "import sys; from harness.cli import main\n"
        "opened = []\n"
        "sys.addaudithook(lambda name, given: name == 'open' and opened.append(str(given[0])))\n"
        "assert main(['status', 'grid.toml']) == 0\n"
        "assert 'torch' not in sys.modules\n"
        "assert [path for path in opened if path.endswith('truth.json')]\n"
        "assert not [path for path in opened if path.endswith('.safetensors')], opened\n"
    )
    command = [sys.executable, "-c", script]
    subprocess.run(command, cwd=folder, env=dict(environment), check=True, timeout=100)


# --- machines -------------------------------------------------------------------------------------


def altered(store: Path, environment: Mapping[str, Any], of: str = "") -> None:
    """Let victims have been trained in another environment: all, or those whose spec holds `of`."""
    changed = 0
    for path in (store / "objects").rglob(MANIFEST):
        manifest = Manifest.load(path.read_bytes(), path.parent.name)
        if manifest.spec["stage"] != "victim" or of not in json.dumps(manifest.spec):
            continue
        record = manifest.record
        record["environment"] = {**record["environment"], **environment}
        data = dump(
            manifest.key,
            spec=manifest.spec,
            code=manifest.code,
            files=manifest.files,
            parents=manifest.parents,
            record=record,
        )
        path.write_bytes(data)
        changed += 1
    assert changed


def warnings(bench: Bench, folder: Path, store: Path) -> list[str]:
    result = bench("report", "grid.toml", "--store", store, cwd=folder)
    assert result.returncode == 0, result.stderr
    text = result.stdout.replace("\n    ", " ")
    return [line for line in text.splitlines() if line.startswith("Warning: ")]


def test_a_store_of_one_machine_warns_of_nothing_and_names_its_processor(
    folder: Path, bench: Bench
) -> None:
    assert warnings(bench, folder, folder / ".bench") == []
    told = set()
    for path in (folder / ".bench" / "objects").rglob(MANIFEST):
        told.add(json.loads(path.read_text())["record"]["environment"]["processor"])
    assert told == {machine.processor()}


@pytest.mark.parametrize(
    ("elsewhere", "differ", "shown"),
    [
        ({"processor": "VIA Nano"}, "processor", "VIA Nano"),
        ({"cpu_capability": "NEON"}, "instruction set", "NEON"),
        ({"threads": 3}, "number of threads", "3 threads"),
        ({"device": "cuda", "gpu": "NVIDIA H200"}, "device", "NVIDIA H200"),
    ],
)
def test_a_store_of_several_machines_says_so_and_what_differs(
    elsewhere: Mapping[str, Any],
    differ: str,
    shown: str,
    folder: Path,
    bench: Bench,
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    shutil.copytree(folder / ".bench", store)
    altered(store, elsewhere)
    (warning,) = warnings(bench, folder, store)
    assert f"environments, which differ in {differ}: " in warning
    # Two attacks, each without and with a defense, by two metrics.
    assert f"{shown} (8 of 8 values)" in warning


def test_one_victim_of_another_processor_counts_for_what_is_made_from_it(
    folder: Path, bench: Bench, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(folder / ".bench", store)
    greedy = ""
    for path in (store / "objects").rglob(MANIFEST):
        spec = json.loads(path.read_text())["spec"]
        if spec["stage"] == "poison" and spec["component"]["params"]["poison_rate"] == 0.105:
            greedy = path.parent.name
    assert greedy
    altered(store, {"processor": "VIA Nano"}, of=greedy)
    (warning,) = warnings(bench, folder, store)
    assert "VIA Nano (4 of 8 values)" in warning
