from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module

import pytest

from harness.doors import DOORS, resolve
from tests.kit.places import ROOT

EXPORTS = [(door, name) for door, names in DOORS.items() for name in names]


@pytest.mark.parametrize(("door", "name"), EXPORTS)
def test_every_name_is_what_its_home_calls_so(door: str, name: str) -> None:
    home = import_module(DOORS[door][name])
    assert getattr(import_module(door), name) is getattr(home, name)


@pytest.mark.parametrize("door", DOORS)
def test_a_name_is_kept_once_it_was_resolved(door: str) -> None:
    name = next(iter(DOORS[door]))
    namespace: dict[str, object] = {}
    value = resolve(door, name, namespace)
    assert namespace == {name: value}


@pytest.mark.parametrize("door", DOORS)
def test_a_name_that_is_not_exported_is_no_attribute(door: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{door}' has no attribute 'nothing'"):
        _ = import_module(door).nothing


@pytest.mark.parametrize("door", DOORS)
def test_all_and_dir_list_what_is_exported(door: str) -> None:
    module = import_module(door)
    extra = {"__version__"} if door == "harness" else set()
    assert set(module.__all__) == extra | DOORS[door].keys()
    assert set(module.__all__) <= set(dir(module))


def typed(door: str) -> dict[str, str]:
    """Return the home of each name that a door imports for type checkers, and nobody else sees."""
    folder = ROOT.joinpath(*door.split("."))
    tree = ast.parse((folder / "__init__.py").read_text())
    homes = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for statement in node.body:
                if isinstance(statement, ast.ImportFrom):
                    for alias in statement.names:
                        # Only `name as name` counts as an export there.
                        assert alias.asname == alias.name
                        assert alias.name not in homes
                        homes[alias.name] = str(statement.module)
    return homes


@pytest.mark.parametrize("door", DOORS)
def test_type_checkers_are_told_the_same_names_and_homes(door: str) -> None:
    assert typed(door) == DOORS[door]


def test_no_name_of_the_first_door_imports_torch() -> None:
    program = (
        "import sys\n"
        "import harness, harness.learn\n"
        "assert not {'numpy', 'pydantic', 'torch'} & set(sys.modules), 'doors cost nothing'\n"
        "for name in harness.__all__:\n"
        "    getattr(harness, name)\n"
        "    assert 'torch' not in sys.modules, name\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
