"""Recorded outputs of official code, where `$BENCH_ORACLES` points to them."""

from __future__ import annotations

import numpy as np

from tests.kit.outside import outside


def oracle(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of `$BENCH_ORACLES/<name>.npz`; skip the test where there are none."""
    with np.load(outside("BENCH_ORACLES", f"{name}.npz"), allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays}
