"""The settings that every defense with a fine-tuning loop shares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from harness import (
    Access,
    Context,
    Defense,
    Fraction,
    Listed,
    Rates,
    Recipe,
    RecipeFields,
    Schedule,
    Task,
)
from plugins.parts.ranges import Count, CountOrZero, NotNegative, Positive

NAD_RATES = ((0.0, 0.1), (2.0, 0.01), (20.0, 1e-4))
"""Learning rate by epoch in NAD's released code."""
NAD_CUTOUT = 2
"""NAD's code names a length of 3, of which its half-open slice around the centre blanks 2 by 2
pixels.
"""

CROP = 8
"""An image has so many times the padding of the papers' crop: 4 pixels of 32."""
TYPICAL = Task("", classes=10, height=32, width=32, channels=3, train_count=50_000)
"""Stands for the task where only the settings are looked at."""


class Augmented(Defense):
    """A defense that trains on augmented images, whatever the victim's training did to them.

    Defaults are the crop and the flip of BCU, NAD, ANP and the toolboxes that compare defenses.
    """

    crop: CountOrZero | None = None
    """padding of the random crop in pixels; none: an eighth of the image, as the papers' 4 of 32"""
    crop_probability: Fraction = 1.0
    """that a batch is cropped"""
    flip: bool | None = None
    """mirror at random; none: as the papers do, all images but signs and digits"""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """largest angle in degrees, to either side"""
    rotation_probability: Fraction = 1.0
    """that a batch is rotated"""
    cutout: CountOrZero = 0
    """side of the square that is blanked, in pixels"""
    fill: Annotated[tuple[Fraction, ...], Listed] = (0.0,)
    """colour in [0,1] of uncovered pixels: one number, or one for each channel"""

    def unused(self) -> Mapping[str, str]:
        """Name what goes with a crop, a rotation or uncovered pixels where there are none."""
        unused = dict(super().unused())
        if self.crop == 0:
            unused["crop_probability"] = "crop = 0"
        if self.rotation == 0:
            unused["rotation_probability"] = "rotation = 0"
        if self.crop == 0 and self.rotation == 0 and self.cutout == 0:
            unused["fill"] = "no crop, rotation or cutout uncovers pixels"
        return unused

    def compatible(self, context: Context) -> str | None:
        """Refuse a colour of three channels for grey images."""
        channels = context.task.channels
        if len(self.fill) not in (1, channels):
            return f"fill has {len(self.fill)} numbers, images have {channels} channel: give it one"
        return None

    def augmentation(self, task: Task) -> RecipeFields:
        """Return the fields of a recipe that these settings are on images of the task."""
        crop = self.crop
        if crop is None:
            crop = min(task.height, task.width) // CROP
        flip = self.flip
        if flip is None:
            flip = task.mirrors
        return {
            "crop": crop,
            "crop_probability": self.crop_probability,
            "flip": flip,
            "rotation": self.rotation,
            "rotation_probability": self.rotation_probability,
            "cutout": self.cutout,
            "fill": self.fill,
        }


class FineTuning(Augmented):
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

    @model_validator(mode="after")
    def _makes_a_recipe(self) -> Self:
        """Refuse settings that no recipe can have.

        They are an error of the grid, not of a stage that has waited for its victim.
        """
        try:
            self._recipe(Recipe(), self.augmentation(TYPICAL))
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise ValueError(message.removeprefix("Value error, ")) from None
        return self

    def unused(self) -> Mapping[str, str]:
        """Name the settings that do nothing in the recipe that they make."""
        recipe = self._recipe(Recipe(), self.augmentation(TYPICAL))
        unused = dict(super().unused())
        for name, reason in recipe.unused().items():
            # A subclass may have a field of that name for something else, as NAD has `betas`.
            if name in FineTuning.model_fields:
                unused[name] = reason
        return unused

    def tuning(self, access: Access) -> Recipe:
        """Return the recipe these fields describe; precision and determinism are the grid's."""
        return self._recipe(access.recipe, self.augmentation(access.task))

    def _recipe(self, grid: Recipe, augmentation: RecipeFields) -> Recipe:
        fields: dict[str, Any] = {
            "precision": grid.precision,
            "deterministic": grid.deterministic,
        }
        for name in FineTuning.model_fields:
            own = getattr(self, name)
            if own is not None:
                fields[name] = own
        fields.update(augmentation)
        return Recipe(**fields)
