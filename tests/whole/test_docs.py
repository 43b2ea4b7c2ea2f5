"""The documentation, read as a user would: its grids can be read, its plugin works, and nothing
public is missing.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

import pytest

from harness import grid
from harness.cli import parser
from harness.cli.list_ import rows_of
from harness.components import BY_KIND
from harness.doors import DOORS
from harness.errors import BenchError
from harness.registry.discovery import discover
from harness.registry.memo import Memo
from harness.registry.names import Registry
from harness.vocabulary import KINDS
from tests.kit.command import Bench
from tests.kit.places import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]

BASE = """
seeds = [0]
[[dataset]]
name = "signs"
[[model]]
name = "small-cnn"
[[attack]]
name = "badnets"
poison_rate = 0.1
[[attack]]
name = "sig"
[[defense]]
name = "none"
[[defense]]
name = "ft"
[[defense]]
name = "nad"
[[metric]]
name = "acc"
[[metric]]
name = "asr"
"""
"""What the fragments of docs/grid.md are read over."""


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its language, its text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])


BLOCKS = [block for page in PAGES for block in blocks(page)]
TOML = [block for block in BLOCKS if block.language == "toml"]
GRIDS = [block for block in TOML if "project" not in tomllib.loads(block.text)]
AXES = {"dataset", "model", "attack", "defense", "metric"}
COMPLETE = [block for block in GRIDS if tomllib.loads(block.text).keys() >= AXES]
PYTHON = [block for block in BLOCKS if block.language == "python"]
MODULE = re.compile(r"# (\w+)\.py\b")
"""The first line of a block that is a module of its own."""
PACKAGE = [
    block for block in PYTHON if block.page.name == "plugins.md" and MODULE.match(block.text)
]
"""The modules of the complete package in docs/plugins.md."""


@pytest.fixture(scope="module")
def memo(tmp_path_factory: pytest.TempPathFactory) -> Memo:
    return Memo(tmp_path_factory.mktemp("memo"))


@pytest.fixture(scope="module")
def registry(memo: Memo) -> Registry:
    return discover(memo)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def named(text: str) -> set[str]:
    """Every word within backticks of a page."""
    return set(re.findall(r"[\w-]+", " ".join(spans(text))))


def spans(text: str) -> list[str]:
    """Return the text within each pair of backticks on a page."""
    return re.findall(r"`([^`\n]+)`", text)


def section(text: str, title: str) -> str:
    """Return the text under a heading, up to the next heading of its level or above."""
    (heading,) = re.finditer(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    level = len(heading[1])
    following = re.compile(rf"^#{{1,{level}}} ", re.MULTILINE)
    return following.split(text[heading.end() :])[0]


def table_rows(text: str) -> list[list[str]]:
    """Return the cells of each row of the tables in a text, without their heads."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    ruled = [set("".join(row)) == {"-"} for row in rows]
    heads = [*ruled[1:], False]
    return [row for row, rule, head in zip(rows, ruled, heads, strict=True) if not (rule or head)]


# --- grids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", GRIDS, ids=str)
def test_every_grid_in_the_documentation_can_be_read(block: Block, tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(BASE)
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference/bcu-1.csv").write_text(
        "dataset,model,attack,variant,defense,metric,value,unit\n"
    )
    # A fragment stands for a change to a grid, which is what `extends` is for.
    first = "" if block in COMPLETE else 'extends = "base.toml"\n'
    (tmp_path / "grid.toml").write_text(first + block.text)
    assert grid.read(tmp_path / "grid.toml").cells


def test_there_are_complete_grids_and_fragments() -> None:
    assert {block.page.name for block in COMPLETE} == {"README.md", "grid.md"}
    assert len(GRIDS) > len(COMPLETE) + 8


@pytest.mark.parametrize("block", COMPLETE, ids=str)
def test_the_entries_of_a_complete_grid_are_sound(
    block: Block, tmp_path: Path, memo: Memo, registry: Registry
) -> None:
    from harness.plan.binding import bind
    from harness.registry.resolve import Resolver

    (tmp_path / "grid.toml").write_text(block.text)
    read = grid.read(tmp_path / "grid.toml")
    bound = bind(read, read.cells, registry, Resolver(registry, memo=memo))
    assert {entry.kind for entry, _ in bound.components} == AXES
    assert all(bound.recipes.values())


def test_the_grid_of_the_readme_has_as_many_cells_as_it_says(tmp_path: Path) -> None:
    (block,) = [block for block in COMPLETE if block.page.name == "README.md"]
    (tmp_path / "grid.toml").write_text(block.text)
    count = len(grid.read(tmp_path / "grid.toml").cells)
    assert f"asks for {count} cells" in page("README.md")


@pytest.mark.parametrize(
    "path",
    sorted([*ROOT.glob("benchmarks/**/*.toml"), *ROOT.glob("examples/*/grid.toml")]),
    ids=str,
)
def test_every_grid_that_ships_can_be_read(path: Path) -> None:
    assert grid.read(path).cells


@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmarks/**/*.toml")), ids=str)
def test_a_grid_that_ships_asks_for_nothing_wrong(bench: Bench, path: Path, tmp_path: Path) -> None:
    """Data and released networks may not be here; all else is right."""
    planned = bench("plan", path, "--store", tmp_path / "store")
    complaints = re.findall(r"^(?:bench: )?\S+\.toml:\d+: .*$", planned.stderr, re.MULTILINE)
    assert planned.returncode == 0 or complaints, planned.stderr
    absent = re.compile(r": there is no file | is not in \S+; say download = true")
    assert [text for text in complaints if not absent.search(text)] == []


def test_every_key_of_a_grid_is_described() -> None:
    from harness.grid.axes import SEED_AXES
    from harness.grid.blocks import _KEYS as BLOCK
    from harness.grid.fields import GRANTS
    from harness.grid.files import TOP
    from harness.grid.tables import _KEYS as TABLE_KEYS
    from harness.learn.recipes import Recipe
    from harness.vocabulary import RESERVED

    wanted = {*TOP, *RESERVED, *BLOCK, *TABLE_KEYS, *SEED_AXES, *GRANTS, *Recipe.model_fields}
    wanted |= {*BY_KIND["dataset"].model_fields, *BY_KIND["model"].model_fields}
    assert wanted - named(page("docs/grid.md")) == set()


# --- plugins --------------------------------------------------------------------------------------


@pytest.fixture
def complete_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The modules of the guide's package, written to files; the one that registers is imported."""
    names = []
    for block in PACKAGE:
        name = MODULE.match(block.text)
        assert name
        names.append(name[1])
        (tmp_path / f"{name[1]}.py").write_text(block.text)
    monkeypatch.syspath_prepend(str(tmp_path))
    (project,) = [
        tomllib.loads(block.text)
        for block in TOML
        if block.page.name == "plugins.md" and block not in GRIDS
    ]
    assert sorted(project["tool"]["setuptools"]["py-modules"]) == sorted(names)
    (entry,) = project["project"]["entry-points"]["bench.plugins"].values()
    try:
        yield importlib.import_module(entry)
    finally:
        for name in names:
            sys.modules.pop(name, None)


def test_the_package_of_the_guide_registers_a_sound_defense(complete_package: ModuleType) -> None:
    from harness.introspect.classes import load
    from harness.introspect.register import Register

    collected = Register()
    complete_package.bench_register(collected)
    assert "my_clp" not in sys.modules, "listing plugins must not import what they bring"
    (entry,) = collected.components
    assert f'name = "{entry["name"]}"' in page("docs/plugins.md")
    component = load(entry["kind"], entry["target"])
    assert component.model_validate_json('{"u": 2.5}').u == 2.5  # type: ignore[attr-defined]
    assert all(field.description for field in component.model_fields.values())


def test_the_defense_of_the_package_prunes(complete_package: ModuleType) -> None:
    import torch
    from torch import nn

    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU())
    with torch.no_grad():
        net[0].weight[5] *= 100

    class Granted:
        def victim(self) -> nn.Module:
            return net

    result = importlib.import_module("my_clp").CLP().defend(Granted())
    assert result.record == {"channels_pruned": 1}
    assert net[1].weight[5] == 0


def test_the_defense_of_the_package_is_that_of_the_examples() -> None:
    example = page("examples/doorbench-example/doorbench_example/clp.py")
    known = {line.strip() for line in example.splitlines()}
    code = PACKAGE[0].text.partition("class ")[2]
    assert [line for line in f"class {code}".splitlines() if line.strip() not in known] == []


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_in_the_documentation_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", [block for block in PYTHON if "(Defense)" in block.text], ids=str)
def test_components_in_the_documentation_are_sound(block: Block) -> None:
    from harness.introspect.classes import faults

    names: dict[str, object] = {"__name__": "documented"}
    exec(compile(block.text, str(block), "exec", dont_inherit=True), names)
    found = [
        value
        for value in names.values()
        if inspect.isclass(value) and issubclass(value, BY_KIND["defense"])
    ]
    own = [value for value in found if value.__module__ == "documented"]
    assert own
    for component in own:
        assert faults("defense", component) == []


def test_every_project_file_in_the_documentation_names_the_entry_point() -> None:
    tables = [tomllib.loads(block.text) for block in TOML if block not in GRIDS]
    assert tables
    for table in tables:
        assert table["project"]["entry-points"]["bench.plugins"]
        assert "doorbench" in table["project"]["dependencies"]


# --- nothing public is missing --------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS)
def test_every_public_name_is_in_the_guide(door: str) -> None:
    public = set(importlib.import_module(door).__all__)
    assert public - {"__version__"} == set(DOORS[door])
    assert public - named(page("docs/plugins.md")) == set()


@pytest.mark.parametrize("door", DOORS)
def test_the_guide_has_a_table_of_each_front_door(door: str) -> None:
    rows = table_rows(section(page("docs/plugins.md"), f"`{door}`"))
    described = [name for names, *_ in rows for name in spans(names)]
    assert sorted(described) == sorted(importlib.import_module(door).__all__)
    assert all(meaning for _, meaning in rows)


def imports(code: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each module that some code imports, also in functions, with the names taken from it."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]


def wrong_doors(code: str) -> list[str]:
    """Name the imports of the host in some code that go past its front doors."""
    return [
        f"{module}: {', '.join(names)}"
        for module, names in imports(code)
        if module.partition(".")[0] == "harness"
        and not (module in DOORS and set(names) <= {*DOORS[module], "__version__"})
    ]


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_in_the_documentation_uses_the_front_doors(block: Block) -> None:
    assert wrong_doors(block.text) == []


def test_every_hook_is_in_the_guide() -> None:
    from harness import hookspecs
    from harness.learn.hooks import Batch, Extra, Hooks
    from harness.learn.training import History

    guide = page("docs/plugins.md")
    members = {member.name for one in (Batch, Extra, History, Hooks) for member in fields(one)}
    assert members - named(guide) == set()
    hooks = [name for name in vars(hookspecs) if name.startswith("bench_")]
    assert len(hooks) == 4
    assert [name for name in hooks if f"def {name}(" not in guide] == []


def test_everything_that_is_granted_is_in_the_guide() -> None:
    from harness.access import granted as access
    from harness.components import ATTACK_NEEDS, DEFENSE_NEEDS, METRIC_NEEDS, PART_NEEDS

    classes = [
        access.Workbench,
        access.Access,
        access.AttackAccess,
        access.PartAccess,
        access.MetricAccess,
    ]
    members = {name for one in classes for name in vars(one) if not name.startswith("_")}
    wanted = members | ATTACK_NEEDS | DEFENSE_NEEDS | METRIC_NEEDS | PART_NEEDS
    assert wanted - named(page("docs/plugins.md")) == set()


@pytest.mark.parametrize("kind", sorted(BY_KIND))
def test_every_member_of_an_interface_is_in_the_documentation(kind: str) -> None:
    from harness.components import Component, PoisoningAttack, TargetedAttack

    classes = [Component, BY_KIND[kind]] + (
        [TargetedAttack, PoisoningAttack] if kind == "attack" else []
    )
    members = {name for one in classes for name in vars(one) if not name.startswith("_")}
    members |= {name for one in classes for name in one.model_fields}
    members -= {"model_config", "model_fields", "model_computed_fields", "training_controlled"}
    assert members - named(page("docs/plugins.md") + page("docs/grid.md")) == set()


def verbs() -> dict[str, argparse.ArgumentParser]:
    (action,) = [
        action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(action.choices)


@pytest.mark.parametrize("verb", sorted(verbs()))
def test_every_verb_is_in_the_readme_and_with_its_options_in_the_reference(verb: str) -> None:
    reference = page("docs/commands.md")
    assert f"`bench {verb}" in page("README.md")
    assert f"`bench {verb}" in reference
    options = {name for action in verbs()[verb]._actions for name in action.option_strings} - {"-h"}
    assert {name for name in options if not re.search(rf"`[^`\n]*{name}\b", reference)} == set()


def test_each_option_is_described_for_the_verbs_that_have_it() -> None:
    described = {
        (verb, option.split()[0])
        for names, of, _ in table_rows(section(page("docs/commands.md"), "Options"))
        for verb in of.split(", ")
        for option in spans(names)
    }
    there = {
        (verb, option)
        for verb, verb_parser in verbs().items()
        for action in verb_parser._actions
        for option in action.option_strings
    }
    assert described == {(verb, option) for verb, option in there if option not in ("-h", "--help")}


def test_the_pages_name_no_option_that_there_is_not() -> None:
    known = {
        name
        for verb in verbs().values()
        for action in verb._actions
        for name in action.option_strings
    }
    known |= {"--version"}
    names = ("README.md", "docs/commands.md", "docs/grid.md", "docs/store.md")
    pages = " ".join(page(name) for name in names)
    assert set(re.findall(r"(?<![\w-])--[a-z-]+", " ".join(spans(pages)))) <= known


def test_every_exit_code_is_in_the_reference() -> None:
    from harness import cli, errors
    from harness.cli import limits, streams

    classes = [
        one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, BenchError)
    ]
    codes = {one.exit_code for one in classes} | {
        cli.BUG,
        cli.INTERRUPTED,
        cli.TERMINATED,
        limits.AT_LIMIT,
        streams.OUTPUT_LOST,
        streams.PIPE_CLOSED,
    }
    table = table_rows(section(page("docs/commands.md"), "Exit codes"))
    listed = {int(code) for numbers, _ in table for code in numbers.split(",")}
    assert codes | {0, 1, 3} == listed


def test_the_box_holds_what_the_list_of_methods_says(memo: Memo, registry: Registry) -> None:
    told = set()
    for kind in (*KINDS, "recipe"):
        for names, meaning in table_rows(section(page("docs/methods.md"), f"{kind.title()}s")):
            assert meaning
            for name in spans(names):
                assert (kind, name) not in told, "it is listed twice"
                told.add((kind, name))
    there = {
        (row["kind"], row["name"])
        for row in rows_of(registry, None, memo)
        if row["distribution"] == "doorbench"
    }
    assert told == {(kind, name) for kind, name in there if kind != "plugin"}


# --- the map of the code --------------------------------------------------------------------------


DESCRIBED = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "results").glob("*.md")),
]
"""The pages that speak of the code as it is; the changelog speaks of the past, too."""
PACKAGES = ("harness", "plugins", "tests")


@pytest.mark.parametrize("path", DESCRIBED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_paths_in_the_documentation_lead_to_files(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    folders = "|".join([*PACKAGES, "benchmarks", "examples", "results"])
    named_paths = {
        # `tests/harness/<room>/` ends before what stands for any room.
        found.rstrip("./")
        for found in re.findall(rf"(?<![\w./-])(?:{folders})/[\w./-]*", text)
    }
    # The map names modules of the host within its rooms: `grid/files.py`.
    inside = set(re.findall(r"`([a-z_]+/[\w/]+\.py)`", text))
    lost = {name for name in named_paths if not (ROOT / name).exists()}
    lost |= {
        name
        for name in inside
        if not ((ROOT / name).is_file() or (ROOT / "harness" / name).is_file())
    }
    assert lost == set()


@pytest.mark.parametrize("path", DESCRIBED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_dotted_names_in_the_documentation_lead_to_modules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    dotted = set(re.findall(rf"(?<![\w./-])(?:{'|'.join(PACKAGES)})(?:\.\w+)+", text))
    modules = {name for name in dotted if not name.endswith(".md")}
    assert {name for name in modules if not leads_somewhere(name)} == set()


def leads_somewhere(dotted: str) -> bool:
    """Tell whether this is a module of ours, or a name in one."""
    path = ROOT / dotted.replace(".", "/")
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module, _, name = dotted.rpartition(".")
    return leads_somewhere(module) and hasattr(importlib.import_module(module), name)


def rooms() -> dict[str, set[str]]:
    """Return the modules of each room of the host, by folder; those outside any by "harness/"."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "harness").glob("**/*.py"):
        folder = path.parent.name + "/"
        found.setdefault(folder, set())
        if not path.name.startswith("__"):
            found[folder].add(path.stem)
    return found


def test_the_map_has_every_room_and_module() -> None:
    table = {
        spans(room)[0]: set(spans(modules))
        for room, _, modules in table_rows(section(page("docs/architecture.md"), "Rooms"))
    }
    there = rooms()
    assert table.keys() == there.keys()
    assert {room: there[room] - table[room] for room in there if there[room] - table[room]} == {}


def test_the_map_draws_the_layers_that_lint_checks() -> None:
    project = tomllib.loads(page("pyproject.toml"))
    (layers,) = [
        contract["layers"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]
    checked = [sorted(re.findall(r"harness\.(\w+)", layer)) for layer in layers]
    (drawn,) = [
        [sorted(line.split()) for line in block.text.splitlines()]
        for block in BLOCKS
        if block.page.name == "architecture.md" and block.text.startswith("cli\n")
    ]
    assert drawn == checked
    assert {name for layer in checked for name in layer} == {
        path.stem for path in (ROOT / "harness").iterdir() if path.suffix == ".py" or path.is_dir()
    } - {"__init__", "__pycache__"}


def test_the_readme_fits_and_leads_to_every_page() -> None:
    readme = page("README.md")
    assert len(readme.splitlines()) <= 200
    for path in (ROOT / "docs").glob("*.md"):
        assert f"(docs/{path.name})" in readme


def test_the_glossary_is_in_order_and_has_a_word_once() -> None:
    words = [word.lower() for word, _ in table_rows(page("docs/glossary.md"))]
    assert words == sorted(set(words))


# --- links and files ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        there = path if not file else path.parent / file
        assert there.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, target


def test_targets_of_make_are_those_that_the_documentation_names() -> None:
    targets = set(re.findall(r"^([a-z]+):", page("Makefile"), re.MULTILINE))
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    told = {
        one or other
        for one, other in re.findall(r"`make ([a-z]+)`|^\$ make ([a-z]+)", text, re.MULTILINE)
    }
    assert told
    assert told <= targets


def test_pages_have_no_line_that_is_too_long_to_read() -> None:
    for path in PAGES:
        fenced = False
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            fenced ^= line.startswith("```")
            if not (fenced or line.startswith("|")):
                assert len(line) <= 120, f"{path.name}:{number}"
