"""The number of images in each split of a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Images in each split; `training`: of the training set, held back for the pool or not."""

    train: int
    pool: int
    validation: int
    test: int
    training: int


def sizes(params: Mapping[str, Any], train: int, test: int) -> Sizes:
    """Work out the split sizes that a dataset's parameters ask of its original `train` and `test`
    images.

    Without any training images, which a victim made elsewhere does not need, there is only what the
    test images give. Raises ValueError where there are too few, with what would be right.
    """
    take = params["take"]
    take_test = params["take_test"]
    if take is not None and take > train:
        raise ValueError(f"take = {take}, but there are {train} training images")
    if take_test is not None and take_test > test:
        raise ValueError(f"take_test = {take_test}, but there are {test} test images")
    train = take or train
    test = take_test or test
    pool = params["pool"]
    validation = params["validation"]
    if params["pool_from"] == "test":
        pool_from_train = 0
        pool_from_test = pool
    else:
        pool_from_train = pool
        pool_from_test = 0
    held = validation + pool_from_train
    if held and not train:
        raise ValueError(
            'there are no training images to hold back from: pool_from = "test", validation = 0'
        )
    if train and held >= train:
        raise ValueError(
            f"pool and validation hold back {held} of {train} training images: "
            "none is left to train on"
        )
    if pool_from_test and pool_from_test >= test:
        raise ValueError(
            f"the pool holds back {pool} of {test} test images: none is left to test on"
        )
    training = train - validation
    kept = training
    if not params["pool_in_train"]:
        kept -= pool_from_train
    return Sizes(kept, pool, validation, test - pool_from_test, training)
