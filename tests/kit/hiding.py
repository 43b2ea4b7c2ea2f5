"""A steganographic pair for small images, trained once for all tests."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.access.granted import PartAccess
from harness.learn.images import ImageSet
from plugins.parts.steganography import Steganography
from plugins.parts.stegastamp import Pair
from tests.kit.learned import pictures, stage_context

SMALL: Mapping[str, Any] = {
    "bits": 2,
    "resolution": 16,
    "secrets": "fresh",
    "lr": 1e-3,
    "batch": 16,
    "epochs": 12,
    "secret_epochs": 6,
}


def access_to(data: ImageSet) -> PartAccess:
    """Grant what a part that needs `train` gets."""
    around = replace(stage_context(stage="part"), model=None, recipe=None)
    return PartAccess(around, frozenset({"train"}), {"train": lambda: data})


@functools.cache
def hiding_pair() -> Pair:
    """Return an encoder and a decoder of two bits."""
    found = Steganography(**SMALL).make(access_to(pictures(100)))
    assert isinstance(found, Pair)
    return found
