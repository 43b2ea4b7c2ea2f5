"""The settings that every defense with a fine-tuning loop shares."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from harness import Access, Defense, Rates, Recipe, Schedule
from plugins.parts.ranges import Count, CountOrZero, NotNegative, Positive

NAD_RATES = ((0.0, 0.1), (2.0, 0.01), (20.0, 1e-4))
"""Learning rate by epoch in NAD's released code."""
NAD_CUTOUT = 2
"""NAD's code names a length of 3, of which its half-open slice around the centre blanks 2 by 2
pixels.
"""

AUGMENTATION = ("crop", "flip", "crop_probability", "rotation", "rotation_probability", "fill")
"""Fields that fine-tuning takes from the victim's training: mirroring suits photographs and not
traffic signs.
"""


class FineTuning(Defense):
    """A defense that trains on clean images; defaults are those of BCU's baselines."""

    epochs: CountOrZero = 100
    """passes over the clean images"""
    lr: Positive = 0.01
    """learning rate"""
    batch: Count = 256
    """images a step"""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """of SGD"""
    nesterov: bool = False
    """look ahead, of SGD"""
    weight_decay: NotNegative = 5e-4
    """on all parameters, biases and normalisation included"""
    schedule: Schedule = "cosine"
    """of the learning rate; table: the last rate of `rates` begun; piecewise: straight lines
    between them
    """
    rates: Rates = ()
    """of table and piecewise: (epoch, learning rate), ascending; `lr` is not used then"""
    horizon: Positive | None = None
    """epochs that the schedule spans; none: `epochs`"""
    crop: CountOrZero | None = None
    """padding of the random crop in pixels; none: as the victim was trained"""
    flip: bool | None = None
    """mirror at random; none: as the victim was trained"""
    cutout: CountOrZero = 0
    """side of the square that is blanked, in pixels"""

    @model_validator(mode="after")
    def _makes_a_recipe(self) -> Self:
        """Refuse settings that no recipe can have.

        They are an error of the grid, not of a stage that has waited for its victim.
        """
        try:
            self._recipe(Recipe())
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise ValueError(message.removeprefix("Value error, ")) from None
        return self

    def tuning(self, access: Access) -> Recipe:
        """Return the recipe these fields describe; precision and determinism are the grid's."""
        return self._recipe(access.recipe)

    def _recipe(self, grid: Recipe) -> Recipe:
        fields: dict[str, Any] = {}
        for name in (*AUGMENTATION, "precision", "deterministic"):
            fields[name] = getattr(grid, name)
        for name in FineTuning.model_fields:
            own = getattr(self, name)
            if own is not None:
                fields[name] = own
        return Recipe(**fields)
