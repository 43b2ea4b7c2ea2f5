"""The example notebook, executed cell by cell where no Jupyter is installed."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.kit.places import ROOT

FOLDER = ROOT / "examples" / "notebook"
NOTEBOOK = FOLDER / "results.ipynb"

RUN = """
import ast, json, sys
names = {"__name__": "__main__"}
for number, text in enumerate(json.loads(sys.stdin.read()), start=1):
    tree = ast.parse(text)
    shown = None
    if isinstance(tree.body[-1], ast.Expr):  # a notebook shows the value of a cell's last line
        shown = ast.Expression(tree.body.pop().value)
    exec(compile(tree, f"cell {number}", "exec"), names)
    if shown is not None:
        print(repr(eval(compile(shown, f"cell {number}", "eval"), names)))
table = names["grid"].results()
mine = table[(table["attack"] == "blend") & (table["victim_seed"] == 0)]
asr = mine[mine["metric"] == "asr"].set_index("defense")["value"]
assert abs(asr["none"] - names["asr"]["victim"]) < 1e-3, (asr, names["asr"])
assert abs(asr["ft"] - names["asr"]["after ft"]) < 1e-3, (asr, names["asr"])
"""


@pytest.fixture(scope="module")
def notebook() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(NOTEBOOK.read_text())
    return found


def test_it_runs_and_its_numbers_are_those_of_the_table(
    notebook: dict[str, Any], tmp_path: Path, environment: Mapping[str, str]
) -> None:
    shutil.copytree(FOLDER, tmp_path / "notebook", ignore=shutil.ignore_patterns(".*"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    ran = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(cells),
        cwd=tmp_path / "notebook",
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "clean images are wrong" in ran.stdout
    assert "=== victim (blend, seed 0), done" in ran.stdout


def test_it_is_kept_without_output(notebook: dict[str, Any]) -> None:
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert cell["cell_type"] in ("code", "markdown")
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


def test_it_uses_the_front_doors(notebook: dict[str, Any]) -> None:
    from harness.doors import DOORS

    modules = set()
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            for node in ast.walk(ast.parse("".join(cell["source"]))):
                if isinstance(node, ast.Import):
                    modules |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    modules.add(str(node.module))
    ours = {name for name in modules if name.partition(".")[0] in ("harness", "plugins")}
    assert ours == set(DOORS)
