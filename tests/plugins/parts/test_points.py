from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from harness import Anatomy, Incompatible, Task
from plugins.models.wrn16_1 import WRN16
from plugins.parts.points import Point, locate
from plugins.parts.watched import watched

ANATOMY = Anatomy(
    "stem", ("stage1", "stage2"), "pool", "head", ("stage1.0", "stage1.1", "stage2.0")
)


@pytest.mark.parametrize(
    ("point", "name"),
    [
        ("stem", "stem"),
        ("features", "pool"),
        ("stages[0]", "stage1"),
        ("stages[-1]", "stage2"),
        ("blocks[2]", "stage2.0"),
        ("blocks[-3]", "stage1.0"),
    ],
)
def test_a_point_is_a_word_of_the_anatomy(point: str, name: str) -> None:
    assert TypeAdapter(Point).validate_python(point) == point
    assert locate(ANATOMY, point) == name


@pytest.mark.parametrize("point", ["stages[2]", "stages[-3]", "blocks[3]"])
def test_a_network_without_that_part_is_incompatible(point: str) -> None:
    with pytest.raises(Incompatible, match=r"has [23] (stages|blocks)"):
        locate(ANATOMY, point)


@pytest.mark.parametrize(
    "point", ["", "head", "stage1", "stages", "stages[a]", "stem[0]", "features ", "blocks[1][0]"]
)
def test_other_words_are_refused(point: str) -> None:
    with pytest.raises(ValidationError, match="pattern"):
        TypeAdapter(Point).validate_python(point)


def test_the_points_of_trap_and_replace_on_its_network() -> None:
    """Sizes of what layers 10, 12 and 14 of WRN-16-1 receive, counted by its authors without
    shortcuts.
    """
    task = Task("any", 10, 32, 32, 3, 1)
    model = WRN16()
    net = model.build(task)
    names = [locate(model.anatomy(net), point) for point in ("stages[1]", "blocks[4]", "features")]
    with watched(net, names) as seen:
        net(torch.rand(2, 3, 32, 32))
    assert [tuple(seen[name].flatten(2).shape) for name in names] == [
        (2, 32, 256),
        (2, 64, 64),
        (2, 64, 1),
    ]


def test_watching_ends_with_its_context() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    with watched(model, ["0"]) as seen:
        model(torch.ones(4, 2))
    assert seen["0"].shape == (4, 3)
    seen.clear()
    model(torch.ones(4, 2))
    assert not seen
