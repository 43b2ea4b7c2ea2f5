"""A training of another length by the same schedule."""

from __future__ import annotations

from harness import Recipe


def stretched(recipe: Recipe, epochs: int, count: int) -> Recipe:
    """Stretch the recipe to `epochs` passes of `count` images.

    All that happens at a given epoch moves in proportion: milestones are shares of the training and
    move by themselves; a horizon and the epochs of `rates` are multiplied.
    """
    length: float = recipe.epochs
    if recipe.steps is not None:
        length = recipe.steps / recipe.steps_per_epoch(count)
    factor = 1.0
    if length:
        factor = epochs / length
    horizon = recipe.horizon
    if horizon is not None:
        horizon = horizon * factor
    rates = tuple((epoch * factor, rate) for epoch, rate in recipe.rates)
    return recipe.replace(epochs=epochs, steps=None, horizon=horizon, rates=rates)
