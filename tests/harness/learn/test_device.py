from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.components import Model, Task
from harness.learn.device import (
    device_of,
    evaluating,
    global_random,
    kernels,
    probe_precision,
    seeded_build,
)

TASK = Task("noise", 4, 5, 5, 3, 0)


class Dense(Model):
    def build(self, task: Task) -> nn.Module:
        return nn.Linear(task.height * task.width * task.channels, task.classes)


def test_precision_is_what_was_asked_or_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe_precision("fp32", "cpu") == "fp32"
    assert probe_precision("bf16", "cpu") == "bf16"
    for first, second, found in (
        (False, False, "fp32"),
        (True, False, "bf16"),
        (False, True, "bf16"),
    ):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda answer=first: answer)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda answer=second: answer)
        assert probe_precision("auto", "cpu") == found
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert probe_precision("auto", "cpu") == "fp32"
    assert probe_precision("auto", "meta") == "fp32"
    with pytest.raises(ValueError, match="fp16"):
        probe_precision("fp16", "cpu")


def test_a_seed_makes_a_network_and_nothing_else() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = seeded_build(Dense(), TASK, 2**63 - 1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    again, other = seeded_build(Dense(), TASK, 2**63 - 1), seeded_build(Dense(), TASK, 1)
    assert isinstance(first, nn.Linear)
    assert isinstance(again, nn.Linear)
    assert isinstance(other, nn.Linear)
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


def test_global_state_comes_back_after_an_error() -> None:
    state = torch.get_rng_state()

    def fail() -> None:
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        torch.rand(3)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), global_random(3), kernels("warn"):
        fail()
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


def test_each_part_returns_to_its_mode() -> None:
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()))
    net.train()
    net[1][0].eval()  # type: ignore[index]
    with evaluating(net):
        assert not any(part.training for part in net.modules())
    assert [part.training for part in net.modules()] == [True, True, True, False, True]


def test_where_a_module_is() -> None:
    assert device_of(nn.Linear(2, 2, device="meta")).type == "meta"
    assert device_of(nn.BatchNorm1d(2, affine=False, device="meta")).type == "meta"
    assert device_of(nn.ReLU()).type == "cpu"
