from __future__ import annotations

import subprocess
import sys

import harness
from harness import components
from harness.doors import DOORS
from tests.kit.places import ROOT


def test_importing_costs_no_torch() -> None:
    code = (
        "import sys, harness.components\n"
        "assert not {'torch', 'numpy'} & set(sys.modules), 'heavy'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_export_is_there_under_its_name() -> None:
    assert sorted(components.__all__) == sorted(set(components.__all__))
    assert all(hasattr(components, name) for name in components.__all__)
    ours = [name for name, home in DOORS["harness"].items() if home == "harness.components"]
    assert set(ours) <= set(components.__all__)
    assert all(getattr(harness, name) is getattr(components, name) for name in ours)
