"""Datasets: pictures with labels, and how they are split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from harness.components.base import Component
from harness.components.facts import DatasetFacts

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Pictures:
    """A data set in memory: uint8 NHWC images, int64 labels; the test pair is empty for some
    auxiliary data.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


Facts = DatasetFacts
"""`DatasetFacts`, by the name that plugin authors use."""


class Dataset(Component):
    """Real or procedural pictures and how they are split; the splits are the same for every grant
    and replicate.
    """

    seeded: ClassVar[bool] = False
    known_classes: ClassVar[tuple[str, ...]] = ()
    """what the labels stand for, in their order, where that is the same whatever the parameters"""

    mirrors: ClassVar[bool] = True
    """a mirrored picture is one of the same class; false of signs and digits, which no recipe and
    no defense mirrors unless asked
    """

    pool: Annotated[int, Field(ge=0)] = 0
    """images held back from every victim for the defender; grants are prefixes of it"""
    pool_from: Literal["train", "test"] = "train"
    """which original split the pool is taken from"""
    pool_in_train: bool = False
    """whether the pool stays in the training set (some published settings)"""
    validation: Annotated[int, Field(ge=0)] = 0
    """images held back from the original training set for selection and class distances"""
    take: Annotated[int, Field(ge=1)] | None = None
    """keep only this many of the original training images, a stratified sample; none: all"""
    take_test: Annotated[int, Field(ge=1)] | None = None
    """keep only this many of the original test images, a stratified sample; none: all"""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """moves the split, independently of replicates"""

    def facts(self) -> Facts:
        """Read as little as possible: header, index or parameters. Raises ValueError with the
        command that fixes it.
        """
        raise NotImplementedError

    def load(self) -> Pictures:
        """Decode everything, before any split."""
        raise NotImplementedError

    def class_names(self) -> Sequence[str]:
        """Return what the labels stand for, in their order; empty where nobody says.

        The manifest of the data lists them.
        """
        return self.known_classes
