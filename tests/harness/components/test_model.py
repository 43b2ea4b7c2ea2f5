from __future__ import annotations

from typing import Any

import pytest

from harness.components import Context, Model, Task
from harness.errors import Incompatible

CONTEXT = Context(Task("pictures", 10, 16, 12, 3, 100))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Model(mean=(0.5,) * 3), "mean and std go together"),
        (Model(std=(0.5,) * 3), "mean and std go together"),
        (Model(mean=(0.5,), std=(0.5,)), "mean has 1 values, but images of pictures have 3"),
        (Model(mean=(0.5,) * 3, std=(0.5, 0.0, 0.5)), "std must be positive in every channel"),
    ],
)
def test_a_normalisation_that_cannot_work_is_said(model: Model, reason: str) -> None:
    assert reason in str(model.compatible(CONTEXT))


@pytest.mark.parametrize("model", [Model(), Model(mean=(0.5,) * 3, std=(0.5,) * 3)])
def test_a_normalisation_that_can_work_has_no_reason(model: Model) -> None:
    assert model.compatible(CONTEXT) is None


def test_a_model_without_anatomy_says_so() -> None:
    with pytest.raises(Incompatible, match="model Model names no anatomy"):
        Model().anatomy(Any)  # type: ignore[arg-type]
