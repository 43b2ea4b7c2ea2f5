from __future__ import annotations

import numpy as np

from harness.access.predictions import Predictions


def test_images_count_as_attacked_unless_left_alone_or_of_that_label_already() -> None:
    labels, mapped = np.array([0, 1, 2, 3]), np.array([0, 0, -1, 0])
    found = Predictions(labels, labels, mapped, None, {}, np.zeros((4, 4), np.float16), {})
    assert found.attacked.tolist() == [False, True, False, True]
