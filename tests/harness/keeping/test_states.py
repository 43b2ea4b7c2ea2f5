from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from harness import Recipe
from harness.errors import Unfit
from harness.keeping.objects import Objects
from harness.keeping.packing import Packed, check, pack
from harness.keeping.states import global_state, restore, restore_globals
from harness.learn.layout import bring
from harness.learn.optimiser import Optimiser

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.uint8,
    torch.bool,
]


def through_a_file(state: Any, folder: Path) -> Any:
    """Return a state as the next attempt sees it."""
    packed = pack(state)
    packed.save(folder / "state.safetensors")
    told = json.loads(json.dumps(packed.json))
    return Packed.load(told, folder / "state.safetensors").unpack()


def same(one: Any, other: Any) -> bool:
    """Tell whether two states are the same to the bit, types and layouts included."""
    if isinstance(one, Tensor):
        if one.dtype != other.dtype or one.shape != other.shape or one.stride() != other.stride():
            return False
        return (
            one.contiguous().numpy(force=True).tobytes()
            == other.contiguous().numpy(force=True).tobytes()
            if one.dtype is not torch.bfloat16
            else torch.equal(one, other)
        )
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=4))
    dtype = draw(st.sampled_from(DTYPES))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    order = draw(st.permutations(range(len(shape))))
    return (values * 100).to(dtype).permute(order)


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.builds(np.float64, st.floats())
    | st.builds(lambda n: np.arange(n, dtype=np.uint32), st.integers(0, 4))
)
STATES = st.recursive(
    PLAIN | tensors(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(STATES)
@settings(max_examples=150, deadline=None)
def test_a_state_comes_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, state: Any
) -> None:
    assert same(through_a_file(state, tmp_path_factory.mktemp("state")), state)


def test_a_state_is_a_copy() -> None:
    values = torch.zeros(3)
    packed = pack([values])
    values += 1
    assert packed.unpack()[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "thing", [{1, 2}, object(), np.array([None]), torch.zeros(2, 2).to_sparse(), lambda: None]
)
def test_what_no_state_can_hold_is_refused(thing: Any) -> None:
    for refuse in (check, pack):
        with pytest.raises(TypeError, match="cannot be kept"):
            refuse({"inside": [thing]})


def network() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten())
    net.register_buffer("passing", torch.zeros(2), persistent=False)
    bring(net, "cpu")
    return net


def train(net: nn.Module, optimiser: Optimiser, steps: int, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimiser.prepare(step, 5)
        optimiser.clear()
        net(torch.randn((4, 2, 6, 6), generator=draws)).square().mean().backward()
        optimiser.advance()


OPTIMISERS = get_args(Recipe.model_fields["optimizer"].annotation)
RATES = [(name, False) for name in OPTIMISERS]
# Adadelta takes a tensor on GPUs only.
RATES += [(name, True) for name in OPTIMISERS if name != "adadelta"]


@pytest.mark.parametrize(("name", "rate_tensor"), RATES)
@pytest.mark.parametrize("zero_grad", [True, False])
def test_an_optimiser_goes_on_as_if_never_stopped(
    name: str, zero_grad: bool, rate_tensor: bool, tmp_path: Path
) -> None:
    recipe = Recipe(optimizer=name, lr=0.01, nesterov=name == "sgd", clip_norm=1.0)
    found = []
    for stop in (False, True):
        torch.manual_seed(0)
        net = network()
        optimiser = Optimiser(net.parameters(), recipe, zero_grad, rate_tensor)
        known = Objects({"net": net})
        train(net, optimiser, 3, seed=1)
        if stop:
            (tmp_path / "net").mkdir()
            kept = through_a_file(known.state(), tmp_path / "net")
            moments = through_a_file(optimiser.state(), tmp_path)
            torch.manual_seed(5)
            net = network()
            optimiser = Optimiser(net.parameters(), recipe, zero_grad, rate_tensor)
            rate = optimiser.rate
            known = Objects({"net": net})
            known.restore(kept)
            optimiser.restore(moments)
            assert optimiser.rate is rate
            for group in optimiser.torch.param_groups:
                assert rate is None or group["lr"] is rate
        torch.manual_seed(7)
        train(net, optimiser, 3, seed=2)
        found.append([known.state(), optimiser.state()])
    assert same(*found)


@pytest.mark.parametrize(
    ("thing", "state"),
    [
        (torch.optim.SGD([torch.zeros(1)], lr=0.1), {"state": {}, "param_groups": []}),
        (torch.Generator(), torch.zeros(3, dtype=torch.uint8)),
    ],
)
def test_what_does_not_fit_is_said(thing: Any, state: Any) -> None:
    with pytest.raises(Unfit):
        restore(thing, state)


def test_global_generators_come_back(tmp_path: Path) -> None:
    def drawn() -> list[Any]:
        return [random.random(), np.random.rand(), torch.rand(2).tolist(), np.random.randn()]

    before = global_state()
    try:
        np.random.randn()  # leaves a second number for the next call
        kept = through_a_file(global_state(), tmp_path)
        expected = drawn()
        restore_globals(kept)
        assert drawn() == expected
    finally:
        restore_globals(before)
