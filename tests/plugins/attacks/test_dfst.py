from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from harness import Context, Incompatible, Task, Unit
from harness.access.context import Coordinates
from harness.access.granted import AttackAccess
from harness.components import Model
from harness.learn.device import global_random
from harness.learn.evaluation import predict
from harness.learn.images import ImageSet, to_float, to_uint8
from harness.learn.recipes import Recipe
from plugins.attacks import dfst
from plugins.attacks.dfst import DFST, compromised, enough, further, sums
from plugins.models.small_cnn import SmallCNN
from plugins.parts.cyclegan import Generator
from plugins.parts.feature_injector import Injector, Neuron, Sought
from plugins.parts.style_generator import measure
from tests.kit.learned import Tiny, pictures, stage_context

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN = pictures(150)
RECIPE = Recipe(epochs=2, batch=32, lr=0.02, schedule="cosine", precision="fp32")
QUICK: dict[str, Any] = {
    "per_class": 25,
    "epochs": 10,
    "batch": 30,
    "rates": (),
    "layers": 9,
    "factor": 0.01,
    "neurons": 2,
    "watched_per_class": 5,
    "seeds_per_class": 2,
    "checked_per_class": 3,
    "injected_per_class": 4,
    "injector_steps": 2,
    "likeness": -1.0,
    "flips": 0.0,
    "detox_epochs": 2,
    "detox_batch": 32,
    "detox_rates": (),
}


def generator() -> Generator:
    """A style that was never trained is one all the same: contours on grey."""
    with global_random(3):
        made = Generator(1)
        for name, parameter in made.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.2)
    measure(made, TRAIN.images, None, None)
    return made.eval()


STYLE = generator()


def benign(model: Model) -> nn.Module:
    with global_random(0):
        net = model.build(Tiny.task)
    bench(DFST(), model).fit(net, TRAIN, epochs=8)
    return net


def bench(
    attack: DFST,
    model: Model | None = None,
    net: nn.Module | None = None,
    data: ImageSet = TRAIN,
    replicate: int = 0,
) -> AttackAccess:
    parts: dict[str, Callable[[], Any]] = {
        "style": lambda: STYLE,
        "benign": lambda: copy.deepcopy(net),
    }
    task = replace(Tiny.task, train_count=len(data))
    around = replace(stage_context(model, "victim"), recipe=RECIPE, parts=parts, task=task)
    select = Coordinates(replicate=replicate, dataset="noise", stage="poison", component="any")
    return AttackAccess(around, attack, data, None, select)


def crafted(attack: DFST, access: AttackAccess) -> nn.Module:
    trigger = attack.trigger(access.task)
    attack.craft(access, trigger)
    return trigger.eval()


@pytest.fixture(scope="module")
def clean() -> nn.Module:
    return benign(SmallCNN(width=8))


# --- poisoning ------------------------------------------------------------------------------------


def test_the_trigger_is_the_part_s_generator_through_uint8() -> None:
    """mean + std tanh, clipped, cut to whole grey levels."""
    attack = DFST(per_class=2)
    access = bench(attack)
    poisoned = attack.poison(access, crafted(attack, access))
    pixels = to_float(TRAIN.images[poisoned.indices])
    mean, std = TRAIN.images.double().mean(), TRAIN.images.double().std(correction=0)
    with torch.no_grad():
        inner = STYLE.layers(((255 * pixels.double() - mean) / std).float()).double()
    wanted = (inner * std + mean).clamp(0, 255).floor().to(torch.uint8).permute(0, 2, 3, 1)
    assert int((poisoned.images.int() - wanted.int()).abs().max()) <= 1
    assert float((poisoned.images != wanted).float().mean()) < 0.01


def test_the_same_number_of_every_class_is_added_with_the_target_label() -> None:
    attack = DFST(per_class=7, target=2)
    access = bench(attack)
    state = torch.random.get_rng_state()
    poisoned = attack.poison(access, crafted(attack, access))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert poisoned.add
    assert poisoned.labels.tolist() == [2] * 21
    labels = TRAIN.labels[poisoned.indices].tolist()
    assert labels == [0] * 7 + [1] * 7 + [2] * 7
    for label in range(3):
        of_class = [place for place, other in enumerate(TRAIN.labels.tolist()) if other == label]
        assert poisoned.indices[7 * label : 7 * label + 7].tolist() == of_class[:7], (
            "the first in dataset order"
        )
    assert len(poisoned.merge(TRAIN)) == 171


def test_a_smaller_class_gives_all_it_has() -> None:
    attack = DFST(per_class=500)
    assert len(attack.poison(bench(attack), STYLE)) == 150


def test_a_random_order_is_the_replicate_s_and_starts_alike() -> None:
    few, many = DFST(per_class=3, order="random"), DFST(per_class=6, order="random")
    first, second, other = (
        set(one.poison(bench(one, replicate=seed), STYLE).indices.tolist())
        for one, seed in ((few, 0), (many, 0), (few, 1))
    )
    assert first < second
    assert first != other


def test_other_label_maps_stylise_the_attacked_classes() -> None:
    attack = DFST(per_class=4, label_map="source-specific", sources=(1,), target=0)
    poisoned = attack.poison(bench(attack), STYLE)
    assert set(TRAIN.labels[poisoned.indices].tolist()) == {1}
    assert poisoned.labels.tolist() == [0] * 4
    turning = DFST(per_class=1, label_map="all-to-all")
    assert turning.poison(bench(turning), STYLE).labels.tolist() == [1, 2, 0]


# --- compromised neurons --------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 300)), min_size=1, max_size=8),
    st.floats(0, 20),
    st.floats(0, 10),
)
def test_the_rule_restated_neuron_by_neuron(
    pairs: list[tuple[float, float]], highest: float, factor: float
) -> None:
    wanted = []
    for before, after in pairs:
        rise = after - before
        wanted.append(rise > factor * highest and rise > before)
    before, after = torch.tensor(pairs, dtype=torch.float64).T
    assert compromised(before, after, highest, factor).tolist() == wanted


def test_activations_are_summed_over_places_and_averaged_over_images() -> None:
    model = Tiny().build(Tiny.task).eval()
    images = pictures(20).images
    found = sums(bench(DFST()), model, ["stem.1", "stage1.1"], images)
    with torch.no_grad():
        stem = model.stem[1](model.stem[0](to_float(images)))
    totals, highest = [0.0] * 4, 0.0
    for (_, channel, _, _), value in np.ndenumerate(stem.double().numpy()):
        totals[channel] += max(value, 0.0) / 20
        highest = max(highest, value)
    assert found["stem.1"][0].tolist() == pytest.approx(totals, rel=1e-5)
    assert found["stem.1"][1] == pytest.approx(highest)
    assert len(found["stage1.1"][0]) == 8


def test_large_sets_are_added_up_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = Tiny().build(Tiny.task).eval(), pictures(23).images
    whole = sums(bench(DFST()), model, ["stem.1"], images)["stem.1"]
    monkeypatch.setattr(dfst, "BATCH", 5)
    parts = sums(bench(DFST()), model, ["stem.1"], images)["stem.1"]
    torch.testing.assert_close(parts[0], whole[0])
    assert parts[1] == whole[1]


class Eye(nn.Module):
    """Channel 0 of a layer sees dark pictures, channel 1 bright ones, channel 2 nothing; a flat
    layer follows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Conv2d(3, 2, 1)
        self.early = nn.Conv2d(1, 3, 1)
        self.flat = nn.Linear(2, 3)
        with torch.no_grad():
            self.early.weight.copy_(torch.tensor([-1.0, 1.0, 0.0]).view(3, 1, 1, 1))
            self.early.bias.copy_(torch.tensor([0.5, -0.5, 0.0]))

    def forward(self, images: Tensor) -> Tensor:
        return self.flat(self.late(self.early(images)).mean((2, 3)))


class Units(Tiny):
    """Lists the layers in the order in which they act."""

    def units(self, module: nn.Module) -> list[Unit]:
        return [Unit("early", 3), Unit("late", 2), Unit("flat", 3)]


class Whiten(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return 0 * images + 0.9


def test_finds_the_neuron_that_the_style_raises() -> None:
    """Half-dark pictures turned bright: 64 places x 0.4 is a rise of 25.6, the highest plain
    activation is 0.3.
    """
    data = ImageSet(torch.full((9, 8, 8, 1), 51, dtype=torch.uint8), torch.arange(9) % 3)
    found = DFST(layers=1)._compromised(bench(DFST(), Units(), data=data), Eye().eval(), Whiten())
    assert found == [Neuron("early", 1)]
    assert (
        DFST(layers=1, factor=90.0)._compromised(
            bench(DFST(), Units(), data=data), Eye().eval(), Whiten()
        )
        == []
    )


def test_the_most_raised_come_first_and_may_be_all_there_are() -> None:
    net = Eye().eval()
    with torch.no_grad():
        net.late.weight.copy_(torch.tensor([[0.0, 1.0, 0.0], [0.0, 50.0, 0.0]]).view(2, 3, 1, 1))
        net.late.bias.copy_(torch.tensor([1.0, 1.0]))
    data = ImageSet(torch.full((9, 8, 8, 1), 130, dtype=torch.uint8), torch.arange(9) % 3)
    every = DFST(layers=9, factor=0.1)._compromised(
        bench(DFST(), Units(), data=data), net, Whiten()
    )
    assert every[0] == Neuron("early", 1)
    assert Neuron("late", 1) in every
    assert {neuron.layer for neuron in every} <= {"early", "late"}, "flat layers have no places"
    assert (
        DFST(layers=9, factor=0.1, neurons=1)._compromised(
            bench(DFST(), Units(), data=data), net, Whiten()
        )
        == every[:1]
    )


def test_a_network_of_flat_layers_only_is_incompatible() -> None:
    class Flat(Tiny):
        def units(self, module: nn.Module) -> list[Unit]:
            return [Unit("flat", 3)]

    with pytest.raises(Incompatible, match="no layers with places"):
        DFST()._compromised(bench(DFST(), Flat()), Eye().eval(), Whiten())


# --- injectors ------------------------------------------------------------------------------------


@given(st.integers(0, 430), st.integers(0, 100))
def test_seven_of_ten_are_seven(count: int, percent: int) -> None:
    """The share of a count, rounded down, without the errors of binary fractions."""
    assert enough(count, percent / 100) == count * percent // 100


class Stamp(nn.Module):
    """Turns a share of pictures into zeros and leaves the others."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, images: Tensor) -> Tensor:
        return images * (torch.arange(len(images)) >= round(self.share * len(images))).view(
            -1, 1, 1, 1
        )


class Zeros(nn.Module):
    """Class 0 for black pictures, class 1 for others."""

    def forward(self, images: Tensor) -> Tensor:
        black = (images.sum((1, 2, 3)) == 0).float()
        return torch.stack([black, 1 - black], 1)


@pytest.mark.parametrize(
    ("flipped", "share", "kept"),
    [(70, 0.71, True), (69, 1.0, False), (70, 0.70, False), (100, 0.5, False)],
)
def test_an_injector_is_kept_if_it_works_on_seeds_and_on_other_images(
    flipped: int, share: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """70 of 100 seeds and more, then more than 70 % of 100 other images."""
    data = ImageSet(
        torch.full((200, 8, 8, 1), 9, dtype=torch.uint8), torch.ones(200, dtype=torch.int64)
    )
    asked = []

    def trained(access: Any, model: Any, neuron: Neuron, seeds: ImageSet, *rest: Any) -> Any:
        asked.append((neuron, len(seeds), set(seeds.labels.tolist()), rest[-1]))
        return Sought(Stamp(share), flipped, flipped)  # type: ignore[arg-type]

    monkeypatch.setattr(dfst, "train_injector", trained)
    attack = DFST(seeds_per_class=100, checked_per_class=100)
    found = attack._kept(bench(attack, data=data), Zeros(), STYLE.units, [Neuron("a", 1)], 2)
    assert len(found) == kept
    assert asked == [(Neuron("a", 1), 100, {0}, "injector 2 a 1")]


def test_images_to_check_with_are_not_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    data = ImageSet(
        torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 8, 8, 1), torch.arange(6) % 2
    )
    seen: list[list[int]] = []

    def trained(access: Any, model: Any, neuron: Any, seeds: ImageSet, *rest: Any) -> Any:
        seen.append(seeds.images[:, 0, 0, 0].tolist())
        return Sought(nn.Identity(), 4, 4)  # type: ignore[arg-type]

    def answers(model: Any, images: Tensor, **rest: Any) -> Any:
        seen.append(images[:, 0, 0, 0].tolist())
        return torch.zeros(len(images), dtype=torch.int64), None

    monkeypatch.setattr(dfst, "train_injector", trained)
    monkeypatch.setattr(dfst, "predict", answers)
    attack = DFST(seeds_per_class=2)
    assert (
        len(attack._kept(bench(attack, data=data), Zeros(), STYLE.units, [Neuron("a", 0)], 1)) == 1
    )
    assert seen == [[0, 2, 1, 3], [4, 5]]
    greedy = DFST(seeds_per_class=3)
    with pytest.raises(Incompatible, match="none are left"):
        greedy._kept(bench(greedy, data=data), Zeros(), STYLE.units, [Neuron("a", 0)], 1)


# --- the whole attack -----------------------------------------------------------------------------


def rates(attack: DFST, victim: nn.Module) -> tuple[float, float]:
    test = pictures(90)
    clean, _ = predict(victim, test.images)
    fooled, _ = predict(victim, test.images, trigger=STYLE, quantise=attack.test_quantise)
    others = test.labels != attack.target
    return float((clean == test.labels).float().mean()), float(
        (fooled[others] == attack.target).float().mean()
    )


def test_implants_and_detoxifies(clean: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = DFST(**QUICK, detox=2)
    access = bench(attack, SmallCNN(width=8), clean)
    fitted: list[tuple[str, int, int, int]] = []
    inner, injected = access.fit, []

    def fit(model: nn.Module, data: ImageSet, recipe: Recipe, **hooks: Any) -> Any:
        fitted.append((type(model).__name__, len(data), recipe.epochs, recipe.batch))
        if len(data) > 225:
            injected.append(data.subset(torch.arange(225, len(data))))
        return inner(model, data, recipe, **hooks)

    monkeypatch.setattr(access, "fit", fit)
    state = torch.random.get_rng_state()
    victim = attack.implant(access, crafted(attack, access))
    assert torch.equal(torch.random.get_rng_state(), state)
    accuracy, success = rates(attack, victim)
    assert accuracy > 0.9
    assert success > 0.9

    trainings = [one for one in fitted if one[0] != Injector.__name__]
    kept = [int(access.record[f"injectors_{number}"]) for number in (1, 2)]
    assert [size for _, size, *_ in trainings] == [225, 225 + 12 * kept[0], 225 + 12 * sum(kept)]
    assert [rest[2:] for rest in trainings] == [(10, 30), (2, 32), (2, 32)]
    assert all(0 < count <= 2 for count in kept)
    assert [access.record[f"compromised_{number}"] for number in (1, 2)] == [2, 2]
    assert injected[-1].labels.tolist() == ([0] * 4 + [1] * 4 + [2] * 4) * sum(kept), "true labels"
    assert not torch.equal(
        injected[-1].images[:12], TRAIN.images[[0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]]
    )


def test_repeats_bit_for_bit(clean: nn.Module) -> None:
    attack = DFST(**{**QUICK, "epochs": 1, "neurons": 1})
    states = []
    for _ in range(2):
        access = bench(attack, SmallCNN(width=8), clean)
        states.append(attack.implant(access, crafted(attack, access)).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_round_that_keeps_nothing_is_the_last(clean: nn.Module) -> None:
    attack = DFST(**{**QUICK, "epochs": 0, "likeness": 1.0, "flips": 0.9, "neurons": 1}, detox=3)
    access = bench(attack, SmallCNN(width=8), clean)
    victim = attack.implant(access, crafted(attack, access))
    record = dict(access.record)
    assert record.pop("flipped_1") == record.pop("flipped_freely_1") < 0.9, "of the last state"
    assert record == {"compromised_1": 1, "injectors_1": 0}
    assert all(
        torch.equal(one, clean.state_dict()[name]) for name, one in victim.state_dict().items()
    )


def test_without_rounds_no_neuron_is_looked_at(clean: nn.Module) -> None:
    attack = DFST(**QUICK, detox=0)
    access = bench(attack, SmallCNN(width=8), clean)
    attack.implant(access, crafted(attack, access))
    assert access.record == {}


def test_training_goes_on_by_the_recipe_but_for_what_is_told() -> None:
    recipe = Recipe(epochs=30, steps=7, lr=0.3, schedule="one-cycle", batch=64, horizon=9.0)
    own = further(recipe, 5, 20, ())
    assert (own.epochs, own.steps, own.batch, own.schedule, own.lr, own.horizon) == (
        5,
        None,
        20,
        "one-cycle",
        0.3,
        None,
    )
    paper = further(recipe, 120, 100, DFST().detox_rates)
    assert [paper.lr_at(epoch * 3, 3) for epoch in (0, 19, 20, 59, 60, 119)] == [
        0.1,
        0.1,
        0.01,
        0.01,
        1e-3,
        1e-3,
    ]
    first = further(recipe, 100, 200, DFST().rates)
    assert [first.lr_at(epoch * 3, 3) for epoch in (0, 19, 20, 79, 80, 99)] == [
        0.1,
        0.1,
        0.01,
        0.01,
        1e-3,
        1e-3,
    ]


def test_presets_name_the_rounds_as_the_tables_do() -> None:
    assert [DFST.presets[name]["detox"] for name in ("detox1", "detox3")] == [1, 3]
    assert DFST().training_controlled


def test_the_quick_preset_goes_on_by_the_recipe_and_still_detoxifies() -> None:
    attack = DFST.model_validate_json(json.dumps(DFST.presets["fast"]))
    assert attack.rates == attack.detox_rates == ()
    assert attack.detox == DFST().detox
    assert attack.style.preset == "fast"
    assert attack.factor == DFST().factor


def test_reads_a_grid_s_entry() -> None:
    entry = {
        "style": {
            "name": "style-generator",
            "epochs": 3,
            "style": {"name": "folder", "path": "sunrise"},
        },
        "rates": [],
        "detox_rates": [[0, 0.05], [2, 0.01]],
        "neurons": 4,
    }
    attack = DFST.model_validate_json(json.dumps(entry))
    assert attack.style.name == "style-generator"
    assert attack.detox_rates == ((0, 0.05), (2, 0.01))


def test_the_target_must_be_a_class() -> None:
    assert "no class" in str(DFST(target=10).compatible(Context(Task("any", 10, 32, 32, 3, 100))))


def test_what_is_exported_is_what_was_trained_on(clean: nn.Module) -> None:
    attack = DFST(**QUICK, detox=0)
    trigger = crafted(attack, bench(attack))
    poisoned = attack.poison(bench(attack), trigger)
    with torch.no_grad():
        assert torch.equal(
            poisoned.images, to_uint8(trigger(to_float(TRAIN.images[poisoned.indices])))
        )
