"""The GPU benchmark, tiny and on a CPU: it is run on a card now and then, and must not have rotted
by then.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from tests.kit.places import ROOT

SCRIPT = ROOT / "benchmarks" / "speed" / "gpu.py"
TINY = (
    "--device",
    "cpu",
    "--quick",
    "--images",
    "40",
    "--width",
    "2",
    "--victims",
    "1",
    "--jobs",
    "1",
)
GRID = """
[[dataset]]
name = "npz"
path = "cifar10.npz"
pool = 4
[[model]]
name = "small-cnn"
width = 2
[[attack]]
name = "badnets"
poison_rate = 0.3
[[defense]]
name = "{defense}"
epochs = 1
[[metric]]
name = "asr"
"""


def measured(
    folder: Path, environment: Mapping[str, str], *words: str, defense: str = "ft"
) -> dict[str, Any]:
    (folder / "grid.toml").write_text(GRID.format(defense=defense))
    line = [
        sys.executable,
        str(SCRIPT),
        *TINY,
        "--grid",
        folder / "grid.toml",
        "--output",
        folder / "out.json",
        *words,
    ]
    around = {**environment, "BENCH_DATA": str(folder)}
    done = subprocess.run(
        line, env=around, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return cast(dict[str, Any], json.loads((folder / "out.json").read_text()))


@pytest.fixture
def quiet(environment: Mapping[str, str]) -> Mapping[str, str]:
    return {
        name: value for name, value in environment.items() if not name.startswith("BENCH_STEPPING")
    }


@pytest.mark.slow
def test_methods_and_small_victims_run(tmp_path: Path, quiet: Mapping[str, str]) -> None:
    *methods, small = measured(tmp_path, quiet, "--only", "methods,small")["figures"]
    assert len(methods) == 9
    assert all(
        one["value"] == 0 for one in methods
    )  # each came to its end, which nan says not, and waited for nothing
    assert small["name"] == "small victims, 1 at a time"
    assert small["value"] > 0


def test_every_other_section_runs(tmp_path: Path, quiet: Mapping[str, str]) -> None:
    sections = {"ceilings", "epochs", "waits", "data", "evaluation", "grid"}
    figures = measured(tmp_path, quiet, "--only", ",".join(sorted(sections)))["figures"]
    assert not [one for one in figures if "failed" in one]
    assert {one["section"] for one in figures} == sections
    named = {one["name"]: one for one in figures}
    assert named["epoch of ResNet-18, eager"]["value"] > 0
    assert named["whole grid"]["note"].startswith("drawn images")
    assert "1 cells: 1 done" in named["whole grid"]["note"]
    assert all(one["value"] == one["value"] for one in figures)
    assert all(one["reached"] is None for one in figures)  # goals are a GPU's


PLAYED = """
import runpy, sys
from pathlib import Path
import torch
from tests.kit.played_gpu import playing
torch.set_num_threads(1)
sys.path.insert(0, str(Path(sys.argv[1]).parent))
sys.argv = sys.argv[1:]
with playing():
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_what_needs_no_kernels_runs_on_a_played_gpu(
    tmp_path: Path, quiet: Mapping[str, str]
) -> None:
    """What only a card goes through is in the right places there, too, and the host waits once an
    epoch.
    """
    sections = {"epochs", "waits", "data", "evaluation"}
    words = [
        "--device",
        "cuda",
        "--only",
        ",".join(sorted(sections)),
        "--output",
        str(tmp_path / "out.json"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", PLAYED, str(SCRIPT), *TINY, *words],
        cwd=ROOT, env={**quiet}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["device"] == "played"
    assert not [one for one in told["figures"] if "failed" in one]
    assert {one["section"] for one in told["figures"]} == sections
    assert [one["value"] for one in told["figures"] if one["section"] == "waits"] == [1.0] * 5


def test_a_section_that_fails_hides_no_other(tmp_path: Path, quiet: Mapping[str, str]) -> None:
    figures = measured(tmp_path, quiet, "--only", "grid,data", defense="no-such-defense")["figures"]
    assert "no-such-defense" in figures[0]["failed"]
    assert figures[-1]["name"] == "data path, a whole epoch"
