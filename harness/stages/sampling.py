"""The order in which images of a data set are taken."""

from __future__ import annotations

import numpy as np


def stratified(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a random order of which every prefix holds the classes in their proportions (to within
    one image for each class).
    """
    shuffled = generator.permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        place[members] = (np.arange(len(members)) + generator.random()) / len(members)
    return np.argsort(place, kind="stable")
