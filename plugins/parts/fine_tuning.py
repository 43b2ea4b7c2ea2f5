"""The settings that every defense with a fine-tuning loop shares."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from harness import Defense
from harness.access import Access
from harness.learn.recipes import Recipe


class FineTuning(Defense):
    """A defense that trains on clean images; defaults are those of BCU's baselines."""

    epochs: Annotated[int, Field(ge=0)] = 100
    """passes over the clean images"""
    lr: Annotated[float, Field(gt=0)] = 0.01
    """learning rate"""
    batch: Annotated[int, Field(ge=1)] = 256
    """images a step"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """of SGD"""
    nesterov: bool = False
    """of SGD"""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """L2"""
    schedule: Literal["constant", "step", "cosine", "one-cycle", "linear", "table"] = "cosine"
    """of the learning rate; table: the last rate of `rates` begun"""
    rates: Annotated[tuple[Annotated[tuple[float, float], Field(strict=False)], ...], Field(strict=False)] = ()
    """of table: (epoch, learning rate), ascending"""
    horizon: Annotated[float, Field(gt=0)] | None = None
    """epochs that the schedule spans; none: `epochs`"""
    crop: Annotated[int, Field(ge=0)] | None = None
    """padding of the random crop in pixels; none: as the victim was trained"""
    flip: bool | None = None
    """mirror at random; none: as the victim was trained"""
    cutout: Annotated[int, Field(ge=0)] = 0
    """side of the square that is blanked, in pixels"""

    def tuning(self, access: Access) -> Recipe:
        """The recipe these fields describe; precision and determinism are the grid's."""
        grid = access.recipe
        fields: dict[str, Any] = {name: getattr(self, name) for name in FineTuning.model_fields}
        fields["crop"] = grid.crop if self.crop is None else self.crop
        fields["flip"] = grid.flip if self.flip is None else self.flip
        return Recipe(**fields, precision=grid.precision, deterministic=grid.deterministic)
