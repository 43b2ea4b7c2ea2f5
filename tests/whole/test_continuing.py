"""Every method that trains, stopped three times at random places, leaves what it leaves
undisturbed, bit by bit.

The stages of a small grid run in this process, each of its cells a line of `METHODS`. A method
whose own loops keep nothing yet starts these over, which is checked all the same; it is listed in
`NOT_YET`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.continued import (
    Planner,
    at_random,
    boundaries,
    disturbed,
    keep_everything,
    stage_body,
)
from tests.kit.one_child import answering
from tests.kit.places import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")

GRID = """
seeds = [0]
[[dataset]]
name = "signs"
train = 300
test = 40
pool = 60
validation = 20
[[model]]
name = "small-cnn"
width = 8
[defender]
clean = 40
[training]
recipe = "signs"
epochs = 2
batch = 32
[[metric]]
name = "acc"
"""

METHODS = {
    "attack badnets": "",
    "attack wanet": "",
    "defense ft": "epochs = 3\nbatch = 16",
    "defense mcr": 'epochs = 3\nepoch_images = 40\nt = "best"\nend.name = "ft"\nend.epochs = 2',
    "defense nc": (
        'unlearn = "always"\ntriggers.name = "universal-triggers"\ntriggers.steps = 12\n'
        'triggers.images = 40\ntriggers.batch = 20\ntriggers.start = "cost"\n'
        "triggers.patience = 1\ntriggers.stop = 3\ntriggers.bound = 0.1"
    ),
}
"""Entries of a grid, each by its kind and name, with settings that make it short."""

NOT_YET = {
    "plugins.attacks.lba",
    "plugins.attacks.lc",
    "plugins.attacks.smooth",
    "plugins.defenses.abs",
    "plugins.defenses.i_bau",
    "plugins.defenses.k_arm",
    "plugins.parts.neurons",
    "plugins.parts.stimulation",
}
"""Modules with loops of their own, which show progress by `tick` and keep nothing."""

MAKING = ("data", "poison", "victim", "export", "part", "grant", "defend")
"""Stage kinds that make something; the others judge it."""


def grid_of(method: str) -> str:
    kind, _, name = method.partition(" ")
    entry = f'[[{kind}]]\nname = "{name}"\n{METHODS[method]}\n'
    if kind == "attack":
        return f'{GRID}{entry}[[defense]]\nname = "none"\n'
    return f'{GRID}[[attack]]\nname = "badnets"\npoison_rate = 0.1\n{entry}'


class Bench:
    """The stages of one method after another; what several of them have in common is made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.planner = Planner(folder)
        self.made: dict[str, Path] = {}

    def check(self, method: str) -> int:
        """Disturb the stages of a method that train; return the number of places at which they
        could be stopped.
        """
        stopped = 0
        for stage in self.planner.stages(grid_of(method)):
            if stage.kind not in MAKING or stage.key in self.made:
                continue
            folder = self.folder / f"{len(self.made)}-{stage.kind}"
            undisturbed = folder / "undisturbed"
            left, count = boundaries(stage_body(stage, self.made, undisturbed), folder / "counted")
            self.made[stage.key] = undisturbed / "out"
            if count:
                stopped += count
                again = stage_body(stage, self.made, folder / "again")
                places = at_random(count, seed=count)
                found = disturbed(again, folder / "attempts", places)
                assert found == left, f"{stage.kind}, stopped at {places} of {count}"
        return stopped


@pytest.fixture(scope="module")
def bench_of_methods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with answering():
        yield Bench(tmp_path_factory.mktemp("methods"))


@pytest.mark.parametrize("method", METHODS)
def test_a_method_goes_on_to_the_same_bits(
    method: str, bench_of_methods: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_everything(monkeypatch)
    assert bench_of_methods.check(method) > 0, "nothing of it was kept"


def test_the_list_of_methods_that_keep_nothing_is_right() -> None:
    found = set()
    for path in sorted((ROOT / "plugins").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _shows_progress(node):
                module = path.relative_to(ROOT).with_suffix("")
                found.add(".".join(module.parts))
    assert found == NOT_YET


def _shows_progress(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute) or call.func.attr != "tick":
        return False
    return len(call.args) > 1 or any(word.arg in ("done", "of") for word in call.keywords)
