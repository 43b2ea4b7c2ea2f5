from __future__ import annotations

import time
from collections.abc import Callable, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness import Incompatible, Undeclared
from harness.access.context import Coordinates, Deadline, StageContext
from harness.access.granted import Access, AttackAccess, MetricAccess, PartAccess
from harness.access.seeds import seed
from harness.access.workbench import Workbench
from harness.components import Model, PoisoningAttack, Task
from harness.learn.images import ImageSet
from harness.learn.poisoning import PoisonedSet
from harness.learn.recipes import Recipe

TASK = Task("noise", classes=3, height=4, width=4, channels=1, train_count=12)
HERE = Coordinates(replicate=7, dataset="noise", stage="defend", component="ft")


class Dense(Model):
    def build(self, task: Task) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(task.height * task.width * task.channels, task.classes)
        )


def around(**changes: Any) -> StageContext:
    plain = StageContext(
        task=TASK,
        model=Dense(),
        recipe=Recipe(epochs=1, batch=4, lr=0.01, precision="fp32"),
        coordinates=HERE,
        device="cpu",
        scratch=Path("nowhere"),
        deadline=Deadline(None),
        progress=lambda done, of, loss: None,
        parts={},
    )
    return replace(plain, **changes)


def images(count: int = 12) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 4, 4, 1), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 3)


def weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


# --- what is granted ------------------------------------------------------------------------------

GRANTS: list[tuple[type[Any], str, str]] = [
    (Access, "victim", "victim"),
    (Access, "clean", "clean-labelled"),
    (Access, "unlabelled", "clean-unlabelled"),
    (Access, "training_set", "training-set"),
    (Access, "oracle", "oracle"),
    (PartAccess, "train", "train"),
    (MetricAccess, "model", "model"),
    (MetricAccess, "predictions", "predictions"),
    (MetricAccess, "validation", "validation"),
    (MetricAccess, "unlabelled_validation", "validation-unlabelled"),
    (MetricAccess, "test", "test"),
    (MetricAccess, "unlabelled_test", "test-unlabelled"),
    (MetricAccess, "training_set", "training-set"),
    (MetricAccess, "poisoned", "poisoned"),
    (MetricAccess, "trigger", "trigger"),
    (MetricAccess, "result", "result"),
    (MetricAccess, "reference", "reference"),
]


@pytest.mark.parametrize(("kind", "method", "need"), GRANTS)
def test_each_method_opens_what_its_need_names_and_nothing_else(
    kind: type[Any], method: str, need: str
) -> None:
    everything: dict[str, Callable[[], Any]] = {name: partial(str, name) for _, _, name in GRANTS}
    granted = kind(around(), {need}, everything)
    assert getattr(granted, method)() == need
    others: Set[str] = {name for owner, _, name in GRANTS if owner is kind} - {need}
    refused = kind(around(), others, everything)
    with pytest.raises(Undeclared) as caught:
        getattr(refused, method)()
    listed = ", ".join(sorted(others)) or "nothing"
    assert f"{need!r} was not declared: `needs` names {listed}. Add it to `needs`" in str(
        caught.value
    )


def test_what_a_metric_saves_is_kept_by_name() -> None:
    access = MetricAccess(around(), frozenset(), {})
    access.save(first=1)
    access.save(second=2)
    assert access.arrays == {"first": 1, "second": 2}


def test_a_part_is_known_by_its_parameter() -> None:
    access = Access(
        around(parts={"teacher": lambda: "a module", "donor": lambda: "images"}), frozenset(), {}
    )
    assert access.part("teacher") == "a module"
    with pytest.raises(
        Undeclared, match="no parameter 'student' is a component; those that are: donor, teacher"
    ):
        access.part("student")
    with pytest.raises(Undeclared, match="those that are: none"):
        Access(around(), frozenset(), {}).part("student")


# --- what belongs to a model ----------------------------------------------------------------------


def test_without_a_model_there_is_nothing_of_one() -> None:
    bare = Workbench(around(model=None, recipe=None), frozenset())
    with pytest.raises(Undeclared, match='add "model" to `needs`'):
        bare.recipe
    with pytest.raises(Undeclared, match="so there is no fresh one"):
        bare.fresh_model()
    with pytest.raises(Undeclared, match="so there is no anatomy"):
        bare.anatomy(nn.Identity())
    with pytest.raises(Undeclared, match="so there is no prunable units"):
        bare.units(nn.Identity())
    with pytest.raises(Undeclared, match='add "model" to `needs`'):
        bare.fit(Dense().build(TASK), images())
    assert bare.fit(Dense().build(TASK), images(), Recipe(epochs=1, batch=4)).steps == 3


def test_anatomy_and_units_are_the_architecture_s_own() -> None:
    bench = Workbench(around(), frozenset())
    with pytest.raises(Incompatible, match="Dense names no anatomy"):
        bench.anatomy(bench.fresh_model())
    assert list(bench.units(bench.fresh_model())) == []


# --- randomness -----------------------------------------------------------------------------------


def test_shared_streams_are_the_stage_s_and_own_ones_the_component_s() -> None:
    other = replace(HERE, component="nad")
    assert HERE.shared("init") == other.shared("init") == seed(7, "noise", "defend", "init")
    assert HERE.own("noise") == seed(7, "noise", "defend", "noise", "ft")
    assert HERE.own("noise") != other.own("noise")
    assert HERE.own("init") != HERE.shared("init")
    mine, theirs = (Workbench(around(coordinates=at), frozenset()) for at in (HERE, other))
    assert torch.equal(weights(mine.fresh_model()), weights(theirs.fresh_model()))
    assert mine.seed("noise") != theirs.seed("noise")
    assert torch.rand(1, generator=mine.generator("a")) == torch.rand(
        1, generator=mine.generator("a")
    )
    assert mine.generator("a").initial_seed() != mine.generator("b").initial_seed()


@pytest.mark.parametrize(
    "elsewhere",
    [
        replace(HERE, replicate=8),
        replace(HERE, replicate=None),
        replace(HERE, dataset="signs"),
        replace(HERE, stage="victim"),
    ],
)
def test_another_place_draws_otherwise(elsewhere: Coordinates) -> None:
    assert elsewhere.shared("init") != HERE.shared("init")
    assert elsewhere.own("noise") != HERE.own("noise")


def test_each_call_draws_otherwise_and_the_same_in_every_run() -> None:
    runs = []
    for _ in range(2):
        bench = Workbench(around(), frozenset())
        networks = [bench.fresh_model() for _ in range(3)]
        copies = []
        for _ in range(2):
            network = Workbench(around(), frozenset()).fresh_model()
            bench.fit(network, images(), shuffle=True, lr=0.5)
            copies.append(network)
        runs.append([weights(network) for network in (*networks, *copies)])
    for first, again in zip(*runs, strict=True):
        assert torch.equal(first, again)
    for index, one in enumerate(runs[0]):
        assert not any(torch.equal(one, other) for other in runs[0][:index])


def test_drawing_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    bench = Workbench(around(), frozenset())
    bench.fit(bench.fresh_model(), images())
    bench.generator("a")
    assert torch.equal(torch.get_rng_state(), state)


# --- training -------------------------------------------------------------------------------------


def test_settings_of_fit_are_fields_of_the_recipe_or_hooks() -> None:
    seen: list[int] = []
    bench = Workbench(around(), frozenset())
    history = bench.fit(
        bench.fresh_model(),
        images(),
        epochs=2,
        batch=6,
        after_step=lambda batch: seen.append(batch.step),
    )
    assert (history.steps, seen) == (4, [0, 1, 2, 3])
    assert bench.images_processed == 24
    assert bench.recipe.epochs == 1
    with pytest.raises(ValueError, match="epoch_count"):
        bench.fit(bench.fresh_model(), images(), epoch_count=2)


def test_ticks_count_images_and_show_progress() -> None:
    shown: list[tuple[int, int, float | None]] = []
    bench = Workbench(
        around(progress=lambda done, of, loss: shown.append((done, of, loss))), frozenset()
    )
    bench.tick(images=5)
    bench.tick(images=3, done=2, of=4)
    assert bench.images_processed == 8
    assert shown == [(2, 4, None)]


def test_a_deadline_ends_loops_with_a_sentence() -> None:
    never, ahead, past = (
        Deadline(None),
        Deadline(time.monotonic() + 60),
        Deadline(time.monotonic() - 1),
    )
    never.check()
    ahead.check()
    assert never.left == float("inf")
    assert 50 < ahead.left <= 60
    assert past.left < 0
    bench = Workbench(around(deadline=past), frozenset())
    for loop in (past.check, bench.tick, lambda: bench.fit(bench.fresh_model(), images())):
        with pytest.raises(TimeoutError, match="time-out has passed"):
            loop()
    assert bench.deadline is past


# --- attacks --------------------------------------------------------------------------------------


class Fills(PoisoningAttack):
    def trigger(self, task: Task) -> nn.Module:
        return nn.Threshold(2, 1)  # all pixels white


def attacking(
    component: str, poisoned: PoisonedSet | None = None, stage: str = "victim"
) -> AttackAccess:
    at = replace(HERE, component=component, stage=stage)
    return AttackAccess(
        around(coordinates=at), Fills(target=1), images(), poisoned, replace(at, stage="poison")
    )


def test_all_attacks_of_a_replicate_select_alike_in_every_stage() -> None:
    draws = [
        torch.randperm(12, generator=attacking(name, stage=stage).selection()).tolist()
        for name in ("badnets", "wanet")
        for stage in ("poison", "victim", "export")
    ]
    assert all(draw == draws[0] for draw in draws)


def test_the_poisoned_set_is_there_once_it_is_made() -> None:
    with pytest.raises(Undeclared, match="before `poison` has made it"):
        attacking("badnets").poisoned
    made = Fills(target=1, poison_rate=0.5).poison(attacking("badnets"), Fills().trigger(TASK))
    access = attacking("badnets", made)
    assert access.poisoned is made
    assert access.label_table == (1, 1, 1)
    assert len(made) == 6
    assert int(made.images.min()) == 255


def test_the_default_implant_fits_a_fresh_model_on_the_poisoned_set() -> None:
    trigger = Fills().trigger(TASK)
    made = Fills(target=1, poison_rate=0.5).poison(attacking("badnets"), trigger)
    victim = attacking("badnets", made).fit_poisoned(trigger, epochs=3)
    access = attacking("badnets")
    again = access.fresh_model()
    access.fit(again, made.merge(images()), epochs=3)
    assert torch.equal(weights(victim), weights(again))
    assert not victim.training
