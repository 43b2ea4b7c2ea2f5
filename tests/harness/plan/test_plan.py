"""Plans of small grids over the built-in components, resolved as a command would; nothing runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import grid, keys
from harness.cli.plan import mirrored
from harness.errors import GridError, NothingSelected
from harness.outcomes import Outcome
from harness.plan import plan
from harness.registry.discovery import discover
from harness.registry.memo import Memo
from harness.registry.resolve import Resolver
from harness.store.objects import Store
from tests.kit.places import ROOT

BASE = """
seeds = [0, 1]
[[dataset]]
name = "signs"
pool = 200
[[model]]
name = "small-cnn"
[[attack]]
name = "badnets"
[defender]
clean = 100
[[defense]]
name = "none"
[[defense]]
name = "ft"
epochs = 3
[[defense]]
name = "nad"
teacher = {name = "ft", epochs = 3}
[training]
recipe = "signs"
[[metric]]
name = "acc"
[[metric]]
name = "asr"
"""


ANSWERS = """
import json, sys
from harness.introspect.__main__ import answer
for line in sys.stdin:
    print(json.dumps([answer(question) for question in json.loads(line)]), flush=True)
"""


@pytest.fixture(scope="module")
def resolver(tmp_path_factory):
    """Asks one child for everything, where commands start one each time: the built-ins import
    torch.
    """
    child = subprocess.Popen(
        [sys.executable, "-c", ANSWERS], stdin=-1, stdout=-1, text=True, cwd=ROOT
    )

    def ask(questions, timeout):
        if not questions:
            return []
        print(json.dumps(list(questions)), file=child.stdin, flush=True)
        replies = json.loads(child.stdout.readline())
        return [reply["ok"] if "ok" in reply else pytest.fail(str(reply)) for reply in replies]

    memo = Memo(tmp_path_factory.mktemp("memo"))
    with pytest.MonkeyPatch.context() as patch, child:
        patch.setattr("harness.registry.ask.ask", ask)
        yield Resolver(discover(memo), memo=memo)
        child.stdin.close()


@pytest.fixture
def make(resolver, tmp_path):
    """Plans a grid given as text, with replacements."""

    def plan_of(text=BASE, *changes, select=None):
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "grid.toml"
        path.write_text(text)
        read = grid.read(path)
        cells = grid.select(read.cells, select) if select else read.cells
        return plan.build(read, cells, resolver.registry, resolver, resolver.sources)

    return plan_of


def cell(made, name):
    return next(planned for planned in made.cells if planned.cell.name == name)


def keys_by_cell(made):
    return {planned.cell.name: (planned.victim, planned.stages) for planned in made.cells}


def upstream(made, key):
    found = {key}
    for item in made.graph.stages[key].inputs:
        found |= upstream(made, item.key)
    return found


def test_defenses_share_their_victim_and_grant(make):
    made = make()
    victims = {planned.victim for planned in made.cells}
    assert len(victims) == 2  # one for each seed
    kinds = [stage.kind for stage in made.graph.stages.values()]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "data": 1, "poison": 2, "victim": 2, "grant": 2, "defend": 4, "stamp": 2, "evaluate": 6,
        "recheck": 6, "score": 6
    }  # fmt: skip


def test_stages_come_after_what_they_need(make):
    seen = set()
    for key, stage in make().graph.stages.items():
        assert {item.key for item in stage.inputs} <= seen
        assert keys.digest(stage.spec) == key == stage.key
        json.dumps(stage.payload.to_json())
        seen.add(key)


def test_the_teacher_of_nad_is_the_column_of_equal_settings(make):
    made = make()
    teacher = cell(made, "signs/small-cnn/badnets/ft/0.0").defended
    student = made.graph.stages[cell(made, "signs/small-cnn/badnets/nad/0.0").defended]
    assert {item.role: item.key for item in student.inputs}["part.teacher"] == teacher
    other = make(
        BASE, ('teacher = {name = "ft", epochs = 3}', 'teacher = {name = "ft", epochs = 4}')
    )
    student = other.graph.stages[cell(other, "signs/small-cnn/badnets/nad/0.0").defended]
    assert {item.role: item.key for item in student.inputs}["part.teacher"] != teacher


def test_none_is_an_alias_of_the_victim(make):
    made = make()
    planned = cell(made, "signs/small-cnn/badnets/none/0.0")
    assert planned.defended is None
    evaluated = made.graph.stages[made.graph.stages[planned.wants[0].stage].inputs[0].key]
    assert {item.role: item.key for item in evaluated.inputs}["model"] == planned.victim


@pytest.mark.parametrize(
    "change",
    [
        ("seeds = [0, 1]", "seeds = [0, 1, 2]"),
        (
            '[[attack]]\nname = "badnets"',
            '[[attack]]\nname = "wanet"\n[[attack]]\nname = "badnets"',
        ),
        (
            '[[model]]\nname = "small-cnn"',
            '[[model]]\nname = "small-cnn"\n[[model]]\nname = "resnet18"',
        ),
        (
            '[[defense]]\nname = "ft"',
            '[[defense]]\nname = "ft"\nas = "ft-other"\nlr = 0.5\n[[defense]]\nname = "ft"',
        ),
    ],
)
def test_adding_a_cell_changes_no_other(make, change):
    before, after = keys_by_cell(make()), keys_by_cell(make(BASE, change))
    assert len(after) > len(before)
    assert {name: after[name] for name in before} == before


def test_a_new_metric_moves_scores_only(make):
    before, after = make(), make(BASE + '[[metric]]\nname = "ra"\n')
    assert [planned.defended for planned in before.cells] == [
        planned.defended for planned in after.cells
    ]
    gone = before.graph.stages.keys() - after.graph.stages.keys()
    assert {before.graph.stages[key].kind for key in gone} == {"score"}


@pytest.mark.parametrize(
    "change",
    [
        ('name = "badnets"', 'name = "badnets"\nas = "BadNets (ours)"'),
        ('name = "badnets"', 'name = "badnets"\npoison_rate = 0.1'),  # the default, said aloud
        (
            '"none"\n[[defense]]\nname = "ft"\nepochs = 3',
            '"ft"\nepochs = 3\n[[defense]]\nname = "none"',
        ),
        ('"acc"\n[[metric]]\nname = "asr"', '"asr"\nas = "ASR"\n[[metric]]\nname = "acc"'),
        ("seeds = [0, 1]", "title = 'another'\nseeds = [1, 0]"),
    ],
)
def test_labels_order_and_defaults_said_aloud_are_in_no_key(make, change):
    assert make().graph.stages.keys() == make(BASE, change).graph.stages.keys()


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        (("clean = 100", "clean = 50"), {"grant", "defend", "evaluate", "recheck", "score"}),
        (("epochs = 3\n", "epochs = 4\n"), {"defend", "evaluate", "recheck", "score"}),
        (
            ('recipe = "signs"', 'recipe = "signs"\nepochs = 9'),
            {"victim", "defend", "stamp", "evaluate", "recheck", "score"},
        ),
        (
            ('name = "badnets"', 'name = "badnets"\ntarget = 1'),
            {"poison", "victim", "defend", "stamp", "evaluate", "recheck", "score"},
        ),
        (
            ('name = "small-cnn"', 'name = "small-cnn"\nwidth = 8'),
            {"victim", "defend", "stamp", "evaluate", "recheck", "score"},
        ),
        (
            ("pool = 200", "pool = 201"),
            {
                "data",
                "poison",
                "victim",
                "grant",
                "defend",
                "stamp",
                "evaluate",
                "recheck",
                "score",
            },
        ),
    ],
)
def test_a_setting_moves_what_depends_on_it(make, change, moved):
    before, after = make().graph.stages, make(BASE, change).graph.stages
    assert {after[key].kind for key in after.keys() - before.keys()} == moved


def test_a_chain_starts_from_the_other_defense(make):
    made = make(
        BASE + '[[defense]]\nname = "ft"\nas = "twice"\non = "ft"\nepochs = 2\n',
        select="twice and 0.0",
    )
    (planned,) = made.cells
    inputs = {item.role: item.key for item in made.graph.stages[planned.defended].inputs}
    assert made.graph.stages[inputs["victim"]].title == "badnets · ft"
    assert planned.victim in upstream(made, planned.defended)


def test_a_chain_needs_a_model_to_start_from(make):
    """What gives a verdict alone ends a chain; who trains a network of its own begins one."""
    scanner = '[[defense]]\nname = "k-arm"\n'
    after = '[[defense]]\nname = "%s"\nas = "after"\non = "k-arm"\n'
    made = make(BASE + scanner + after % "ft", select="0.0")
    planned = cell(made, "signs/small-cnn/badnets/after/0.0")
    reason = "after is on k-arm, which gives a verdict and no model to start from"
    assert planned.incompatible == reason
    assert planned.stages == ()
    scanned = cell(made, "signs/small-cnn/badnets/k-arm/0.0")
    assert {want.reason for want in scanned.wants} == {"k-arm gives a verdict and no model"}
    assert scanned.stages == (scanned.defended,)
    alias = cell(make(BASE + scanner + after % "none"), "signs/small-cnn/badnets/after/0.0")
    assert alias.incompatible is None
    assert alias.defended == scanned.defended


def test_on_is_refused_where_it_would_do_nothing(make):
    chain = '[[defense]]\nname = "abl"\nas = "after"\non = "ft"\n'
    with pytest.raises(GridError, match=r"'after' starts from no model, so that `on` does nothing"):
        make(BASE + chain)


def test_a_metric_of_the_verdict_needs_no_model(make):
    text = BASE + '[[defense]]\nname = "k-arm"\n[[metric]]\nname = "tpr"\n'
    planned = cell(make(text, select="0.0"), "signs/small-cnn/badnets/k-arm/0.0")
    reasons = {want.label: want.reason for want in planned.wants}
    assert reasons["tpr"] is None
    assert reasons["acc"]


def test_a_defense_never_gets_the_truth(make):
    made = make()
    for stage in made.graph.stages.values():
        files = {pattern for item in stage.inputs for pattern in item.files}
        if stage.kind == "defend":
            assert files <= {
                "model.safetensors",
                "result.json",
                "images.safetensors",
                "training.safetensors",
            }
            assert stage.payload.attack is None
            assert "badnets" not in json.dumps(stage.payload.to_json())


def test_what_makes_no_sense_says_why(make):
    made = make(
        BASE, ('name = "badnets"', 'name = "none"\n[[attack]]\nname = "badnets"\ntarget = 50')
    )
    reasons = {want.label: want.reason for want in cell(made, "signs/small-cnn/none/ft/0.0").wants}
    assert reasons == {"acc": None, "asr": "attack 'none' has no trigger"}
    planned = cell(made, "signs/small-cnn/badnets/ft/0.0")
    assert "label 50 is no class of a task with 10 classes" in planned.incompatible
    assert {want.reason for want in planned.wants} == {planned.incompatible}
    assert planned.stages == ()


def test_established_asks_for_the_undefended_victim(make):
    made = make(
        BASE,
        ('name = "badnets"', 'name = "badnets"\nestablished = {asr = 0.9}'),
        select="ft and 0.0",
    )
    (planned,) = made.cells
    ((key, bound),) = planned.established.values()
    assert bound == 0.9
    assert planned.defended not in upstream(made, key)
    assert planned.victim in upstream(made, key)


def test_too_large_a_grant_is_refused_at_its_line(make):
    with pytest.raises(GridError, match=r"grid.toml:11: .*needs 300 clean images"):
        make(BASE, ("clean = 100", "clean = 300"))


def test_nothing_selected(make):
    with pytest.raises(NothingSelected):
        make(select="wanet")


def put(made, store, tmp_path, key):
    """Commit an object for a stage, with parents as they are in the store."""
    folder = tmp_path / "made" / key
    folder.mkdir(parents=True)
    (folder / "file").write_text(key)
    stage = made.graph.stages[key]
    found = {item.role: (item.key, store.manifest(item.key)) for item in stage.inputs}
    parents = {
        role: (parent, manifest.digest) for role, (parent, manifest) in found.items() if manifest
    }
    store.commit(key, folder, spec=stage.spec, code=stage.code, parents=parents, record={})


def test_refresh_walks_back_from_what_is_asked(make, tmp_path):
    made, store = (
        make(BASE, ("seeds = [0, 1]", "seeds = [0]"), select="ft"),
        Store(tmp_path / "store"),
    )
    (planned,) = made.cells
    made.refresh(store)
    assert set(made.outcome.values()) == {Outcome.TO_RUN}
    assert list(made.stages) == [key for key in made.graph.stages if key in made.stages]
    put(made, store, tmp_path, planned.victim)
    made.refresh(store)
    kinds = {made.stages[key].kind: outcome for key, outcome in made.outcome.items()}
    assert kinds["victim"] is Outcome.CACHED
    assert "poison" not in kinds  # what only the victim needed does not run
    for key in made.stages:
        if not store.has(key):
            put(made, store, tmp_path, key)
    made.refresh(store)
    assert set(made.outcome.values()) == {Outcome.CACHED}


def test_a_plan_keeps_files_and_record_of_what_the_store_holds(make, tmp_path):
    made, store = (
        make(BASE, ("seeds = [0, 1]", "seeds = [0]"), select="ft"),
        Store(tmp_path / "store"),
    )
    (planned,) = made.cells
    put(made, store, tmp_path, planned.victim)
    assert made.manifest(planned.victim) is None, "not looked at yet"
    made.refresh(store)
    kept, whole = made.manifest(planned.victim), store.manifest(planned.victim)
    assert (kept.key, kept.files, kept.record) == (whole.key, whole.files, whole.record)
    assert kept.members.keys() == {"files", "record"}
    store.set_aside(planned.victim, "a test")
    made.refresh(store)
    assert made.manifest(planned.victim) is None


def test_refresh_says_what_failed_and_what_stands_on_the_incompatible(make, tmp_path):
    made, store = make(BASE, ("seeds = [0, 1]", "seeds = [0]")), Store(tmp_path / "store")
    nad, ft = (cell(made, f"signs/small-cnn/badnets/{name}/0.0") for name in ("nad", "ft"))
    store.fail(nad.defended, {"status": "incompatible", "message": "too few stages"})
    store.fail(ft.defended, {"status": "error", "message": "no"})
    made.refresh(store)
    assert made.outcome[nad.wants[0].stage] is Outcome.INCOMPATIBLE
    assert made.reason[nad.wants[0].stage] == "too few stages"
    assert (made.outcome[ft.defended], made.reason[ft.defended]) == (
        Outcome.TO_RUN,
        "failed before: no",
    )


def test_thousands_of_cells_take_seconds(make, tmp_path):
    numbers = [0.01, 0.02, 0.03, 0.04, 0.05]
    text = BASE.replace("seeds = [0, 1]", f"seeds = {list(range(20))}")
    text = text.replace('name = "badnets"', f'name = "badnets"\nsweep.poison_rate = {numbers}')
    text = text.replace("epochs = 3\n", f"sweep.epochs = {list(range(1, 24))}\n", 1)
    started = time.process_time()
    made = make(
        text.replace('[[defense]]\nname = "nad"\nteacher = {name = "ft", epochs = 3}\n', "")
    )
    made.refresh(Store(tmp_path / "store"))
    assert len(made.cells) == 20 * 5 * 24
    assert time.process_time() - started < 5  # 1 s on a quiet machine


def committed(made, store, tmp_path, changed=()):
    """Make an object for every stage, upstream first, as runs do; those in `changed` get other
    content.
    """
    for key, stage in made.graph.stages.items():
        folder = tmp_path / "out" / key
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result").write_text(key + "changed" * (key in changed))
        parents = {item.role: (item.key, store.manifest(item.key).digest) for item in stage.inputs}
        store.commit(key, folder, spec=stage.spec, code=stage.code, parents=parents, record={})


def test_what_was_made_from_another_victim_is_stale_however_far_downstream(make, tmp_path):
    made, store = make(), Store(tmp_path / "store")
    committed(made, store, tmp_path)
    made.refresh(store)
    assert set(made.outcome.values()) == {Outcome.CACHED}
    victim = cell(made, "signs/small-cnn/badnets/none/0.0").victim
    store.set_aside(victim, "a test")
    made.refresh(store)
    assert set(made.outcome.values()) == {Outcome.CACHED}, "a deleted parent is no change"
    stage = made.graph.stages[victim]
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "result").write_text("another net")
    parents = {item.role: (item.key, store.manifest(item.key).digest) for item in stage.inputs}
    store.commit(victim, folder, spec=stage.spec, code=stage.code, parents=parents, record={})
    made.refresh(store)
    for planned in made.cells:
        mine = {made.outcome[key] for key in planned.stages}
        assert mine == {Outcome.TO_RUN if planned.victim == victim else Outcome.CACHED}, (
            planned.cell.name
        )
    assert made.outcome[cell(made, "signs/small-cnn/badnets/none/1.1").stages[0]] is Outcome.CACHED


def test_a_defense_on_images_from_elsewhere_knows_its_task(make):
    """Two sizes of one dataset, a defense that takes neither victim nor training set: two keys."""
    made = make(BASE, ("pool = 200", "pool = 200\nsweep.size = [16, 24]"))
    stages = [stage for stage in made.graph.stages.values() if stage.kind == "defend"]
    assert all(
        stage.spec["context"]["task"]["height"] == stage.payload.context.task.height
        for stage in stages
    )


def test_a_share_is_one_of_the_training_images_wherever_the_pool_is_from(make):
    shares = [("clean = 100", "clean = 0.01")]
    for pool in (
        "pool = 200",
        'pool = 200\npool_from = "test"',
        "pool = 200\npool_in_train = true",
    ):
        made = make(BASE, ("pool = 200", pool), *shares)
        counts = {s.spec["count"] for s in made.graph.stages.values() if s.kind == "grant"}
        assert counts == {40}, pool


def test_a_grant_that_a_defense_does_not_take_is_a_mistake(make):
    with pytest.raises(
        GridError, match=r"grant\.clean-unlabelled: ft has no use.*\n.*takes clean-labelled images"
    ):
        make(BASE, ("epochs = 3\n", "epochs = 3\ngrant.clean-unlabelled = 7\n"))
    with pytest.raises(GridError, match="none has no use for this grant"):
        make(
            BASE, ('[[defense]]\nname = "none"\n', '[[defense]]\nname = "none"\ngrant.clean = 7\n')
        )


# --- keys and the rest of the grid ----------------------------------------------------------------

HEAD = """
[[dataset]]
name = "signs"
pool = 200
[[model]]
name = "small-cnn"
[defender]
clean = 100
[training]
recipe = "signs"
[[metric]]
name = "acc"
"""
ATTACKS = {
    "badnets": 'name = "badnets"\n',
    "wanet": 'name = "wanet"\n',
    "none": 'name = "none"\n',
}
DEFENSES = {
    "none": 'name = "none"\n',
    "ft": 'name = "ft"\nepochs = 3\n',
    "nad": 'name = "nad"\nteacher = {name = "ft", epochs = 3}\n',
    "dp-sgd": 'name = "dp-sgd"\nepochs = 1\n',
    "long": 'name = "long-training"\nas = "long"\nepochs = 2\n',
    "dp, then ft": 'name = "ft"\nas = "dp, then ft"\non = "dp-sgd"\nepochs = 3\n',
    "dp, then nad": 'name = "nad"\nas = "dp, then nad"\non = "dp-sgd"\n'
    'teacher = {name = "ft", epochs = 3}\n',
}


@st.composite
def grids(draw):
    """A grid of some of those entries in any order; `on` names one that is there."""
    attacks = draw(st.lists(st.sampled_from(sorted(ATTACKS)), min_size=1, unique=True))
    defenses = draw(st.lists(st.sampled_from(sorted(DEFENSES)), min_size=1, unique=True))
    if any(name.startswith("dp, then") for name in defenses) and "dp-sgd" not in defenses:
        defenses.append("dp-sgd")
    entries = ["[[attack]]\n" + ATTACKS[name] for name in attacks]
    entries += ["[[defense]]\n" + DEFENSES[name] for name in defenses]
    return HEAD + "".join(draw(st.permutations(entries)))


@pytest.fixture(scope="module")
def works(resolver, tmp_path_factory):
    """For each cell of a grid, the keys behind it, each with all that its stage is told."""

    def works_of(text):
        path = tmp_path_factory.mktemp("works") / "grid.toml"
        path.write_text(text)
        read = grid.read(path)
        made = plan.build(read, read.cells, resolver.registry, resolver, resolver.sources)
        found = {}
        for planned in made.cells:
            needed = set().union(*(upstream(made, key) for key in planned.stages))
            told = {key: made.graph.stages[key].payload.to_json() for key in needed}
            found[planned.cell.name] = told
        return found

    return works_of


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(text=grids())
def test_neither_order_nor_other_cells_change_a_key_or_a_work(works, text):
    whole = "".join("[[attack]]\n" + entry for entry in ATTACKS.values())
    whole += "".join("[[defense]]\n" + entry for entry in DEFENSES.values())
    expected = works(HEAD + whole)
    for name, work in works(text).items():
        assert work == expected[name], name


def test_a_defense_that_starts_afresh_has_the_structure_of_the_model(works):
    """Whatever a defense before it has rebuilt: its key knows nothing of that defense."""
    both = HEAD + "[[attack]]\n" + ATTACKS["badnets"]
    both += "".join("[[defense]]\n" + DEFENSES[name] for name in ("dp-sgd", "long"))
    (work,) = [told for name, told in works(both).items() if "/long/" in name]
    (defended,) = [told for told in work.values() if "defended_structure" in told]
    assert defended["structure"]["rebuilds"] == []
    assert defended["defended_structure"]["rebuilds"] == []


def test_kind_and_title_tell_stages_apart(make):
    """Also of datasets, models and metrics that have a name in common."""
    made = make(
        """
seeds = [0, 1]
[[dataset]]
name = "signs"
pool = 200
[[dataset]]
name = "signs"
as = "bigger signs"
size = 24
pool = 200
[[model]]
name = "small-cnn"
[[model]]
name = "small-cnn"
as = "wider"
width = 48
[[attack]]
name = "lc"
[defender]
clean = 50
[[defense]]
name = "none"
[[defense]]
name = "ft"
grant.clean = {dataset = {name = "signs", train = 900}, count = 20}
[[metric]]
name = "acc"
[[metric]]
name = "nc1"
[[metric]]
name = "nc1"
as = "nc1 pure"
images = "clean"
"""
    )
    titles = [(stage.kind, stage.title) for stage in made.graph.stages.values()]
    assert len(titles) == len(set(titles)), sorted(titles)


# --- what is told of training to those that do not know the recipe --------------------------------


def test_parts_and_crafts_that_train_know_precision_and_determinism(make):
    """Only these, and only where they are not the default: the rest of the recipe moves no part."""
    hidden = BASE.replace('"badnets"', '"invisible"')
    plain, longer = make(hidden), make(hidden, ('recipe = "signs"', 'recipe = "signs"\nepochs = 9'))
    strict = make(hidden, ('recipe = "signs"', 'recipe = "signs"\ndeterministic = true'))

    def parts(made):
        return {stage.key: stage for stage in made.graph.stages.values() if stage.kind == "part"}

    assert parts(plain)
    assert parts(plain).keys() == parts(longer).keys()
    assert parts(plain).keys().isdisjoint(parts(strict))
    for stage in parts(plain).values():
        assert stage.payload.context.numerics == {}
    for stage in parts(strict).values():
        assert stage.payload.context.recipe is None
        assert stage.payload.context.numerics == {"deterministic": True}
    crafted = [stage for stage in strict.graph.stages.values() if stage.kind == "poison"]
    assert all(stage.payload.context.numerics == {"deterministic": True} for stage in crafted)


def test_attacks_of_two_precisions_are_two(make):
    """Even where the model is not theirs to know."""
    twice = BASE + '[[attack]]\nname = "badnets"\nas = "exact"\ntraining.precision = "fp32"\n'
    made = make(twice)
    told = {
        stage.key: dict(stage.payload.context.numerics)
        for stage in made.graph.stages.values()
        if stage.kind == "poison"
    }
    assert sorted(map(str, told.values())) == ["{'precision': 'fp32'}"] * 2 + ["{}"] * 2


def test_the_plan_says_when_a_recipe_mirrors_signs(make):
    silent, asked = make(), make(BASE, ('recipe = "signs"', 'recipe = "bcu"\nflip = true'))
    assert list(mirrored(silent)) == []
    assert list(mirrored(make(BASE, ('recipe = "signs"', 'recipe = "bcu"')))) == []
    notes = [line for line in mirrored(asked) if line]
    assert len(notes) == 2, "a victim a seed"
    assert all("mirrors the pictures of signs" in note for note in notes)
