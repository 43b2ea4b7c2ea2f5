from __future__ import annotations

import json
import random
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.errors import Unfit
from harness.keeping.objects import Objects
from harness.keeping.packing import Packed, pack


def through_a_file(state: Any, folder: Path) -> Any:
    """Return a state as the next attempt sees it."""
    packed = pack(state)
    packed.save(folder / "state.safetensors")
    told = json.loads(json.dumps(packed.json))
    return Packed.load(told, folder / "state.safetensors").unpack()


def another(make: Callable[[], Any], change: Callable[[Any], object], folder: Path) -> Any:
    """Return what the next attempt has, after a loop that changed what it kept."""
    first = make()
    known = Objects({"things": first})
    change(first)
    kept = through_a_file(known.state(), folder)
    second = make()
    Objects({"things": second}).restore(kept)
    return second


class Counter:
    def __init__(self, count: int) -> None:
        self.count = count

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


@dataclass
class Counted(Counter):
    """A dataclass that knows better."""

    count: int
    other: object = None


@dataclass
class Best:
    loss: float
    mask: Tensor
    seen: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Fixed:
    loss: float


def of_every_kind() -> tuple[Any, ...]:
    return (
        torch.zeros(2, requires_grad=True),
        torch.Generator().manual_seed(1),
        random.Random(1),
        np.random.default_rng(1),
        {"a": 1},
        [1],
        Counter(1),
        Best(9.0, torch.zeros(2)),
        np.zeros(2),
        Counted(1, {1, 2}),
        defaultdict(list, {"x": [1]}),
    )


def test_objects_of_every_kind_are_filled_in_place(tmp_path: Path) -> None:
    before = of_every_kind()
    known = Objects({"before": before})
    with torch.no_grad():
        before[0].fill_(5)
    torch.rand(3, generator=before[1])
    before[2].random()
    before[3].random()
    before[4]["b"] = (2, torch.ones(1))
    before[5].append("x")
    before[6].count = 9
    before[7].loss = 0.5
    before[7].mask = torch.ones(3)
    before[7].seen.append(4)
    before[8].fill(3)
    before[9].count = 9
    before[10]["x"].append(2)
    kept = through_a_file(known.state(), tmp_path)
    after = of_every_kind()
    Objects({"after": after}).restore(kept)
    assert after[0].tolist() == [5, 5]
    assert torch.equal(torch.rand(3, generator=after[1]), torch.rand(3, generator=before[1]))
    assert after[2].random() == before[2].random()
    assert after[3].random() == before[3].random()
    assert after[4] == {"a": 1, "b": (2, torch.ones(1))}
    assert after[5] == [1, "x"]
    assert after[6].count == 9
    assert (after[7].loss, after[7].mask.tolist(), after[7].seen) == (0.5, [1, 1, 1], [4])
    assert after[8].tolist() == [3, 3]
    assert after[9].count == 9
    assert after[10] == {"x": [1, 2]}
    assert after[10]["y"] == []


def held() -> dict[str, Any]:
    masks = [torch.zeros(2, requires_grad=True), torch.zeros(3)]
    return {"masks": masks, "nested": {"deep": [nn.Linear(2, 2), torch.Generator(), np.zeros(1)]}}


def test_objects_within_lists_and_tables_are_filled_in_place(tmp_path: Path) -> None:
    def change(things: dict[str, Any]) -> None:
        linear, generator, array = things["nested"]["deep"]
        with torch.no_grad():
            things["masks"][0].fill_(4)
            linear.weight.fill_(7)
        generator.manual_seed(11)
        array += 5
        del things["masks"][1]
        things["masks"].append(torch.ones(1))

    variables: list[Any] = []

    def make() -> dict[str, Any]:
        things = held()
        variables[:] = [*things["masks"], *things["nested"]["deep"], things["nested"]["deep"]]
        return things

    things = another(make, change, tmp_path)
    first, second, linear, generator, array, deep = variables
    assert things["masks"][0] is first
    assert first.tolist() == [4, 4]
    assert first.requires_grad
    assert second.tolist() == [0, 0, 0]
    assert [mask.tolist() for mask in things["masks"][1:]] == [[1]]
    assert things["nested"]["deep"] is deep
    assert deep[0] is linear
    assert linear.weight.unique().tolist() == [7]
    assert generator.initial_seed() == 11
    assert array.tolist() == [5]


def test_objects_that_change_places_stay_what_they_are(tmp_path: Path) -> None:
    variables: list[Tensor] = []

    def make() -> list[Tensor]:
        variables[:] = [torch.zeros(2), torch.zeros(2)]
        return list(variables)

    def change(masks: list[Tensor]) -> None:
        masks[0].fill_(1)
        masks[1].fill_(2)
        masks.reverse()

    masks = another(make, change, tmp_path)
    assert [variable.tolist() for variable in variables] == [[1, 1], [2, 2]]
    assert masks[0] is variables[1]
    assert masks[1] is variables[0]


def test_what_is_one_object_stays_one(tmp_path: Path) -> None:
    """A `best` that is the mask itself follows it, as it does undisturbed: also by memory alone."""

    def make() -> dict[str, Any]:
        return {"mask": torch.zeros(4, requires_grad=True), "best": {}}

    def change(things: dict[str, Any]) -> None:
        best = things["best"]
        best["same"] = things["mask"]
        best["values"] = things["mask"].detach()
        best["part"] = things["mask"].detach()[1::2]
        best["own"] = things["mask"].detach().clone()
        best["again"] = best["own"]
        best["itself"] = best

    things = another(make, change, tmp_path)
    best = things["best"]
    things["mask"].data.copy_(torch.arange(4.0))
    assert best["same"] is things["mask"]
    assert best["values"].tolist() == [0, 1, 2, 3]
    assert best["part"].tolist() == [1, 3]
    assert not best["values"].requires_grad
    assert best["own"].tolist() == [0, 0, 0, 0]
    assert best["again"] is best["own"]
    assert best["itself"] is best


def test_gradients_and_flags_come_back(tmp_path: Path) -> None:
    def make() -> tuple[Any, ...]:
        return nn.Linear(2, 1), torch.zeros(2, requires_grad=True), torch.zeros(1)

    def change(things: tuple[Any, ...]) -> None:
        linear, mask, still = things
        (linear(mask).sum() + mask.sum()).backward()
        linear.weight.requires_grad_(False)
        linear.bias.grad = None
        still.requires_grad_(True)
        linear.weight.grad.fill_(3)

    linear, mask, still = another(make, change, tmp_path)
    assert linear.weight.grad.tolist() == [[3, 3]]
    assert not linear.weight.requires_grad
    assert linear.bias.grad is None
    assert linear.bias.requires_grad
    assert mask.grad.shape == (2,)
    assert mask.grad.abs().min() > 0
    assert still.requires_grad


def test_new_parameters_and_ordered_tables_come_back_as_such(tmp_path: Path) -> None:
    def change(things: dict[str, Any]) -> None:
        things["new"] = nn.Parameter(torch.ones(2), requires_grad=False)
        things["states"] = OrderedDict(first=1)
        things["asks"] = torch.ones(1, requires_grad=True)
        things["asks"].grad = torch.ones(1)

    things = another(dict, change, tmp_path)
    assert type(things["new"]) is nn.Parameter
    assert not things["new"].requires_grad
    assert type(things["states"]) is OrderedDict
    assert things["asks"].requires_grad
    assert things["asks"].grad.tolist() == [1]


def network() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())
    net.register_buffer("passing", torch.zeros(2), persistent=False)
    net.register_buffer("going", torch.zeros(2))
    return net


def test_a_module_comes_back_with_modes_and_all_buffers(tmp_path: Path) -> None:
    passing: list[Tensor] = []

    def make() -> nn.Module:
        net = network()
        passing[:] = [net.get_buffer("passing")]
        return net

    def change(net: nn.Module) -> None:
        assert isinstance(net, nn.Sequential)
        net.eval()
        net[0].train()
        net[2].p = 0.25
        net[0].register_buffer("late", torch.ones(3), persistent=False)
        net[1].running_mean = torch.full((4,), 2.0)
        net.get_buffer("passing").fill_(3)
        del net.going

    net = another(make, change, tmp_path)
    assert [part.training for part in net.modules()] == [False, True, False, False, False]
    assert net[2].p == 0.25
    assert net[0].late.tolist() == [1, 1, 1]
    assert "0.late" not in net.state_dict()
    assert net[1].running_mean.tolist() == [2, 2, 2, 2]
    assert net.get_buffer("passing") is passing[0]
    assert passing[0].tolist() == [3, 3]
    assert not hasattr(net, "going")


def test_groups_of_parameters_that_were_added_come_back(tmp_path: Path) -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        net = network()
        return net, torch.optim.SGD(net[0].parameters(), lr=0.1, momentum=0.9)

    def change(things: tuple[nn.Module, torch.optim.Optimizer]) -> None:
        net, optimiser = things
        optimiser.add_param_group({"params": [net[1].weight], "lr": 0.5})
        net(torch.ones(2, 2, 4, 4)).sum().backward()
        optimiser.step()

    net, optimiser = another(make, change, tmp_path)
    assert optimiser.param_groups[1]["params"][0] is net[1].weight
    assert optimiser.param_groups[1]["lr"] == 0.5
    assert "momentum_buffer" in optimiser.state[net[1].weight]


def replaced(net: nn.Module) -> None:
    net[0] = nn.Conv2d(2, 4, 3)


def parametrised(net: nn.Module) -> None:
    nn.utils.parametrizations.weight_norm(net[0])


CHANGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "part": (replaced, r"its part '0' changed after the loop began"),
    "parameter": (
        lambda net: setattr(net[0], "weight", nn.Parameter(torch.zeros(4, 2, 3, 3))),
        r"its parameter '0.weight' changed after",
    ),
    "parametrisation": (parametrised, r"its parameter '0.weight' changed"),
    "hook": (
        lambda net: net[1].register_forward_hook(lambda *_: None),
        r"the hooks of its part '1' changed",
    ),
    "hook of a parameter": (
        lambda net: net[0].weight.register_hook(lambda gradient: gradient * 2),
        r"its hooks changed after",
    ),
    "size": (
        lambda net: setattr(net[0].weight, "data", torch.zeros(1)),
        r"its size changed after",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_module_whose_structure_changes_cannot_be_kept(what: str) -> None:
    change, complaint = CHANGES[what]
    net = network()
    known = Objects({"net": net})
    change(net)
    with pytest.raises(TypeError, match=f"net: a [A-Za-z]+ cannot be kept: {complaint}"):
        known.state()


def test_hooks_that_are_there_for_a_while_do_no_harm() -> None:
    net = network()
    net.register_forward_hook(lambda *_: None)
    known = Objects({"net": net})
    handle = net.register_forward_hook(lambda *_: None)
    handle.remove()
    known.state()


def test_parameters_from_elsewhere_cannot_join_an_optimiser() -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    known = Objects({"sgd": optimiser})
    optimiser.add_param_group({"params": [torch.zeros(1, requires_grad=True)]})
    with pytest.raises(TypeError, match="sgd: an optimiser cannot be kept without the parameters"):
        known.state()


LATE: dict[str, tuple[object, str]] = {
    "size": (torch.Size([2]), "a Size cannot be kept"),
    "set": ({1}, "a set cannot be kept"),
    "module": (nn.Linear(1, 1), "a Linear cannot be kept, as it was not there when the loop began"),
    "computed": (
        torch.ones(1, requires_grad=True) * 2,
        "a tensor that was computed from others with gradients",
    ),
    "sparse": (torch.zeros(2, 2).to_sparse(), "a tensor of layout torch.sparse_coo cannot be kept"),
    "objects": (np.array([None]), "an array of Python objects cannot be kept"),
}


@pytest.mark.parametrize("late", LATE)
def test_what_comes_late_and_cannot_be_kept_is_named(late: str) -> None:
    value, complaint = LATE[late]
    best: dict[str, Any] = {}
    known = Objects({"other": [1], "best": {"inner": best}})
    best["late"] = (1, value)
    with pytest.raises(TypeError, match=f"best: {complaint}"):
        known.state()


@pytest.mark.parametrize("thing", [Fixed(1.0), Best, 3, "text", None, {1}, lambda: None])
def test_what_has_no_state_is_refused_from_the_start(thing: object) -> None:
    with pytest.raises(TypeError, match=r"thing: a .* cannot be kept"):
        Objects({"thing": thing})


OTHERS: list[tuple[object, object]] = [
    (torch.zeros(2), torch.zeros(3)),
    (torch.zeros(2), torch.zeros(2, dtype=torch.int64)),
    (nn.Linear(2, 2), nn.Linear(2, 3)),
    (torch.zeros(2), np.zeros(2)),
    (np.zeros(2), np.zeros(3)),
    ([1], {"a": 1}),
    ((torch.zeros(2), torch.zeros(2)), (torch.zeros(2),)),
    (Best(0.0, torch.zeros(1)), Best(0.0, torch.zeros(2))),
]


@pytest.mark.parametrize(("kept", "there"), OTHERS)
def test_what_does_not_fit_is_unfit(kept: object, there: object, tmp_path: Path) -> None:
    state = through_a_file(Objects({"thing": kept}).state(), tmp_path)
    with pytest.raises(Unfit):
        Objects({"thing": there}).restore(state)
