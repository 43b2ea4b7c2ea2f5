from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.components import Task
from harness.learn.weights import load_state, same_logits, save_state

TASK = Task("noise", 4, 5, 5, 3, 0)


class Tied(nn.Module):
    """Two names for one weight, a view as a buffer, an integer scalar, a transposed parameter."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Linear(75, 75, bias=False)
        self.second = nn.Linear(75, 75, bias=False)
        self.first.weight = nn.Parameter(torch.randn(75, 75, generator=generator) / 9)
        self.second.weight = self.first.weight
        self.register_buffer("view", torch.randn(9, generator=generator)[2:5])
        self.register_buffer("count", torch.tensor(seed))
        self.slanted = nn.Parameter(torch.randn(4, 75, generator=generator).t())

    def forward(self, images: Tensor) -> Tensor:
        hidden: Tensor = self.second(self.first(images.flatten(1)).relu())
        return hidden @ self.slanted


def network(seed: int, width: int = 8) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(9 * width, 4)
        )


@pytest.mark.parametrize("kind", ["plain", "channels-last", "tied", "half"])
def test_a_state_comes_back_bit_by_bit(tmp_path: Path, kind: str) -> None:
    make = {"tied": Tied, "half": lambda seed: network(seed).bfloat16()}.get(kind, network)
    model, other = make(1), make(2)
    if kind == "channels-last":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_state(model, tmp_path / "model.safetensors")
    load_state(other, tmp_path / "model.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
        assert value.dtype == other.state_dict()[name].dtype
    if kind == "tied":
        assert isinstance(other, Tied)
        assert other.first.weight is other.second.weight
    if kind != "half":
        assert same_logits(model, other, TASK)


def test_another_structure_is_told_by_name(tmp_path: Path) -> None:
    save_state(network(1), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"shape: .*0\.weight \(8, 3, 3, 3\) for \(6, 3, 3, 3\)"):
        load_state(network(1, width=6), tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError,
        match=r"missing: weight; unexpected: 0\.bias, 0\.weight, 1\.bias, 1\.num_batches",
    ):
        load_state(nn.Linear(2, 2, bias=False), tmp_path / "model.safetensors")


def test_a_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> str:
            return "a secret"

    with pytest.raises(ValueError, match="'_extra_state' of Odd is a str"):
        save_state(Odd(2, 2), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="with a size"):
        save_state(nn.LazyLinear(3), tmp_path / "model.safetensors")


def test_logits_tell_networks_apart() -> None:
    model = network(1).train()
    twin = network(1)
    assert same_logits(model, twin, TASK)
    assert same_logits(model, twin.to(memory_format=torch.channels_last), TASK)  # type: ignore[call-overload]
    assert model.training
    assert not same_logits(model, network(2), TASK)
    with torch.no_grad():
        twin[3].weight[0, 0] += 0.01  # type: ignore[index, union-attr]
    assert not same_logits(model, twin, TASK)
    assert not same_logits(model, nn.Sequential(network(1), nn.Linear(4, 3)), TASK)
    with torch.no_grad():
        model[3].bias.fill_(float("nan"))  # type: ignore[index, union-attr]
    assert not same_logits(model, model, TASK)
