"""The rules of data poisoning: which images, which labels, when. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Quantise = Literal["truncate", "round", "none"]
"""The rounding of a stamped image to uint8; "none" keeps floats."""

When = Literal["dataset", "before-augment", "after-augment"]
"""The time of stamping: once before training, or in each batch before or after augmentation."""

LabelMapKind = Literal["all-to-one", "all-to-all", "source-specific"]
"""The label maps that have a name."""

ONE_TARGET = ("all-to-one", "source-specific")
"""The label maps that give one label to every attacked image."""

NOT_ATTACKED = -1
"""The entry of a label table for a class whose images the attack leaves alone."""


@dataclass(frozen=True)
class PoisonRule:
    """The rule by which an attack chooses the training images that it poisons, and their labels.

    `poison_rate` is a share of `rate_of`: the whole training set or its eligible images.
    `label_table` has, for each true label, the label that triggered images should get, or
    `NOT_ATTACKED`; with `clean_label` poisoned images keep their own labels, and `target` is the
    class that `eligible` speaks of.
    """

    poison_rate: float
    rate_of: Literal["train", "eligible"]
    eligible: Literal["all", "non-target", "target"]
    order: Literal["random", "first"]
    target: int
    label_table: tuple[int, ...]
    clean_label: bool = False


@dataclass(frozen=True)
class BatchStamping:
    """Stamping in the training loop instead of once before it; `quantise` as the attack says."""

    when: Literal["before-augment", "after-augment"]
    quantise: Quantise


def label_table(
    label_map: LabelMapKind | tuple[int, ...], target: int, sources: tuple[int, ...], classes: int
) -> list[int]:
    """Return for each class of a task with so many the label that a map gives its triggered images.

    The map is a name, which `target` and `sources` belong to, or the table itself. Raises
    ValueError where a label is no class of the task, or the table has not one for each.
    """
    listed: tuple[int, ...] = ()
    if isinstance(label_map, tuple):
        listed = label_map
        if len(listed) != classes:
            raise ValueError(
                f"label_map lists {len(listed)} labels for a task with {classes} classes: "
                "one for each is expected, -1 where the class is not attacked"
            )
    for label in (target, *sources, *listed):
        if label >= classes:
            raise ValueError(
                f"label {label} is no class of a task with {classes} classes (0 to {classes - 1})"
            )
    if listed:
        return list(listed)
    if label_map == "all-to-all":
        return [(label + 1) % classes for label in range(classes)]
    if label_map == "source-specific":
        return [target if label in sources else NOT_ATTACKED for label in range(classes)]
    return [target] * classes


def attacked_of(table: tuple[int, ...]) -> tuple[int, ...]:
    """Return the classes that a label table attacks; none if it attacks all of them."""
    if NOT_ATTACKED not in table:
        return ()
    return tuple(label for label, mapped in enumerate(table) if mapped != NOT_ATTACKED)
