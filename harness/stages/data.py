"""Stage `data`: a dataset, decoded once to uint8 and split.

Leaves `train`, `pool`, `validation` and `test` as `.safetensors` with `images` (uint8 NHWC) and
`labels` (int64).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.access.seeds import seed
from harness.stages import Job

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Sizes:
    """How many images each split holds; `training`: those of the training set, held back for the
    pool or not.
    """

    train: int
    pool: int
    validation: int
    test: int
    training: int


def sizes(params: Mapping[str, Any], train: int, test: int) -> Sizes:
    """The split sizes that a dataset's parameters ask of its original `train` and `test` images.

    Without any training images, which a victim made elsewhere does not want, there is only what the
    test images give. Raises ValueError where there are too few, with what would be right.
    """
    if (params["take"] or 0) > train:
        raise ValueError(f"take = {params['take']}, but there are {train} training images")
    if (params["take_test"] or 0) > test:
        raise ValueError(f"take_test = {params['take_test']}, but there are {test} test images")
    train, test = params["take"] or train, params["take_test"] or test
    pool, validation = params["pool"], params["validation"]
    from_test = params["pool_from"] == "test"
    held = validation + (0 if from_test else pool)
    if held and not train:
        raise ValueError(
            'there are no training images to hold back from: pool_from = "test", validation = 0'
        )
    if train and held >= train:
        raise ValueError(
            f"pool and validation hold back {held} of {train} training images: none is left to train on"
        )
    if from_test and pool >= test:
        raise ValueError(
            f"the pool holds back {pool} of {test} test images: none is left to test on"
        )
    kept = train - validation - (0 if from_test or params["pool_in_train"] else pool)
    return Sizes(kept, pool, validation, test - (pool if from_test else 0), train - validation)


def stratified(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random order of which every prefix holds the classes in their proportions (to within one
    image a class).
    """
    import numpy as np

    shuffled = generator.permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        place[members] = (np.arange(len(members)) + generator.random()) / len(members)
    return np.argsort(place, kind="stable")


def run(job: Job) -> None:
    """Decode, check, split, save."""
    import numpy as np
    from safetensors.numpy import save_file

    from harness.components import Dataset, load_component

    spec = job.payload["component"]
    dataset = load_component(spec)
    assert isinstance(dataset, Dataset)
    facts, pictures = dataset.facts(), dataset.load()
    pairs = {
        "train": (pictures.train_images, pictures.train_labels),
        "test": (pictures.test_images, pictures.test_labels),
    }
    shape = (facts.height, facts.width, facts.channels)
    for name, (images, labels) in pairs.items():
        _check(
            name,
            images,
            labels,
            shape,
            facts.classes,
            {"train": facts.train_count, "test": facts.test_count}[name],
        )
    generator = np.random.Generator(
        np.random.PCG64(seed(None, spec["name"], "data", "split", str(dataset.split_seed)))
    )
    for name, (images, labels) in _split(dataset, pairs, generator).items():
        arrays = {
            "images": np.ascontiguousarray(images),
            "labels": np.ascontiguousarray(labels.astype(np.int64)),
        }
        save_file(arrays, job.out / f"{name}.safetensors")


def _split(
    dataset: Any, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], generator: np.random.Generator
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    import numpy as np

    (train_images, train_labels), (test_images, test_labels) = pairs["train"], pairs["test"]
    train = stratified(train_labels, generator)[: dataset.take]
    test = stratified(test_labels, generator)[: dataset.take_test]
    validation, train = train[: dataset.validation], train[dataset.validation :]
    if dataset.pool_from == "train":
        pool, rest = train[: dataset.pool], train[dataset.pool :]
        held = (train_images[pool], train_labels[pool])
        train = train if dataset.pool_in_train else rest
    else:
        pool, test = test[: dataset.pool], test[dataset.pool :]
        held = (test_images[pool], test_labels[pool])
    # Back to the data set's own order: "the first images" is a poisoning order of some papers.
    train, test = np.sort(train), np.sort(test)
    return {
        "train": (train_images[train], train_labels[train]),
        "pool": held,
        "validation": (train_images[validation], train_labels[validation]),
        "test": (test_images[test], test_labels[test]),
    }


def _check(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    shape: tuple[int, ...],
    classes: int,
    count: int,
) -> None:
    """A dataset plugin that returns something else than its facts promise fails here, not in a
    victim.
    """
    if str(images.dtype) != "uint8" or images.shape != (count, *shape):
        raise ValueError(
            f"{name} images are {images.dtype} {images.shape}; the dataset's facts promise uint8 {(count, *shape)}"
        )
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name} labels are {labels.dtype} {labels.shape}; whole numbers of shape {(count,)} are wanted"
        )
    if count and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"{name} labels go from {labels.min()} to {labels.max()}; there are {classes} classes"
        )
