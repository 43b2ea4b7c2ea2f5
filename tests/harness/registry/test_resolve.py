from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from harness.components import (
    AttackFacts,
    Context,
    DefenseFacts,
    LabelMap,
    MetricFacts,
    ModelFacts,
    Task,
    Traits,
)
from harness.errors import PluginError
from harness.registry.discovery import discover
from harness.registry.memo import Memo
from harness.registry.names import Registered, Registry
from harness.registry.resolve import Resolver
from harness.registry.resolved import Fault, Request, Resolved
from tests.kit.fake_plugins import install

KIT = '''
    from __future__ import annotations

    from pathlib import Path
    from typing import Annotated, ClassVar, Literal

    from pydantic import Field, field_validator

    from harness import (Attack, Dataset, Defense, Facts, File, Metric, Model, NotInKey, Part,
        PoisoningAttack, Use, use)

    class Blend(PoisoningAttack):
        """Blend a picture in.

        More words.
        """
        version = 3
        citation = "Chen et al., 2017"
        recipe = {"epochs": 5, "milestones": (0.5, 0.75)}
        presets = {
            "paper": {"alpha": 0.2, "poison_rate": 0.01},
            "paper/gtsrb": {"alpha": 0.15},
            "only/gtsrb": {"alpha": 0.4},
        }
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.1
        """weight of the pattern"""
        pattern: File | None = None
        corners: tuple[int, ...] = (0, 1)
        mode: Literal["soft", "hard"] = "soft"
        cache: Annotated[Path | None, NotInKey] = None

        @field_validator("corners")
        @classmethod
        def _ascending(cls, corners):
            if list(corners) != sorted(corners):
                raise ValueError("corners must ascend")
            return corners

        def trigger(self, task):
            return None

    class Clean(Attack):
        """Nothing."""
        has_trigger = False

    class Tune(Defense):
        """Tune it."""
        epochs: Annotated[int, Field(ge=1)] = 10
        rate: float
        def defend(self, access):
            return access.victim()

    class Distil(Defense):
        """Distil it."""
        teacher: Use[Defense] = use("tune", rate=0.5)
        helper: Use[Part] | None = None
        alone: bool = False
        def unused(self):
            return {"teacher": "alone = true"} if self.alone else {}
        def defend(self, access):
            return access.victim()

    class Leaky(Defense):
        needs = {"victim", "oracle"}
        loud: bool = False
        def grants(self):
            return {"victim", "oracle"} if self.loud else {"victim"}
        def defend(self, access):
            return access.victim()
        def compatible(self, context):
            if context.task.classes == 13:
                raise RuntimeError("unlucky")
            many = f"too many classes for {context.model.name}"
            return None if context.task.classes < 100 else many

    class Ring(Defense):
        inner: Use[Defense] = use("ring")
        def defend(self, access):
            return access.victim()

    class Decoder(Part):
        """A decoder."""
        needs = {"clean-labelled"}
        def build(self, task): ...
        def make(self, access): ...

    class Fitting(Part):
        needs = {"clean-labelled", "model"}
        def build(self, task, model): ...
        def make(self, access): ...

    class Teaching(Part):
        needs = {"train", "model"}
        def build(self, task, model): ...
        def make(self, access): ...

    class Crafted(Blend):
        """Against the cell's model."""
        needs = {"model"}
        surrogate: Use[Part] = use("teaching")

    class Bring(Attack):
        """Bring it."""
        trains = False
        seeded = False
        inner: Use[Attack]
        def label_table(self, classes): ...
        def trigger(self, task): ...
        def poison(self, access, trigger): ...
        def implant(self, access, trigger): ...
        @property
        def labelling(self):
            return self.inner.component.labelling
        @property
        def twice(self):
            return 2 * self.inner.component.alpha

    class Twin(Attack):
        inner: Use[Attack] = use("crafted")
        surrogate: Use[Part] = use("decoder")
        def label_table(self, classes): ...
        def trigger(self, task): ...
        def poison(self, access, trigger): ...

    class Wordy(Clean):
        @property
        def labelling(self):
            return {"kind": "all-to-one", "target": 2, "sources": []}

    class Hungry(Attack):
        needs = {"victim"}
        def label_table(self, classes): ...
        def trigger(self, task): ...
        def poison(self, access, trigger): ...

    class Greedy(Part):
        needs = {"training-set"}
        def build(self, task): ...
        def make(self, access): ...

    class Net(Model):
        """A net."""
        arch: str = "a"
        width: int = 4
        def build(self, task): ...

    class Disk(Dataset):
        """From disk."""
        path: File
        def facts(self):
            size = len(self.path.read_bytes())
            if not size:
                raise ValueError("the file is empty: fill it")
            return Facts(size, 8, 8, 3, 100, 50, "print")
        def load(self): ...

    class Share(Metric):
        """A share."""
        unit = "%"
        higher_is_better = True
        def score(self, predictions): ...
        def combine(self, values):
            return {"largest": max(values)} if len(values) > 1 else {"largest": float("nan")}

    class Reserved(Defense):
        on: int = 1
        def defend(self, access): ...

    class Member(Attack):
        trigger: int = 1
        def label_table(self, classes): ...
        def poison(self, access, trigger): ...

    class Overreach(Defense):
        needs = {"victim", "test"}
        def defend(self, access): ...

    class Idle(Defense):
        pass

    class Silent(Defense):
        def unused(self):
            return ["epochs"]
        def defend(self, access): ...

    class Versioned(Defense):
        version = "2"
        def defend(self, access): ...

    class Preset(Defense):
        presets = {"a": {"epoch": 1}}
        epochs: int = 1
        def defend(self, access): ...

    class Listed(Defense):
        several: tuple[Use[Defense], ...] = ({"name": "tune", "rate": 1.0},)
        def defend(self, access): ...

    class Bomb(Defense):
        fuse: bool = False
        def grants(self):
            import os
            if self.fuse:
                os._exit(7)
            raise KeyError("nothing")
        def defend(self, access): ...
'''

CLASSES = {
    "attack": {
        "blend": "Blend",
        "clean": "Clean",
        "member": "Member",
        "crafted": "Crafted",
        "hungry": "Hungry",
        "wordy": "Wordy",
        "bring": "Bring",
        "twin": "Twin",
    },
    "defense": {
        "tune": "Tune",
        "distil": "Distil",
        "leaky": "Leaky",
        "ring": "Ring",
        "reserved": "Reserved",
        "overreach": "Overreach",
        "idle": "Idle",
        "silent": "Silent",
        "versioned": "Versioned",
        "preset": "Preset",
        "listed": "Listed",
        "bomb": "Bomb",
        "absent": "Absent",
        "misfit": "Net",
    },
    "part": {
        "decoder": "Decoder",
        "greedy": "Greedy",
        "fitting": "Fitting",
        "teaching": "Teaching",
    },
    "model": {"net": "Net"},
    "dataset": {"disk": "Disk"},
    "metric": {"share": "Share"},
}


@pytest.fixture
def resolver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolver:
    install(tmp_path / "site", "kit", {"resolve_kit": KIT})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delenv("BENCH_DATA", raising=False)
    entries = [
        Registered(
            kind,
            name,
            f"resolve_kit:{target}",
            "kit",
            "1.0",
            "plug",
            "arch" if kind == "model" else None,
        )
        for kind, names in CLASSES.items()
        for name, target in names.items()
    ]
    return Resolver(Registry(entries), memo=Memo(tmp_path / "memo"))


def good(resolver: Resolver, *requests: Request) -> list[Resolved]:
    answers = resolver.resolve_all(requests)
    assert all(isinstance(answer, Resolved) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, Resolved)]


def bad(resolver: Resolver, *requests: Request) -> list[list[Fault]]:
    answers = resolver.resolve_all(requests)
    assert all(isinstance(answer, list) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, list)]


def test_defaults_are_filled_in_and_values_coerced(resolver: Resolver) -> None:
    plain, same, other = good(
        resolver,
        Request("attack", "blend"),
        Request("attack", "blend", params={"alpha": 0.1, "corners": [0, 1]}),
        Request("attack", "blend", params={"alpha": 1}),
    )
    assert plain.identity == same.identity
    assert plain.changed == {}
    assert (plain.params["alpha"], plain.params["corners"]) == (0.1, [0, 1])
    assert isinstance(other.identity["alpha"], float)
    assert other.changed == {"alpha": 1.0}
    assert (plain.version, plain.summary, plain.citation) == (
        3,
        "Blend a picture in.",
        "Chen et al., 2017",
    )
    assert plain.recipe == {"epochs": 5, "milestones": [0.5, 0.75]}
    assert plain.presets == ["only/gtsrb", "paper", "paper/gtsrb"]
    assert {"resolve_kit", "harness.components.attack"} <= set(plain.code)
    assert {name.partition(".")[0] for name in plain.code} == {"resolve_kit", "harness"}
    assert plain.checks
    assert plain.seeded


def test_presets_lie_under_explicit_values(resolver: Resolver) -> None:
    paper, gtsrb, explicit, named = good(
        resolver,
        Request("attack", "blend", "paper", dataset="cifar10"),
        Request("attack", "blend", "paper", dataset="gtsrb"),
        Request("attack", "blend", "paper", {"alpha": 0.9}, dataset="gtsrb"),
        Request("attack", "blend", "only/gtsrb", dataset="cifar10"),
    )
    alphas = [
        (one.params["alpha"], one.params["poison_rate"]) for one in (paper, gtsrb, explicit, named)
    ]
    assert alphas == [(0.2, 0.01), (0.15, 0.01), (0.9, 0.01), (0.4, 0.1)]
    ((fault,), (elsewhere,)) = bad(
        resolver,
        Request("attack", "blend", "papr"),
        Request("attack", "blend", "only", dataset="cifar10"),
    )
    assert fault[0] == ("preset",)
    assert "no preset 'papr'" in fault[1]
    assert "Did you mean: paper" in fault[2]
    assert "no preset 'only'" in elsewhere[1]


WRONG: dict[str, tuple[dict[str, Any], tuple[str | int, ...], str, str]] = {
    "too large": (
        {"alpha": 1.5},
        ("alpha",),
        "1.5 is not a number between 0 and 1",
        "default: 0.1",
    ),
    "string": ({"alpha": "0.5"}, ("alpha",), '"0.5" is not a number between 0 and 1', ""),
    "bool": ({"alpha": True}, ("alpha",), "true is not a number", ""),
    "unknown": (
        {"alhpa": 0.5},
        ("alhpa",),
        "no parameter 'alhpa'",
        "Did you mean: alpha? Known parameters: ",
    ),
    "inside": ({"corners": [1, "b"]}, ("corners", 1), '"b"', "expected: a list of whole numbers"),
    "literal": (
        {"mode": "sotf"},
        ("mode",),
        '"sotf" is not one of "soft", "hard"',
        'default: "soft"',
    ),
    "validator": ({"corners": [2, 1]}, ("corners",), "[2, 1]: corners must ascend", ""),
    "no file": (
        {"pattern": "cat.png"},
        ("pattern",),
        "there is no file",
        "beside the grid, then in $BENCH_DATA",
    ),
    "not a path": ({"pattern": 3}, ("pattern",), "3 is not a path to a file", ""),
    "a date": (
        {"mode": __import__("datetime").date(2024, 1, 2)},
        ("mode",),
        "2024-01-02 is a date",
        "quote it",
    ),
    "base class": ({"poison_rate": -1}, ("poison_rate",), "-1 is not a number between 0 and 1", ""),
}


def test_every_wrong_parameter_is_a_sentence_with_its_place(resolver: Resolver) -> None:
    answers = bad(
        resolver, *(Request("attack", "blend", params=params) for params, *_ in WRONG.values())
    )
    for title, (fault,), (_, path, what, hint) in zip(WRONG, answers, WRONG.values(), strict=True):
        assert fault[0] == path, title
        assert what in fault[1], title
        assert hint in fault[2], title


def test_all_problems_of_an_entry_are_told_at_once(resolver: Resolver) -> None:
    (faults,) = bad(resolver, Request("defense", "tune", params={"epochs": 0, "lr": 1}))
    assert {(fault[0], fault[1]) for fault in faults} == {
        (("epochs",), "0 is not a whole number at least 1"),
        (("rate",), "is required"),
        (("lr",), "Tune has no parameter 'lr'"),
    }


def test_a_file_is_its_content_in_the_key(
    resolver: Resolver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, data = tmp_path / "grids", tmp_path / "data"
    beside.mkdir()
    data.mkdir()
    (beside / "cat.png").write_bytes(b"cat")
    (data / "dog.png").write_bytes(b"dog")
    monkeypatch.setenv("BENCH_DATA", str(data))
    resolver = Resolver(resolver.registry, memo=Memo(tmp_path / "memo2"))
    requests = [
        Request(
            "attack", "blend", params={"pattern": "cat.png", "cache": "somewhere"}, base=beside
        ),
        Request("attack", "blend", params={"pattern": "dog.png"}, base=beside),
    ]
    cat, dog = good(resolver, *requests)
    assert cat.params["pattern"] == str(beside / "cat.png")
    assert cat.identity["pattern"] == {"sha256": hashlib.sha256(b"cat").hexdigest()}
    assert dog.identity["pattern"] == {"sha256": hashlib.sha256(b"dog").hexdigest()}
    assert "cache" not in cat.identity
    assert cat.params["cache"] == "somewhere"
    assert set(cat.changed) == {"pattern"}
    (beside / "cat.png").write_bytes(b"tiger")
    (changed, _) = good(resolver, *requests)
    assert changed.identity["pattern"] == {"sha256": hashlib.sha256(b"tiger").hexdigest()}


def test_components_as_parameters_are_resolved_like_entries(resolver: Resolver) -> None:
    plain, own = good(
        resolver,
        Request("defense", "distil"),
        Request(
            "defense",
            "distil",
            params={"teacher": {"name": "tune", "rate": 2, "epochs": 3}, "helper": "decoder"},
        ),
    )
    assert list(plain.uses) == ["teacher"]
    assert plain.uses["teacher"].identity == {"epochs": 10, "rate": 0.5}
    teacher = {"name": "tune", "rate": 0.5}
    assert plain.params == {"teacher": teacher, "helper": None, "alone": False}
    assert own.identity == {"alone": False}
    assert own.uses["teacher"].identity == {"epochs": 3, "rate": 2.0}
    assert own.uses["helper"].kind == "part"
    assert plain.uses["teacher"].code == plain.code


def test_a_component_that_does_nothing_is_not_made(resolver: Resolver) -> None:
    (alone,) = good(resolver, Request("defense", "distil", params={"alone": True}))
    assert alone.uses == {}
    assert alone.changed == {"alone": True}
    params = {"alone": True, "teacher": {"name": "tune", "rate": 1.0}}
    (refused,) = bad(resolver, Request("defense", "distil", params=params))
    assert "alone = true" in str(refused)


def test_what_is_wrong_with_a_component_inside_has_its_path(resolver: Resolver) -> None:
    inside, unknown, shape, greedy, ring, preset = bad(
        resolver,
        Request("defense", "distil", params={"teacher": {"name": "tune", "rate": "x"}}),
        Request("defense", "distil", params={"teacher": "tuna"}),
        Request("defense", "distil", params={"teacher": 3}),
        Request("defense", "distil", params={"helper": "greedy"}),
        Request("defense", "ring"),
        Request("defense", "distil", params={"teacher": {"name": "tune", "preset": 3}}),
    )
    assert preset[0][:2] == (("teacher", "preset"), "3 is not the name of a preset")
    assert inside[0][:2] == (("teacher", "rate"), '"x" is not a number')
    assert unknown[0][0] == ("teacher", "name")
    assert "unknown defense 'tuna'. Did you mean: tune" in unknown[0][1]
    assert shape[0][0] == ("teacher",)
    assert "a defense is expected here" in shape[0][1]
    assert (
        "part 'greedy' needs training-set, which defense 'distil' of kit 1.0 is not granted"
        in greedy[0][1]
    )
    assert ring[0][0] == ("inner",) * 9
    assert "uses itself" in ring[0][1]


def test_what_attacks_and_parts_may_need(resolver: Resolver) -> None:
    crafted, distil = good(
        resolver,
        Request("attack", "crafted"),
        Request("defense", "distil", params={"helper": "fitting"}),
    )
    assert crafted.needs == ["model"]
    assert crafted.uses["surrogate"].needs == ["model", "train"]
    assert distil.uses["helper"].needs == ["clean-labelled", "model"]
    hungry, teaching = bad(
        resolver,
        Request("attack", "hungry"),
        Request("defense", "distil", params={"helper": "teaching"}),
    )
    assert "needs names 'victim'" in hungry[0][1]
    assert (
        "part 'teaching' needs train, which defense 'distil' of kit 1.0 is not granted"
        in teaching[0][1]
    )


def test_facts_of_each_kind(resolver: Resolver, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"1234567")
    blend, clean, net, disk, share, tune, leaky, loud = good(
        resolver,
        Request("attack", "blend", params={"target": 2}),
        Request("attack", "clean"),
        Request("model", "net:b"),
        Request("dataset", "disk", params={"path": "data.bin"}, base=tmp_path),
        Request("metric", "share"),
        Request("defense", "tune", params={"rate": 1.0}),
        Request("defense", "leaky"),
        Request("defense", "leaky", params={"loud": True}),
    )
    assert blend.facts == AttackFacts(
        has_trigger=True,
        trains=True,
        training_controlled=False,
        label_map=LabelMap("all-to-one", 2, ()),
    )
    assert clean.facts == AttackFacts(
        has_trigger=False, trains=True, training_controlled=False, label_map=None
    )
    assert net.facts == ModelFacts(anatomy=False, units=False)
    assert (net.name, net.identity["arch"]) == ("net", "b")
    assert (disk.facts.classes, disk.facts.fingerprint, disk.seeded) == (7, "print", False)
    assert share.facts == MetricFacts(
        unit="%", higher_is_better=True, combines=True, measured=False
    )
    assert share.needs == ["predictions"]
    assert tune.facts == DefenseFacts(rebuilds=False)
    assert tune.needs == ["clean-labelled", "victim"]
    assert (leaky.needs, loud.needs) == (["victim"], ["oracle", "victim"])
    assert (tune.checks, leaky.checks) == (False, True)
    (fault,) = bad(resolver, Request("model", "net:b", params={"arch": "c"}))[0]
    assert "contradicts the name" in fault[1]


def test_a_label_map_that_is_none_is_named(resolver: Resolver) -> None:
    ((fault,),) = bad(resolver, Request("attack", "wordy"))
    assert "Wordy.labelling is {'kind': 'all-to-one'" in fault[1]
    assert "where a LabelMap or None is expected" in fault[1]


def test_facts_of_a_dataset_follow_its_files(resolver: Resolver, tmp_path: Path) -> None:
    request = Request("dataset", "disk", params={"path": "data.bin"}, base=tmp_path)
    (tmp_path / "data.bin").write_bytes(b"")
    ((fault,),) = bad(resolver, request)
    assert fault == ((), "the file is empty: fill it", "")
    for count in (3, 5):
        (tmp_path / "data.bin").write_bytes(b"x" * count)
        assert good(resolver, request)[0].facts.classes == count


FAULTY = {
    "reserved": "no parameter can be called 'on': 'on' is a key that every grid entry has",
    "overreach": "needs names 'test'",
    "idle": "it has no defend()",
    "versioned": "version = '2' is not a whole number",
    "preset": "preset 'a' sets 'epoch'. Did you mean: epochs",
    "listed": "not in a list",
    "silent": "unused() returned",
    "bomb": "KeyError: 'nothing'",
    "absent": "the module has no Absent",
    "misfit": "is no defense: a subclass of harness.Defense is expected",
}


def test_classes_that_break_the_contract(resolver: Resolver) -> None:
    answers = bad(
        resolver, *(Request("defense", name) for name in FAULTY), Request("attack", "member")
    )
    for (name, expected), faults in zip(FAULTY.items(), answers[:-1], strict=True):
        assert expected in faults[0][1], name
        assert f"defense '{name}' of kit 1.0" in faults[0][1]
    assert (
        "no parameter can be called 'trigger': every attack has a member of that name"
        in answers[-1][0][1]
    )


def test_one_that_dies_does_not_spoil_the_others(resolver: Resolver) -> None:
    before, dead, after = resolver.resolve_all(
        [
            Request("defense", "leaky"),
            Request("defense", "bomb", params={"fuse": True}),
            Request("defense", "tune", params={"rate": 1.0}),
        ]
    )
    assert isinstance(before, Resolved)
    assert isinstance(after, Resolved)
    assert isinstance(dead, list)
    assert "defense 'bomb' of kit 1.0: the process ended itself (exit status 7)" in dead[0][1]


def test_the_second_look_starts_no_child_and_a_changed_source_is_seen(
    resolver: Resolver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request("defense", "distil")
    first = good(resolver, request)
    again = Resolver(resolver.registry, memo=Memo(tmp_path / "memo"))
    with monkeypatch.context() as patch:
        patch.setattr(
            "harness.registry.ask.subprocess.Popen",
            lambda *_, **__: pytest.fail("a child was started"),
        )
        assert good(again, request) == first
    module = tmp_path / "site" / "resolve_kit.py"
    module.write_text(module.read_text().replace("rate=0.5", "rate=0.25"))
    os.utime(module, ns=(1, 1))
    (changed,) = good(Resolver(resolver.registry, memo=Memo(tmp_path / "memo")), request)
    assert changed.uses["teacher"].params["rate"] == 0.25
    assert changed.code != first[0].code


def context(classes: int) -> Mapping[str, Any]:
    task = Task("disk", classes, 8, 8, 3, 100)
    return asdict(
        Context(
            task, model=Traits("model", "net", {"width": 4}, ModelFacts(anatomy=False, units=False))
        )
    )


def test_components_are_asked_whether_they_fit(resolver: Resolver) -> None:
    leaky, tune, blend = good(
        resolver,
        Request("defense", "leaky"),
        Request("defense", "tune", params={"rate": 1.0}),
        Request("attack", "blend", params={"target": 9}),
    )
    assert resolver.compatible_all(
        [
            (leaky, context(10)),
            (leaky, context(200)),
            (tune, context(200)),
            (blend, context(5)),
            (leaky, context(10)),
        ]
    ) == [
        None,
        "too many classes for net",
        None,
        "label 9 is no class of a task with 5 classes (0 to 4)",
        None,
    ]
    assert resolver.compatible_all([(leaky, context(200))]) == ["too many classes for net"]
    with pytest.raises(
        PluginError,
        match=r"defense 'leaky' of kit 1\.0: compatible: RuntimeError: unlucky\n .*resolve_kit",
    ):
        resolver.compatible_all([(leaky, context(13))])


def test_metrics_combine_their_own_way(resolver: Resolver) -> None:
    (share,) = good(resolver, Request("metric", "share"))
    assert resolver.combine_all([(share, [1.0, 3.0]), (share, [5.0, 4.0])]) == [
        {"largest": 3.0},
        {"largest": 5.0},
    ]
    with pytest.raises(
        PluginError, match=r"combine\(\) gave nan for 'largest', where a finite number is expected"
    ):
        resolver.combine_all([(share, [1.0])])


def test_unknown_names_are_told_like_other_problems(resolver: Resolver) -> None:
    ((fault,),) = bad(resolver, Request("attack", "blent"))
    assert fault[0] == ("name",)
    assert "unknown attack 'blent'. Did you mean: blend" in fault[1]


def test_every_built_in_resolves_with_its_defaults(tmp_path: Path) -> None:
    registry = discover()
    # What is made of files that a user brings, or of real pictures; see the tests of each.
    brought = {
        "npz",
        "folder",
        "cifar10",
        "gtsrb",
        "mnist",
        "stl10",
        "celeba8",
        "lisa",
        "tiny-imagenet",
        "imagenet-subset",
        "svhn",
        "patch",
        "pretrained",
        "record",
        "pretrained-clean",
    }
    own = [
        entry
        for entry in registry.entries()
        if entry.distribution == "doorbench" and entry.name not in brought
    ]
    names = {entry.name: f"{entry.name}:resnet18" for entry in own if entry.argument}
    entries = [entry for entry in own if entry.name not in names]
    resolver = Resolver(registry, memo=Memo(tmp_path))
    for one in good(resolver, *(Request("model", name) for name in names.values())):
        assert one.changed == {"arch": "resnet18"}
    for one in good(resolver, *(Request(entry.kind, entry.name) for entry in entries)):
        assert one.summary
        assert one.changed == {}
        assert f"{one.target.partition(':')[0]}" in one.code


# --- attacks that fill parameters -----------------------------------------------------------------


def test_an_attack_that_fills_a_parameter_is_put_in_place(
    resolver: Resolver, tmp_path: Path
) -> None:
    (tmp_path / "kitty.png").write_bytes(b"picture")
    inner = {"name": "blend", "preset": "paper", "pattern": "kitty.png", "target": 3}
    (bring,) = good(resolver, Request("attack", "bring", params={"inner": inner}, base=tmp_path))
    assert bring.facts.label_map == LabelMap("all-to-one", 3, ())
    assert (bring.facts.trains, bring.seeded, bring.uses) == (False, False, {})
    placed = bring.params["inner"]["component"]
    assert (placed["target"], placed["params"]["alpha"]) == ("resolve_kit:Blend", 0.2)
    assert placed["params"]["pattern"] == str(tmp_path / "kitty.png")
    digest = hashlib.sha256(b"picture").hexdigest()
    assert bring.identity["inner"]["params"]["pattern"] == {"sha256": digest}, (
        "content is in the key, the path is not"
    )
    assert bring.changed["inner"].startswith("blend[alpha=0.2,pattern=")


def test_what_it_needs_and_uses_is_the_owner_s(resolver: Resolver) -> None:
    (bring,) = good(resolver, Request("attack", "bring", params={"inner": "crafted"}))
    assert bring.needs == ["model"]
    assert bring.uses["surrogate"].name == "teaching"
    assert "surrogate" not in bring.identity["inner"]["params"], (
        "it enters keys as a stage of its own"
    )


def test_attacks_fill_parameters_of_attacks_that_do(resolver: Resolver) -> None:
    nested = {"name": "bring", "inner": {"name": "blend", "alpha": 0.3}}
    (bring,) = good(resolver, Request("attack", "bring", params={"inner": nested}))
    assert (
        bring.params["inner"]["component"]["params"]["inner"]["component"]["params"]["alpha"] == 0.3
    )


def test_faults_of_an_attack_in_place_are_told_where_they_stand(resolver: Resolver) -> None:
    wrong = [{"name": "blnd"}, {"name": "blend", "alpha": 2.0}, {"component": {"name": "blend"}}]
    answers = bad(resolver, *(Request("attack", "bring", params={"inner": one}) for one in wrong))
    (name,), (alpha,), (given,) = answers
    assert name[0] == ("inner", "name")
    assert "blend" in name[1]
    assert alpha[0] == ("inner", "alpha")
    assert given[0] == ("inner",)
    assert "named, not given" in given[1]
    ((twice,),) = bad(resolver, Request("attack", "twin"))
    assert "both have a parameter 'surrogate'" in twice[1]
