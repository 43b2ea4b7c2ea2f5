"""Collapse of the features of each class to one point."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from harness import Incompatible, Metric, MetricAccess
from harness.learn import ImageSet, evaluating, together
from plugins.parts.watched import watched

BATCH = 500
"""Images that go through the network together at most."""
CHUNK = 5000
"""Images whose features are in double precision together."""


class NC1(Metric):
    """NC1: scatter of training features within classes over that between them; 0 is full collapse.

    tr(S_W S_B^+) / C of what the last linear layer takes, with S_W the covariance within classes,
    S_B that of the class means, and ^+ the pseudo-inverse. Every class counts alike, and images
    belong to the class that they were trained as. `training_error` is the share of them that the
    network gets wrong: collapse is said of networks where it is 0.
    """

    citation = (
        "Papyan, Han, Donoho: Prevalence of neural collapse during the terminal phase of "
        "training, PNAS 2020"
    )
    needs: ClassVar[AbstractSet[str]] = frozenset({"model", "training-set"})
    unit = ""

    images: Literal["all", "clean"] = "all"
    """`clean` leaves out those that the attack poisoned, which form a cluster of their own within
    the target class
    """

    def grants(self) -> AbstractSet[str]:
        """Ask which rows are poisoned only where they are left out."""
        if self.images == "clean":
            return self.needs | {"poisoned"}
        return self.needs

    def measure(self, access: MetricAccess) -> Mapping[str, float]:
        """Return the ratio, and the training error."""
        data = access.training_set()
        if self.images == "clean":
            poisoned = torch.from_numpy(access.poisoned())
            data = data.subset(~poisoned)
        assert data.labels is not None
        features, wrong = answers(access, access.model(), data)
        return {"": nc1(features, data.labels), "training_error": wrong / len(data)}


@torch.no_grad()
def answers(access: MetricAccess, model: nn.Module, data: ImageSet) -> tuple[Tensor, int]:
    """Return the head's inputs, float32 (n, d) on the CPU, and the number of images that are
    misclassified.
    """
    anatomy = access.anatomy(model)
    width = inputs_of(model.get_submodule(anatomy.head))
    features: list[Tensor] = []
    wrong = torch.zeros((), dtype=torch.int64, device=access.device)
    size = min(BATCH, together(data.images, access.device))
    with evaluating(model), watched(model, [anatomy.features]) as seen:
        for images, labels in data.to(access.device).batches(size):
            logits = model(images)
            assert labels is not None
            wrong += (logits.argmax(1) != labels).sum()
            output = seen[anatomy.features].float()
            features.append(flat(output, width))
            access.tick()
    return torch.cat(features).cpu(), int(wrong)


def inputs_of(head: nn.Module) -> int:
    """Return how many numbers an image the last layer takes. Raise Incompatible if it is not
    linear.
    """
    if not isinstance(head, nn.Linear):
        raise Incompatible(
            f"the network's last layer is a {type(head).__name__}; "
            "features are what a linear one takes"
        )
    return head.in_features


def flat(features: Tensor, width: int) -> Tensor:
    """Turn (n, ...) into (n, width): where the head works on every pixel of (n, width, h, w), by
    the mean over the pixels.
    """
    if features[0].numel() == width:
        return features.flatten(1)
    if features.ndim < 3 or features.shape[1] != width:
        raise Incompatible(
            f"the last layer takes {width} numbers an image, "
            f"but its features are {features.shape[1:]}"
        )
    return features.flatten(2).mean(2)


def nc1(features: Tensor, labels: Tensor) -> float:
    """Return tr(S_W S_B^+) / C of features (n, d), over the C classes that occur among the labels
    (n,).

    S_B has a rank below C, so its d x d entries are never needed: with the centred class means as
    columns of M = U diag(s) V', S_B is M M' / C, and the trace is C times the mean of |diag(1 / s)
    U' (h - mean of its class)|^2. Raise Incompatible where all class means are equal.
    """
    classes, places = torch.unique(labels, return_inverse=True)
    count = len(classes)
    counts = torch.bincount(places).double()
    feature_chunks = torch.split(features, CHUNK)
    place_chunks = torch.split(places, CHUNK)

    means = torch.zeros(count, features.shape[1], dtype=torch.float64)
    for chunk, classes_of_chunk in zip(feature_chunks, place_chunks, strict=True):
        means.index_add_(0, classes_of_chunk, chunk.double())
    means /= counts[:, None]

    centred = (means - means.mean(0)).T
    left, scale, _ = torch.linalg.svd(centred, full_matrices=False)
    largest = scale[0]
    # C centred means have at most C - 1 directions; a singular value below rounding is no direction
    rounding = max(means.shape) * torch.finfo(torch.float64).eps * largest
    kept = scale[: count - 1] > rounding
    rounding_of_features = torch.finfo(torch.float32).eps * features.abs().max()
    if not kept.any() or largest <= rounding_of_features:
        raise Incompatible(
            "the features of all classes have the same mean: there is no scatter between them"
        )
    whitening = (left[:, : count - 1] / scale[: count - 1])[:, kept]

    total = 0.0
    for chunk, classes_of_chunk in zip(feature_chunks, place_chunks, strict=True):
        spread = (chunk.double() - means[classes_of_chunk]) @ whitening
        squared = spread.square().sum(1)
        total += float((squared / counts[classes_of_chunk]).sum())
    return total / count
