"""From the entries of a grid to components, recipes and grants, over a kit of components that do
nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import grid
from harness.components import Task
from harness.errors import GridError, Problem
from harness.learn.recipes import Recipe
from harness.plan import plan
from harness.plan.binding import Binding, bind
from harness.registry.memo import Memo
from harness.registry.names import NamedRecipe, Origin, Registered, Registry
from harness.registry.resolve import Resolver
from harness.stages.splits import Sizes
from tests.kit.one_child import answering

KIT = '''
from typing import ClassVar
from harness import Dataset, Defense, Facts, File, Metric, Model, PoisoningAttack, Use, use

class Toy(Dataset):
    """Pictures."""
    presets = {"small": {"count": 50}, "small/toy": {"classes": 3}}
    path: File | None = None
    classes: int = 4
    count: int = 100
    def facts(self):
        return Facts(self.classes, 8, 8, 3, self.count, 40, f"{self.classes} {self.count}")
    def load(self):
        raise RuntimeError

class Grey(Toy):
    def facts(self):
        return Facts(self.classes, 8, 8, 1, self.count, 40, f"grey {self.classes} {self.count}")

class Testless(Toy):
    def facts(self):
        return Facts(self.classes, 8, 8, 3, self.count, 0, f"testless {self.classes} {self.count}")

class Upright(Toy):
    mirrors: ClassVar[bool] = False

class Net(Model):
    def build(self, task):
        raise RuntimeError

class Patch(PoisoningAttack):
    presets = {"paper": {"poison_rate": 0.2}, "paper/other": {"poison_rate": 0.3}}
    def trigger(self, task):
        raise RuntimeError

class Styled(Patch):
    recipe = {"epochs": 7, "lr": 0.5}

class Painted(Patch):
    recipe = {"crop": 2, "fill": [0.1, 0.2, 0.3]}

class Lost(Patch):
    recipe = "nowhere"

class Odd(Patch):
    recipe = {"epoch": 7}

class Mirroring(Patch):
    recipe = {"flip": True}

class Nothing(Defense):
    needs = frozenset()
    def defend(self, access):
        raise RuntimeError

class Tune(Defense):
    epochs: int = 1
    def defend(self, access):
        raise RuntimeError

class Blind(Tune):
    needs = frozenset({"victim", "clean-unlabelled"})

class Distil(Defense):
    teacher: Use[Defense] = use("tune")
    def defend(self, access):
        raise RuntimeError

class Right(Metric):
    def score(self, predictions):
        raise RuntimeError
'''

CLASSES = {
    "dataset": {
        "toy": "Toy",
        "other": "Toy",
        "grey": "Grey",
        "testless": "Testless",
        "upright": "Upright",
    },
    "model": {"net": "Net"},
    "attack": {
        "patch": "Patch",
        "styled": "Styled",
        "lost": "Lost",
        "odd": "Odd",
        "painted": "Painted",
        "mirroring": "Mirroring",
    },
    "defense": {"none": "Nothing", "tune": "Tune", "blind": "Blind", "distil": "Distil"},
    "metric": {"acc": "Right"},
}

GRID = """
[[dataset]]
name = "toy"
pool = 20
[[model]]
name = "net"
[[attack]]
name = "patch"
[[defense]]
name = "tune"
[[metric]]
name = "acc"
"""

Bound = Callable[..., Binding]
Wrong = Callable[..., tuple[Problem, ...]]


@pytest.fixture(scope="module")
def resolver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Resolver]:
    folder = tmp_path_factory.mktemp("kit")
    (folder / "binding_kit.py").write_text(KIT)
    components = [
        Registered(kind, name, f"binding_kit:{target}", "kit", "1.0", "kit")
        for kind, names in CLASSES.items()
        for name, target in names.items()
    ]
    origin = Origin("kit", "1.0", "kit")
    recipes = [
        NamedRecipe("slow", {"epochs": 90, "batch": 64}, origin),
        NamedRecipe("fast", {"epochs": 9}, origin),
        NamedRecipe("mirrored", {"flip": True}, origin),
    ]
    with pytest.MonkeyPatch.context() as patch, answering(folder):
        patch.syspath_prepend(str(folder))
        patch.delenv("BENCH_DATA", raising=False)
        yield Resolver(Registry(components, recipes), memo=Memo(folder / "memo"))


@pytest.fixture
def bound(resolver: Resolver, tmp_path: Path) -> Bound:
    """Binds a grid given as text (with replacements), or the file of that name."""

    def make(text: str = GRID, *changes: tuple[str, str], name: str = "grid.toml") -> Binding:
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
        read = grid.read(tmp_path / name)
        return bind(read, read.cells, resolver.registry, resolver)

    return make


@pytest.fixture
def wrong(bound: Bound) -> Wrong:
    """As `bound`; the problems, of which there must be some."""

    def make(*arguments: Any, **more: Any) -> tuple[Problem, ...]:
        with pytest.raises(GridError) as caught:
            bound(*arguments, **more)
        return caught.value.problems

    return make


def entry(binding: Binding, kind: str, label: str) -> grid.Entry:
    return next(one for one in binding.grid.entries if (one.kind, one.label) == (kind, label))


# --- components -----------------------------------------------------------------------------------


def test_a_preset_may_mean_something_else_on_each_dataset(bound: Bound) -> None:
    text = (
        GRID.replace('"patch"', '"patch"\npreset = "paper"')
        + '[[dataset]]\nname = "other"\npool = 20\n'
    )
    binding = bound(text)
    toy, other = (entry(binding, "dataset", name) for name in ("toy", "other"))
    patch, tune = entry(binding, "attack", "patch"), entry(binding, "defense", "tune")
    rates = [binding.component(patch, dataset).params["poison_rate"] for dataset in (toy, other)]
    assert rates == [0.2, 0.3]
    assert binding.component(tune, toy) is binding.component(tune, other)


def test_sizes_and_task_of_a_dataset(bound: Bound) -> None:
    binding = bound(GRID, ("pool = 20", "pool = 20\nvalidation = 10\ntake = 80"))
    toy = entry(binding, "dataset", "toy")
    assert binding.sizes(toy) == Sizes(train=50, pool=20, validation=10, test=40, training=70)
    assert binding.task(toy) == Task(
        "toy", classes=4, height=8, width=8, channels=3, train_count=50
    )


def test_a_file_is_looked_up_beside_the_grid_that_names_it(bound: Bound, tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "data.bin").write_text("the lab's")
    (tmp_path / "data.bin").write_text("mine")
    (tmp_path / "lab" / "base.toml").write_text(
        GRID.replace("pool = 20", 'pool = 20\npath = "data.bin"')
    )

    def path(text: str) -> str:
        binding = bound('extends = "lab/base.toml"\n' + text)
        return os.path.relpath(
            binding.component(binding.grid.cells[0].dataset, binding.grid.cells[0].dataset).params[
                "path"
            ],
            tmp_path,
        )

    assert path("") == "lab/data.bin"
    assert path('[[dataset]]\nname = "toy"\npool = 30\n') == "lab/data.bin"
    assert path('[[dataset]]\nname = "toy"\npath = "data.bin"\n') == "data.bin"
    assert path('[[block]]\nset.dataset.path = "data.bin"\n') == "data.bin"


@pytest.mark.parametrize("table", ["[defender]\n", '[[defense]]\nname = "tune"\nas = "b"\ngrant.'])
def test_a_file_of_a_grant_too(table: str, bound: Bound, tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "data.bin").write_text("the lab's")
    grant = 'clean = {dataset = {name = "other", path = "data.bin"}, count = 5}\n'
    (tmp_path / "lab" / "base.toml").write_text(GRID + table + grant)
    (granted,) = bound('extends = "lab/base.toml"\n').grants.values()
    assert granted.params["path"] == str(tmp_path / "lab" / "data.bin")


def test_every_complaint_is_told_at_its_line(wrong: Wrong) -> None:
    text = """
    [[dataset]]
    name = "toy"
    pool = 200
    [[dataset]]
    name = "toi"
    [[model]]
    name = "net"
    training.epoch = 2
    [[attack]]
    name = "patch"
    target = 0.5
    [[attack]]
    name = "styled"
    [[defense]]
    name = "distil"
    teacher = {name = "tune", epochs = "x"}
    [[metric]]
    name = "acc"
    """
    assert [(problem.line, problem.key) for problem in wrong(text)] == [
        (4, "dataset[0].pool"),
        (6, "dataset[1].name"),
        (9, "model[0].training.epoch"),
        (12, "attack[0].target"),
        (17, "defense[0].teacher.epochs"),
    ]


def test_a_metric_that_established_speaks_of_and_nobody_has(wrong: Wrong) -> None:
    (problem,) = wrong(GRID, ('"patch"', '"patch"\nestablished = {acc = 0.5, asr = 0.9}'))
    assert (problem.line, problem.key) == (9, "attack[0].established.asr")
    assert "unknown metric 'asr'" in problem.description


# --- equal entries --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('name = "tune"', 'name = "tune"\nepochs = 1'),
        ('name = "distil"', 'name = "distil"\nteacher = {name = "tune", epochs = 1}'),
        (
            'name = "distil"\nteacher = "distil"',
            'name = "distil"\nteacher = {name = "distil", teacher = "tune"}',
        ),
        ('name = "tune"\non = "start"', 'name = "tune"\nepochs = 1\non = "start"'),
    ],
)
def test_equal_settings_under_two_names(one: str, other: str, wrong: Wrong) -> None:
    start = '[[defense]]\nname = "tune"\nas = "start"\nepochs = 9\n'
    text = (
        GRID.replace('name = "tune"', f'{one}\nas = "a"')
        + start
        + f'[[defense]]\n{other}\nas = "b"\n'
    )
    (problem,) = wrong(text)
    assert "defense 'b' has the same settings as 'a' (line 9)" in problem.description


@pytest.mark.parametrize(
    "other",
    [
        'name = "tune"\nepochs = 2',
        'name = "tune"\non = "start"',
        'name = "tune"\ngrant.clean = 5',
        'name = "blind"',
        'name = "distil"\nteacher = {name = "tune", epochs = 2}',
        'name = "distil"\nteacher = {name = "distil", teacher = {name = "tune", epochs = 2}}',
        'name = "distil"\nteacher = {name = "distil", teacher = {name = "tune", epochs = 3}}',
    ],
)
def test_settings_that_differ_anywhere_are_two(other: str, bound: Bound) -> None:
    tuned = '{name = "tune", epochs = 4}'
    more = [
        'name = "tune"\nas = "start"\nepochs = 9',
        f'name = "distil"\nas = "c"\nteacher = {{name = "distil", teacher = {tuned}}}',
        'name = "distil"\nas = "d"\nteacher = {name = "distil", teacher = "tune"}',
    ]
    text = GRID + "".join(f"[[defense]]\n{one}\n" for one in (*more, f'as = "b"\n{other}'))
    assert len(bound(text).components) == 3 + 5 + 1


def test_attacks_that_are_trained_differently_are_two(bound: Bound) -> None:
    binding = bound(GRID + '[[attack]]\nname = "patch"\nas = "longer"\ntraining.epochs = 200\n')
    assert sorted(recipe["epochs"] for recipe in binding.recipes.values()) == [100, 200]


# --- recipes --------------------------------------------------------------------------------------


def recipe(binding: Binding) -> dict[str, Any]:
    (found,) = binding.recipes.values()
    return found


def test_without_a_word_the_recipe_is_the_default(bound: Bound) -> None:
    assert recipe(bound()) == json.loads(Recipe().model_dump_json())


LAYERS = ("[training]", "dataset", "model", "attack")


@pytest.mark.parametrize("strongest", range(1, 5))
def test_the_particular_goes_over_the_general(strongest: int, bound: Bound) -> None:
    text = GRID
    for kind, name in (("dataset", "toy"), ("model", "net"), ("attack", "patch"))[: strongest - 1]:
        epochs = LAYERS.index(kind) + 1
        text = text.replace(
            f'"{name}"', f'"{name}"\ntraining = {{epochs = {epochs}, batch = {epochs}}}'
        )
    found = recipe(bound(text + '[training]\nrecipe = "slow"\nepochs = 1\nlr = 0.25\n'))
    assert (found["epochs"], found["lr"]) == (strongest, 0.25)
    assert found["batch"] == (64 if strongest == 1 else strongest)


def test_a_recipe_replaces_the_base_and_fields_stay(bound: Bound) -> None:
    text = (
        GRID.replace('"net"', '"net"\ntraining.recipe = "fast"')
        + '[training]\nrecipe = "slow"\nlr = 0.25\n'
    )
    found = recipe(bound(text))
    assert (found["epochs"], found["batch"], found["lr"]) == (9, 128, 0.25)


def test_a_dataset_without_test_images_is_refused(wrong: Wrong) -> None:
    (problem,) = wrong(GRID, ('"toy"', '"testless"'))
    assert (problem.key, problem.line) == ("dataset[0]", 2)
    assert "testless has no test images" in problem.description


@pytest.mark.parametrize(
    ("dataset", "recipe", "key", "what", "hint"),
    [
        ("grey", "fill = [0.1, 0.2, 0.3]\ncrop = 2", "training.fill",
         "fill names 3 channels, and the images of grey have 1", "training.fill = [0.0]"),
        ("toy", "batch = 81\ndrop_last = true", "training.batch",
         "the 80 training images of toy make no batch of 81", "training.batch = 80 or less"),
    ],
)  # fmt: skip
def test_a_recipe_that_does_not_fit_the_images_is_refused(
    dataset: str, recipe: str, key: str, what: str, hint: str, wrong: Wrong
) -> None:
    (problem,) = wrong(GRID + f"[training]\n{recipe}\n", ('"toy"', f'"{dataset}"'))
    assert problem.key == key
    assert what in problem.description
    assert hint in problem.hint


@pytest.mark.parametrize(
    ("dataset", "recipe"),
    [
        ("toy", "fill = [0.1, 0.2, 0.3]\ncrop = 2"),
        ("grey", "fill = [0.1]\ncrop = 2"),
        ("toy", "batch = 80\ndrop_last = true"),
        ("toy", "batch = 81"),
    ],
)
def test_recipes_that_fit(dataset: str, recipe: str, bound: Bound) -> None:
    bound(GRID + f"[training]\n{recipe}\n", ('"toy"', f'"{dataset}"'))


def test_a_colour_that_an_attack_brings_is_told_with_the_remedy(wrong: Wrong) -> None:
    (problem,) = wrong(GRID, ('"toy"', '"grey"'), ('"patch"', '"painted"'))
    assert problem.key == "attack[0].name"
    assert problem.hint == "set training.fill = [0.0]"


def test_a_field_that_does_nothing_is_refused(wrong: Wrong) -> None:
    recipe = '[training]\nschedule = "table"\nrates = [[0, 0.1]]\nlr = 0.1\nbetas = [0.5, 0.9]\n'
    problems = wrong(GRID + recipe)
    assert [problem.key for problem in problems] == ["training.lr", "training.betas"]
    assert "`rates`" in problems[0].description
    assert 'optimizer = "sgd"' in problems[1].description


def test_a_field_that_acts_on_one_victim_of_several_is_not(bound: Bound) -> None:
    table = 'training = {schedule = "table", rates = [[0, 0.1]]}'
    attacks = f'"patch"\n[[attack]]\nname = "patch"\nas = "other"\n{table}'
    bound(GRID + "[training]\nlr = 0.3\n", ('"patch"', attacks))


def test_what_a_grid_inherits_may_do_nothing(bound: Bound, tmp_path: Path) -> None:
    bound(GRID + "[training]\nepochs = 9\nlr = 0.3\n", name="parent.toml")
    child = 'extends = "parent.toml"\n[training]\nsteps = 5\n'
    bound(child)


def test_an_attacks_own_recipe_goes_before_that_of_the_grid(bound: Bound) -> None:
    text = GRID.replace('"patch"', '"styled"') + '[training]\nrecipe = "slow"\nmomentum = 0.5\n'
    found = recipe(bound(text))
    assert (found["epochs"], found["lr"], found["batch"], found["momentum"]) == (7, 0.5, 128, 0.5)
    named = recipe(bound(text.replace('"styled"', '"styled"\ntraining.recipe = "fast"')))
    assert (named["epochs"], named["lr"]) == (9, 0.1)


@pytest.mark.parametrize(
    ("attack", "training"),
    [
        ('"patch"', '[training]\nrecipe = "mirrored"\n'),
        ('"patch"\ntraining.recipe = "mirrored"', ""),
        ('"mirroring"', ""),
    ],
)
def test_a_recipe_mirrors_no_signs_or_digits_unless_the_grid_asks(
    attack: str, training: str, bound: Bound
) -> None:
    text = GRID.replace('"patch"', attack) + training
    upright = ('"toy"', '"upright"')
    assert recipe(bound(text))["flip"] is True
    assert recipe(bound(text, upright))["flip"] is False
    asked = ('"net"', '"net"\ntraining.flip = true')
    assert recipe(bound(text, upright, asked))["flip"] is True
    for name, mirrors in (("toy", True), ("upright", False)):
        binding = bound(text, ('"toy"', f'"{name}"'))
        (dataset,) = (entry for entry in binding.grid.entries if entry.kind == "dataset")
        assert binding.task(dataset).mirrors is mirrors


@pytest.mark.parametrize(
    ("attack", "what"),
    [("lost", "unknown recipe 'nowhere'"), ("odd", "a recipe has no field 'epoch'")],
)
def test_a_fault_in_an_attacks_own_recipe_is_told_at_the_attack(
    attack: str, what: str, wrong: Wrong
) -> None:
    text = GRID.replace('"patch"', f'"{attack}"') + '[training]\nrecipe = "slow"\n'
    (problem,) = wrong(text)
    assert (problem.line, problem.key) == (8, "attack[0].name")
    assert what in problem.description


def test_a_fault_of_several_victims_is_told_once(wrong: Wrong) -> None:
    text = GRID + '[[attack]]\nname = "patch"\nas = "b"\ntarget = 1\n[training]\nepochs = -1\n'
    (problem,) = wrong(text)
    assert problem.key == "training.epochs"
    assert problem.description == "-1 is not a whole number at least 0"


# --- grants ---------------------------------------------------------------------------------------


@pytest.fixture
def granted(resolver: Resolver, tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """What the grant stage of a grid with one grant asks for, and of which dataset."""

    def make(text: str) -> dict[str, Any]:
        (tmp_path / "grid.toml").write_text(text)
        read = grid.read(tmp_path / "grid.toml")
        planned = plan.build(read, read.cells, resolver.registry, resolver, resolver.sources)
        stages = planned.graph.stages
        (stage,) = [stage for stage in stages.values() if stage.kind == "grant"]
        data = stages[stage.inputs[0].key].spec["component"]["params"]
        told = {name: stage.spec[name] for name in ("count", "labelled", "split")}
        return {**told, "classes": data["classes"], "of": data["count"]}

    return make


@pytest.mark.parametrize(
    ("grant", "expected"),
    [
        ("", {"count": 20}),
        ("[defender]\nclean = 7\n", {"count": 7}),
        ("[defender]\nclean-labelled = 6\nclean = 7\nclean-unlabelled = 8\n", {"count": 6}),
        ("[defender]\nclean = 0.15\n", {"count": 15}),  # of all that may be trained on
        ("[defender]\nclean = 0.199\n", {"count": 20}),
        ('[defender]\nclean = {dataset = "other", count = 90}\n', {"count": 90, "split": "train"}),
        (
            '[defender]\nclean = {dataset = {name = "other", count = 500}, count = 0.5}\n',
            {"split": "train", "count": 250, "of": 500},
        ),
        (
            '[defender]\nclean = {dataset = {name = "other", pool = 30}, count = 30}\n',
            {"split": "pool", "count": 30},
        ),
        (
            '[defender]\nclean = {dataset = {name = "toy", preset = "small"}, count = 1}\n',
            {"split": "train", "classes": 3},
        ),
    ],
)
def test_what_is_granted(
    grant: str, expected: dict[str, Any], granted: Callable[[str], dict[str, Any]]
) -> None:
    found = granted(GRID + grant)
    assert {"split": "pool", "labelled": True, **expected}.items() <= found.items()


def test_a_defense_gets_what_its_entry_says(granted: Callable[[str], dict[str, Any]]) -> None:
    found = granted(
        GRID.replace('"tune"', '"tune"\ngrant.clean = 3') + "[defender]\nclean-labelled = 9\n"
    )
    assert found["count"] == 3
    blind = granted(
        GRID.replace('"tune"', '"blind"\ngrant.clean-unlabelled = 3') + "[defender]\nclean = 9\n"
    )
    assert (blind["count"], blind["labelled"]) == (3, False)
    with pytest.raises(GridError, match="blind has no use for this grant"):
        granted(
            GRID.replace('"tune"', '"blind"\ngrant.clean-labelled = 3') + "[defender]\nclean = 9\n"
        )


def test_a_grant_may_name_another_dataset_of_the_grid_by_its_label(
    granted: Callable[[str], dict[str, Any]],
) -> None:
    other = '[[dataset]]\nname = "toy"\nas = "far"\nclasses = 9\npool = 12\n'
    text = GRID.replace('"tune"', '"tune"\ngrant.clean = {dataset = "far", count = 12}') + other
    assert granted(text + '[[block]]\ndataset = ["far"]\n')["classes"] == 9


FAR = '[[dataset]]\nname = "toy"\nas = "far"\nclasses = 9\npool = 12\n'


def test_that_dataset_need_be_in_no_cell(granted: Callable[[str], dict[str, Any]]) -> None:
    text = GRID.replace('"tune"', '"blind"\ngrant.clean = {dataset = "far", count = 12}') + FAR
    assert granted(text + '[[block]]\ndataset = ["toy"]\n')["classes"] == 9


def test_labels_of_classes_that_a_cell_has_not_are_not_granted(
    granted: Callable[[str], dict[str, Any]],
) -> None:
    text = GRID.replace('"tune"', '"tune"\ngrant.clean = {dataset = "far", count = 12}') + FAR
    with pytest.raises(GridError, match="the 4 classes of 'toy', but the images of 'far' are of 9"):
        granted(text + '[[block]]\ndataset = ["toy"]\n')


def test_every_grant_of_an_entry_that_is_wrong_is_told(
    granted: Callable[[str], dict[str, Any]],
) -> None:
    grants = "grant.clean = 900\ngrant.clean-unlabelled = 3\n"
    with pytest.raises(GridError) as caught:
        granted(GRID.replace('"tune"', f'"tune"\n{grants}'))
    assert len(caught.value.problems) == 2


def test_a_pool_that_stays_in_the_training_set_counts_once(
    granted: Callable[[str], dict[str, Any]],
) -> None:
    found = granted(
        GRID.replace("pool = 20", "pool = 20\npool_in_train = true") + "[defender]\nclean = 0.1\n"
    )
    assert found["count"] == 10
