from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.components import Unit
from harness.learn.layers import Normalise, prunable_units


def test_normalise_is_per_channel_and_outside_the_state() -> None:
    images = torch.rand(2, 3, 4, 4)
    layer = Normalise((0.1, 0.2, 0.3), (0.5, 1.0, 2.0))
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 1.0), (0.3, 2.0)]):
        torch.testing.assert_close(layer(images)[:, channel], (images[:, channel] - mean) / std)
    torch.testing.assert_close(Normalise((0.5,), (0.5,))(images), images * 2 - 1)
    assert layer.state_dict() == {}


@pytest.mark.parametrize(
    ("mean", "std"), [((0.1, 0.2), (1.0,)), ((), (1.0,)), ((0.5,), (0.0,)), ((0.5,), (-1.0,))]
)
def test_normalise_refuses_nonsense(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"mean and std|above 0"):
        Normalise(mean, std)


def test_units_are_normalisation_layers_where_there_are_any() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5)),
        nn.Linear(5, 2),
    )
    assert list(prunable_units(net)) == [Unit("1", 8), Unit("2.1", 5)]


def test_units_are_layers_but_the_last_elsewhere() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Sequential(nn.Linear(8, 5), nn.GroupNorm(1, 5)),
        nn.Linear(5, 2),
    )
    assert list(prunable_units(net)) == [Unit("0", 8), Unit("2.0", 5)]
    assert list(prunable_units(nn.Sequential(nn.Linear(5, 2)))) == []
    assert list(prunable_units(nn.ReLU())) == []
