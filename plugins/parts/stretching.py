"""A training of another length by the same schedule."""

from __future__ import annotations

from harness import Recipe


def stretched(recipe: Recipe, epochs: int, count: int) -> Recipe:
    """The recipe over `epochs` passes of `count` images, with all that happens at a given epoch
    moved in proportion.

    Milestones are shares of the training and move by themselves; a horizon and the epochs of
    `rates` are multiplied.
    """
    length = recipe.epochs if recipe.steps is None else recipe.steps / recipe.steps_per_epoch(count)
    factor = epochs / length if length else 1.0
    return recipe.replace(
        epochs=epochs,
        steps=None,
        horizon=None if recipe.horizon is None else recipe.horizon * factor,
        rates=tuple((epoch * factor, rate) for epoch, rate in recipe.rates),
    )
