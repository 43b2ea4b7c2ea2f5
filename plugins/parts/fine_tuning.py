"""The settings that every defense with a fine-tuning loop shares."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from harness import Access, Defense, Rates, Recipe, Schedule

NAD_RATES = ((0.0, 0.1), (2.0, 0.01), (20.0, 1e-4))
"""Learning rate by epoch in NAD's released code."""
NAD_CUTOUT = 2
"""NAD's code names a length of 3, of which its half-open slice around the centre blanks 2 by 2
pixels.
"""

AUGMENTATION = ("crop", "flip", "crop_probability", "rotation", "rotation_probability", "fill")
"""What fine-tuning takes from the way the victim was trained: mirroring suits photographs and not
traffic signs.
"""


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
    """look ahead, of SGD"""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """on all parameters, biases and normalisation included"""
    schedule: Schedule = "cosine"
    """of the learning rate; table: the last rate of `rates` begun; piecewise: straight lines
    between them
    """
    rates: Rates = ()
    """of table and piecewise: (epoch, learning rate), ascending; `lr` is not used then"""
    horizon: Annotated[float, Field(gt=0)] | None = None
    """epochs that the schedule spans; none: `epochs`"""
    crop: Annotated[int, Field(ge=0)] | None = None
    """padding of the random crop in pixels; none: as the victim was trained"""
    flip: bool | None = None
    """mirror at random; none: as the victim was trained"""
    cutout: Annotated[int, Field(ge=0)] = 0
    """side of the square that is blanked, in pixels"""

    @model_validator(mode="after")
    def _makes_a_recipe(self) -> Self:
        """What no recipe can be is an error of the grid, not of a stage that has waited for its
        victim.
        """
        try:
            self._recipe(Recipe())
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self

    def tuning(self, access: Access) -> Recipe:
        """The recipe these fields describe; precision and determinism are the grid's."""
        return self._recipe(access.recipe)

    def _recipe(self, grid: Recipe) -> Recipe:
        kept = (*AUGMENTATION, "precision", "deterministic")
        fields: dict[str, Any] = {name: getattr(grid, name) for name in kept}
        own = {name: getattr(self, name) for name in FineTuning.model_fields}
        fields.update({name: value for name, value in own.items() if value is not None})
        return Recipe(**fields)
