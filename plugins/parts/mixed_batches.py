"""Batches of which a share is triggered, for attackers who control training."""

from __future__ import annotations

from harness import Context


def triggers_none(poison_rate: float, batch: int, count: int) -> str | None:
    """Return the reason against a rate above 0 that rounds to no image in batches of `count`
    training images; None where it is not so.
    """
    batch = min(batch, count)
    if not poison_rate or int(batch * poison_rate) > 0:
        return None
    return f"poison_rate {poison_rate:g} of batches of {batch} triggers no image"


def planned_to_trigger_none(poison_rate: float, context: Context) -> str | None:
    """Return the same for the batches in which the victim of a cell would be trained."""
    if context.recipe is None:
        return None
    return triggers_none(poison_rate, context.recipe.batch, context.task.train_count)
