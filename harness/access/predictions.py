"""A model's answers over the test set, as metrics on predictions read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Predictions:
    """A model's answers over the n images of the test set, as numpy arrays.

    `labels`: true labels; `clean`: predicted labels; `mapped`: the labels that triggered images
    should get (-1: not attacked); `triggered`: predicted labels of triggered images, None without a
    trigger; `variants`: the same for other named triggers; `logits`: of the clean images
    (n, classes) in half precision; `record`: numbers of the defense stage, with the `seconds` it
    took and the `images` it processed.
    """

    labels: np.ndarray
    clean: np.ndarray
    mapped: np.ndarray
    triggered: np.ndarray | None
    variants: Mapping[str, np.ndarray]
    logits: np.ndarray
    record: Mapping[str, float]

    @property
    def attacked(self) -> np.ndarray:
        """Boolean mask of the images that ASR and RA count: attacked, and of another label than the
        mapped one.
        """
        mask: np.ndarray = (self.mapped >= 0) & (self.mapped != self.labels)
        return mask
