"""The example package as a third party's user meets it: installed beside doorbench, listed, shown,
run.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.components import Context, Task
from tests.kit.command import Bench
from tests.kit.places import ROOT

EXAMPLE = ROOT / "examples" / "doorbench-example"

SMALL = """
extends = "{grid}"
[[dataset]]
name = "signs"
train = 300
test = 100
pool = 40
[[model]]
name = "small-cnn"
width = 4
[[defense]]
name = "ft"
epochs = 1
[training]
epochs = 1
[[block]]
attack = ["single-pixel"]
defense = ["none", "clp"]
"""


@dataclass(frozen=True)
class Installed:
    """Where the package was installed, and the variables of an environment that has it."""

    folder: Path
    env: Mapping[str, str]


@pytest.fixture(scope="module")
def installed(
    environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    folder = tmp_path_factory.mktemp("example")
    # Building leaves traces beside the sources.
    shutil.copytree(
        EXAMPLE,
        folder / "source",
        ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"),
    )
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    options = [
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--no-compile",
        "--target",
        str(folder / "site"),
    ]
    subprocess.run([*pip, *options, str(folder / "source")], check=True, cwd=folder)
    path = os.pathsep.join([str(ROOT), str(folder / "site")])
    return Installed(folder / "site", {"PYTHONPATH": path, "BENCH_CACHE": str(folder / "cache")})


def test_it_holds_its_own_package_only(installed: Installed) -> None:
    assert sorted(path.name for path in installed.folder.iterdir() if path.name != "bin") == [
        "doorbench_example",
        "doorbench_example-0.1.0.dist-info",
    ]


def test_it_is_listed_and_shown_with_its_distribution(bench: Bench, installed: Installed) -> None:
    listed = bench("list", "--json", env=installed.env)
    assert listed.returncode == 0, listed.stderr
    rows = {(row["kind"], row["name"]): row for row in json.loads(listed.stdout)}
    assert {key for key, row in rows.items() if row["distribution"] == "doorbench-example"} == {
        ("attack", "single-pixel"),
        ("defense", "clp"),
    }
    assert (
        rows["defense", "clp"]["summary"]
        == "Prune channels with a high Lipschitz bound (Zheng et al. 2022)."
    )
    assert all(row["broken"] is None for row in rows.values())
    shown = bench("show", "clp", env=installed.env)
    assert shown.returncode == 0, shown.stderr
    assert "from:       doorbench-example 0.1.0 (entry point 'example')" in shown.stdout
    assert f"source:     {installed.folder}/doorbench_example/clp.py:" in shown.stdout
    assert "u: a number above 0 (default 3.0)" in shown.stdout


def core() -> list[Path]:
    """The files of doorbench itself, but for what Python caches."""
    return sorted(
        path
        for room in ("harness", "plugins")
        for path in (ROOT / room).rglob("*")
        if path.suffix != ".pyc"
    )


def test_its_grid_runs(bench: Bench, installed: Installed, tmp_path: Path) -> None:
    before = core()
    (tmp_path / "grid.toml").write_text(
        SMALL.format(grid=os.path.relpath(EXAMPLE / "grid.toml", tmp_path))
    )
    run = bench("run", "grid.toml", cwd=tmp_path, env=installed.env)
    assert run.returncode == 0, run.stderr
    assert "clp" in run.stdout
    report = bench(
        "report", "grid.toml", "--format", "csv", "--full", cwd=tmp_path, env=installed.env
    )
    assert report.returncode == 0, report.stderr
    rows = list(csv.DictReader(io.StringIO(report.stdout)))
    assert {(row["attack"], row["defense"], row["metric"]) for row in rows if row["value"]} >= {
        ("single-pixel", "none", "asr"),
        ("single-pixel", "clp", "asr"),
        ("single-pixel", "clp", "channels_pruned"),
    }
    (pruned,) = [row for row in rows if row["metric"] == "channels_pruned"]
    assert float(pruned["value"]) >= 0
    assert pruned["status"] == "done"
    assert "doorbench-example 0.1.0" in pruned["versions"]
    assert core() == before


# --- the methods ----------------------------------------------------------------------------------


@pytest.fixture
def package(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a module of the package."""
    monkeypatch.syspath_prepend(str(installed.folder))

    def load(name: str) -> ModuleType:
        return importlib.import_module(f"doorbench_example.{name}")

    yield load
    for name in [name for name in sys.modules if name.partition(".")[0] == "doorbench_example"]:
        del sys.modules[name]


TASK = Task("signs", classes=10, height=6, width=8, channels=3, train_count=100)


def test_the_trigger_is_one_pixel(package: Any) -> None:
    import torch

    trigger = package("single_pixel").SinglePixel(row=1, column=2, value=0.25).trigger(TASK)
    images = torch.rand(4, 3, 6, 8)
    stamped = trigger(images)
    changed = (stamped != images).any(1)
    assert torch.nonzero(changed).tolist() == [[image, 4, 5] for image in range(4)]
    assert (stamped[:, :, 4, 5] == 0.25).all()
    assert set(trigger.state_dict()) == {"mask", "light"}


def test_the_pixel_must_lie_in_the_picture(package: Any) -> None:
    attack = package("single_pixel").SinglePixel
    assert attack(row=5, column=7).compatible(Context(TASK)) is None
    assert attack(row=6).compatible(Context(TASK)) == "row 6, column 1 lies outside 6x8 pixels"
    assert "label 10 is no class" in attack(target=10).compatible(Context(TASK))


def test_clp_prunes_the_channel_that_stands_out_and_no_other(package: Any) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    net: Any = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 3), nn.BatchNorm2d(16)
    )
    with torch.no_grad():
        net[0].weight[7] *= 50
        net[4].running_var[3] = 1e-4  # normalised by next to nothing: as large a gain
    before = {name: value.clone() for name, value in net.state_dict().items()}

    class Granted:
        def victim(self) -> nn.Module:
            return net

    result = package("clp").CLP().defend(Granted())
    assert result.record == {"channels_pruned": 2}
    changed = {
        name
        for name, value in result.model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"1.weight", "4.weight"}  # biases were zero before
    for layer, channel in (("1", 7), ("4", 3)):
        norm = net.get_submodule(layer)
        assert (norm.weight == 0).nonzero().tolist() == [[channel]]
        assert norm.bias[channel] == 0
    assert package("clp").CLP(u=100.0).defend(Granted()).record == {"channels_pruned": 0}


def test_the_bound_is_the_gain_of_the_pair(package: Any) -> None:
    """Against its definition: the largest singular value of a channel's kernel times the scale of
    its BatchNorm.
    """
    import numpy as np
    import torch
    from torch import nn

    torch.manual_seed(1)
    conv: Any = nn.Conv2d(4, 8, 3)
    norm: Any = nn.BatchNorm2d(8).eval()
    with torch.no_grad():
        norm.weight.uniform_(-2, 2)
        norm.running_var.uniform_(0.1, 3)
    scale = norm.weight.detach().numpy() / np.sqrt(norm.running_var.numpy() + norm.eps)
    kernels = conv.weight.detach().numpy()
    bounds = np.array([np.linalg.svd(kernel.reshape(4, 9))[1][0] for kernel in kernels]) * np.abs(
        scale
    )
    for u in (0.1, 0.5, 1.0):
        expected = bounds > bounds.mean() + u * bounds.std(ddof=1)
        assert package("clp").outliers(conv, norm, u).tolist() == expected.tolist()
