"""Where modules lie, and what they may import. import-linter holds the floors (`make lint`)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.doors import DOORS
from tests.kit.places import ROOT, TESTS

FRONT_MODULES = 8
"""Modules that may lie in `harness/` itself; whatever is more belongs in a room."""
OURS = ("harness", "plugins", "tests")
TEST_MODULE = re.compile(r"tests\.(harness|plugins|whole)\b")
TEST_MODULE_IN_TEXT = re.compile(r"(?:from|import) tests\.(?:harness|plugins|whole)\b")


@dataclass(frozen=True)
class Import:
    """A module that is imported, and the name that is taken from it, if any."""

    line: int
    module: str
    name: str | None = None


def imports(tree: ast.AST) -> Iterator[Import]:
    """Yield all absolute imports, also those inside functions and for typing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                yield Import(node.lineno, str(node.module), alias.name)


def modules_below(*folders: str) -> list[Path]:
    paths: list[Path] = []
    for folder in folders:
        paths += sorted((ROOT / folder).rglob("*.py"))
    assert paths
    return paths


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- tests ----------------------------------------------------------------------------------------


def imports_of_tests(text: str) -> list[int]:
    """Return the lines on which a module imports a test module, or a program in one of its strings
    does.
    """
    tree = ast.parse(text)
    lines = []
    for item in imports(tree):
        # `from tests.whole import test_docs`, and `from tests import whole`
        if TEST_MODULE.match(item.module) or TEST_MODULE.match(f"{item.module}.{item.name}"):
            lines.append(item.line)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            lines += [node.lineno] * len(TEST_MODULE_IN_TEXT.findall(node.value))
    return lines


@pytest.mark.parametrize("path", modules_below("tests"), ids=named)
def test_helpers_are_in_the_kit_and_no_test_module_is_imported(path: Path) -> None:
    assert imports_of_tests(path.read_text()) == []


@pytest.mark.parametrize(
    "imported",
    [
        "from {}.harness.run.test_host import slot",
        "from {} import whole",
        "import tests.kit, {}.plugins.parts.test_bch",
        "def late():\n    from {}.whole import test_docs",
        "SCRIPT = '''\nfrom {}.whole.test_docs import x\n'''",
    ],
)
def test_an_import_of_a_test_module_is_noticed(imported: str) -> None:
    assert len(imports_of_tests(imported.format("tests"))) == 1
    assert imports_of_tests(imported.format("tests.kit")) == []


def without_original(tests: Path, package: Path) -> list[str]:
    """Name the folders below `tests` that are no room of `package`, and the test modules directly
    in it that are named after no module there.
    """
    strays = []
    for path in sorted(tests.iterdir()):
        if path.is_dir() and path.name != "__pycache__":
            room = package / path.name / "__init__.py"
            if not room.exists():
                strays.append(path.name)
        if path.suffix == ".py":
            module = package / path.name.removeprefix("test_")
            if not module.exists():
                strays.append(path.name)
    return strays


@pytest.mark.parametrize("package", ["harness", "plugins"])
def test_folders_of_tests_are_named_after_rooms(package: str) -> None:
    assert without_original(TESTS / package, ROOT / package) == []


def test_a_folder_of_tests_without_a_room_is_noticed(tmp_path: Path) -> None:
    for path in ("tests/run", "tests/engine", "package/run", "package/engine"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "package/run/__init__.py").touch()
    (tmp_path / "package/keys.py").touch()
    (tmp_path / "tests/test_keys.py").touch()
    (tmp_path / "tests/test_locks.py").touch()
    strays = without_original(tmp_path / "tests", tmp_path / "package")
    assert strays == ["engine", "test_locks.py"]


# --- plugins --------------------------------------------------------------------------------------


def behind_the_doors(text: str) -> list[str]:
    """Name what a plugin imports, or reaches, of ours that is neither one of the two front doors
    nor another plugin.
    """
    tree = ast.parse(text)
    strays = []
    for item in imports(tree):
        package = item.module.partition(".")[0]
        if package == "plugins" or package not in OURS:
            continue
        if item.module not in DOORS:
            strays.append(item.module)
        elif item.name is not None and not exported(item.module, item.name):
            strays.append(f"{item.module}.{item.name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            door, _, name = ast.unparse(node).rpartition(".")
            if door in DOORS and not exported(door, name):
                strays.append(f"{door}.{name}")
    return strays


def exported(door: str, name: str) -> bool:
    """True for a name that a door exports, and for a door itself."""
    return name in DOORS[door] or name == "__version__" or f"{door}.{name}" in DOORS


@pytest.mark.parametrize("path", modules_below("plugins", "examples", "tests/probes"), ids=named)
def test_plugins_use_the_two_front_doors_and_each_other(path: Path) -> None:
    assert behind_the_doors(path.read_text()) == []


@pytest.mark.parametrize(
    ("imported", "stray"),
    [
        ("from harness.components import Defense", "harness.components"),
        ("from harness.learn.images import ImageSet", "harness.learn.images"),
        ("import harness.keys", "harness.keys"),
        ("from harness import keys", "harness.keys"),
        ("from harness.learn import training", "harness.learn.training"),
        ("def late():\n    from harness.learn.training import fit", "harness.learn.training"),
        ("if TYPE_CHECKING:\n    from harness.run import host", "harness.run"),
        ("from tests.kit.learned import Tiny", "tests.kit.learned"),
        ("import harness\nprint(harness.learn.training.fit)", "harness.learn.training"),
    ],
)
def test_an_import_past_the_doors_is_noticed(imported: str, stray: str) -> None:
    assert behind_the_doors(imported) == [stray]


def test_an_import_through_the_doors_is_none() -> None:
    text = (
        "import harness.learn, torch, harnesses\n"
        "from harness import Defense, __version__, learn\n"
        "from harness.learn import ImageSet\n"
        "from plugins.parts import pgd\n"
        "print(harness.Access, harness.learn.stamp)\n"
    )
    assert behind_the_doors(text) == []


# --- the host -------------------------------------------------------------------------------------


def test_few_modules_lie_in_the_harness_itself() -> None:
    names = [path.name for path in (ROOT / "harness").glob("*.py") if path.stem != "__init__"]
    assert len(names) <= FRONT_MODULES, sorted(names)
