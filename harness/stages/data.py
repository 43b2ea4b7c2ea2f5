"""Stage `data`: a dataset, decoded once to uint8 and split.

Leaves `train`, `pool`, `validation` and `test` as `.safetensors` with `images` (uint8 NHWC) and
`labels` (int64).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from harness.access.seeds import seed
from harness.components import Dataset, load_component
from harness.stages.artefacts import split_file
from harness.stages.job import Job
from harness.stages.payloads import DataPayload
from harness.stages.sampling import stratified

Pair = tuple[np.ndarray, np.ndarray]
"""Images and labels."""


def run(job: Job[DataPayload]) -> None:
    """Decode, check, split, save."""
    spec = job.payload.component
    dataset = load_component(spec)
    assert isinstance(dataset, Dataset)
    pictures = dataset.load()
    # After it: what changed while it was read is found, too.
    facts = dataset.facts()
    if facts.fingerprint != job.payload.fingerprint:
        raise ValueError(
            f"the content of dataset {spec.name!r} changed after it was planned with; run it again"
        )
    train = (pictures.train_images, pictures.train_labels)
    test = (pictures.test_images, pictures.test_labels)
    shape = (facts.height, facts.width, facts.channels)
    _check("train", train, shape, facts.classes, facts.train_count)
    _check("test", test, shape, facts.classes, facts.test_count)
    names = [str(name) for name in dataset.class_names()]
    if names:
        job.record["classes"] = names
    start = seed(None, spec.name, "data", "split", str(dataset.split_seed))
    generator = np.random.Generator(np.random.PCG64(start))
    for name, (images, labels) in _split(dataset, train, test, generator).items():
        arrays = {
            "images": np.ascontiguousarray(images),
            "labels": np.ascontiguousarray(labels.astype(np.int64)),
        }
        save_file(arrays, job.out / split_file(name))


def _split(
    dataset: Any, train: Pair, test: Pair, generator: np.random.Generator
) -> Mapping[str, Pair]:
    """Cut the original training and test images into the four splits."""
    train_order = stratified(train[1], generator)[: dataset.take]
    test_order = stratified(test[1], generator)[: dataset.take_test]
    validation = train_order[: dataset.validation]
    train_order = train_order[dataset.validation :]
    if dataset.pool_from == "train":
        pool = _chosen(train, train_order[: dataset.pool])
        if not dataset.pool_in_train:
            train_order = train_order[dataset.pool :]
    else:
        pool = _chosen(test, test_order[: dataset.pool])
        test_order = test_order[dataset.pool :]
    # Back to the data set's own order: "the first images" is a poisoning order of some papers.
    return {
        "train": _chosen(train, np.sort(train_order)),
        "pool": pool,
        "validation": _chosen(train, validation),
        "test": _chosen(test, np.sort(test_order)),
    }


def _chosen(pair: Pair, order: np.ndarray) -> Pair:
    images, labels = pair
    return images[order], labels[order]


def _check(name: str, pair: Pair, shape: tuple[int, ...], classes: int, count: int) -> None:
    """Make a dataset plugin that returns something else than its facts promise fail here, not in a
    victim.
    """
    images, labels = pair
    promised = (count, *shape)
    if str(images.dtype) != "uint8" or images.shape != promised:
        raise ValueError(
            f"{name} images are {images.dtype} {images.shape}; "
            f"the dataset's facts promise uint8 {promised}"
        )
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{name} labels are {labels.dtype} {labels.shape}; "
            f"whole numbers of shape {(count,)} are expected"
        )
    if count and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"{name} labels go from {labels.min()} to {labels.max()}; there are {classes} classes"
        )
