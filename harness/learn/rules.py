"""The rules of data poisoning: which images, which labels, when. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Quantise = Literal["truncate", "round", "none"]
"""The rounding of a stamped image to uint8; "none" keeps floats."""

When = Literal["dataset", "before-augment", "after-augment"]
"""The time of stamping: once before training, or in each batch before or after augmentation."""

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
