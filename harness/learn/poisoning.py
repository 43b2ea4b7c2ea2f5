"""Which images are poisoned, how they are stamped, and how a poisoned set goes into a training set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.components import Attack, PoisoningAttack
from harness.errors import Incompatible
from harness.learn.device import device_of, evaluating
from harness.learn.evaluation import stamped
from harness.learn.images import ImageSet, Quantise, check_images, to_float, to_uint8
from harness.learn.training import Batch

if TYPE_CHECKING:
    from harness.access.granted import AttackAccess

SHORTFALL = 0.9
"""Share of the asked number that must be eligible: a rate of exactly one class may miss by the
spread of class sizes and is then the whole class, more is a mistake in the grid.
"""
TENSORS = ("images", "labels", "indices", "cover")
"""What a poisoned set keeps on disk, by name."""


@dataclass(frozen=True, eq=False)
class PoisonedSet:
    """What an attack does to a training set: the k images that it changed or added.

    `images`: uint8 (k, height, width, channels) as stamped; `labels`: int64 (k,) as the victim sees
    them; `indices`: int64 (k,), which training images they come from; `add`: whether the originals
    stay; `cover`: bool (k,), which of them are cover, touched but with their true labels, so that
    they count as clean (none: no image is). All on the CPU. Raises ValueError where they are
    anything else, or an image is named twice without `add`.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    add: bool = False
    cover: Tensor | None = None

    def __post_init__(self) -> None:
        check_images(self.images)
        for name, dtype in (
            ("labels", torch.int64),
            ("indices", torch.int64),
            ("cover", torch.bool),
        ):
            value: Tensor | None = getattr(self, name)
            if value is not None and (value.dtype != dtype or value.shape != self.images.shape[:1]):
                wanted, seen = (
                    str(dtype).removeprefix("torch."),
                    f"{value.dtype} {tuple(value.shape)}",
                )
                raise ValueError(
                    f"{name} must be {wanted} ({len(self.images)},), one a stamped image, not {seen}"
                )
        if not self.add and len(set(self.indices.tolist())) != len(self.indices):
            raise ValueError("indices name a training image twice; only added images may repeat")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def poisoned(self) -> Tensor:
        """Boolean (k,): which of the images are poisoned, hence no cover."""
        return torch.ones(len(self), dtype=torch.bool) if self.cover is None else ~self.cover

    def rate(self, count: int) -> float:
        """Poisoned images as a share of a training set of `count` originals, which is what a poison
        rate means.
        """
        return int(self.poisoned.sum()) / count

    def merge(self, train: ImageSet, stamp: bool = True) -> ImageSet:
        """The training set with stamped images in their originals' places, or behind all if they
        are added.

        With `stamp=False` their labels change but their pixels do not: for triggers stamped in each
        batch.
        """
        self._fits(train)
        assert train.labels is not None
        images = self.images if stamp else train.images[self.indices]
        if self.add:
            return train.join(ImageSet(images, self.labels))
        return ImageSet(
            train.images.index_copy(0, self.indices, images),
            train.labels.index_copy(0, self.indices, self.labels),
        )

    def mask(self, count: int) -> Tensor:
        """Boolean over the merged set: which of its images are poisoned. `count` is the number of
        originals.
        """
        originals = torch.zeros(count, dtype=torch.bool)
        if self.add:
            return torch.cat([originals, self.poisoned])
        return originals.index_copy(0, self.indices, self.poisoned)

    def _fits(self, train: ImageSet) -> None:
        if train.labels is None:
            raise ValueError("a poisoned set can only be merged into a labelled training set")
        if self.images.shape[1:] != train.images.shape[1:]:
            shapes = (
                f"{tuple(self.images.shape[1:])}, training images {tuple(train.images.shape[1:])}"
            )
            raise ValueError(f"poisoned images are {shapes}")
        if len(self) and not 0 <= int(self.indices.min()) <= int(self.indices.max()) < len(train):
            raise ValueError(f"indices must lie within the {len(train)} training images")

    def save(self, path: Path) -> None:
        """Write a safetensors file with images, labels, indices and, where there is any, cover."""
        tensors = {name: getattr(self, name) for name in TENSORS}
        made_plain = {
            name: tensor.cpu().contiguous()
            for name, tensor in tensors.items()
            if tensor is not None
        }
        save_file(made_plain, path, metadata={"add": str(self.add)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in TENSORS if name in file.keys()}  # noqa: SIM118
            return cls(**tensors, add=file.metadata()["add"] == "True")


def mapped_labels(attack: PoisoningAttack, labels: Tensor, classes: int | None = None) -> Tensor:
    """What triggered images of these labels should get: int64, -1 where the class is not attacked.

    Without `classes`, the labels that occur are taken for all there are.
    """
    if classes is None:
        classes = max(int(labels.max()) if len(labels) else 0, attack.target, *attack.sources) + 1
    return torch.tensor(attack.label_table(classes), device=labels.device)[labels]


def choose(
    attack: PoisoningAttack, labels: Tensor, generator: torch.Generator, classes: int | None = None
) -> Tensor:
    """Indices (int64) of the training images that the attack poisons, given their labels (int64,
    (n,)).

    One permutation of the whole set, filtered by eligibility, cut to length: a smaller rate gives a
    subset of a larger one, and attacks that share the generator's start poison the same images as
    far as their rules agree. Raises Incompatible where the rate asks for clearly more images than
    are eligible, or is above 0 and selects none.
    """
    order = (
        torch.randperm(len(labels), generator=generator)
        if attack.order == "random"
        else torch.arange(len(labels))
    )
    order = order[_eligible(attack, labels, classes)[order]]
    of = len(order) if attack.rate_of == "eligible" else len(labels)
    asked = int(attack.poison_rate * of + 0.5)
    if len(order) < SHORTFALL * asked:
        raise Incompatible(
            f"poison_rate {attack.poison_rate:g} of {of} images asks for {asked}, but only {len(order)} are eligible "
            f'({attack.eligible}): lower it to {len(order) / of:.4g}, or name their share with rate_of = "eligible"'
        )
    if attack.poison_rate > 0 and asked == 0:
        raise Incompatible(
            f"poison_rate {attack.poison_rate:g} of {of} images poisons none of them"
        )
    return order[:asked]


def _eligible(attack: PoisoningAttack, labels: Tensor, classes: int | None) -> Tensor:
    """Boolean over the training set. A class that the label map leaves alone never is, unless
    labels are kept.
    """
    if (
        attack.clean_label
    ):  # the map is of test images alone, and the target itself is no source of it
        own = labels == attack.target
        return {"all": torch.ones_like(own), "target": own, "non-target": ~own}[attack.eligible]
    mapped = mapped_labels(attack, labels, classes)
    if attack.eligible == "target":
        return (labels == attack.target) & (mapped >= 0)
    attacked = mapped >= 0
    return attacked & (mapped != labels) if attack.eligible == "non-target" else attacked


@torch.no_grad()
def stamp(
    trigger: nn.Module, images: Tensor, quantise: Quantise = "truncate", batch: int = 512
) -> Tensor:
    """uint8 NHWC images with the trigger on them, where they were; it runs on its own device, in
    evaluation mode.
    """
    check_images(images)
    if not len(images):
        return images
    device = device_of(trigger)
    with evaluating(trigger):
        parts = [stamped(trigger, to_float(part.to(device))) for part in torch.split(images, batch)]
        return torch.cat([to_uint8(part, quantise).to(images.device) for part in parts])


def poison(attack: PoisoningAttack, access: AttackAccess, trigger: nn.Module) -> PoisonedSet:
    """What an attack's base parameters select from `access.train`, stamped by `attack.stamp` and
    relabelled.

    Images are stamped for every value of `when`: the stored set is what a defense is shown.
    """
    train = access.train
    if train.labels is None:
        raise ValueError("only a labelled training set can be poisoned")
    indices = choose(attack, train.labels, access.selection(), access.task.classes)
    labels = train.labels[indices]
    images = attack.stamp(access, trigger, train.images[indices], labels)
    if not attack.clean_label:
        labels = mapped_labels(attack, labels, access.task.classes)
    return PoisonedSet(images, labels, indices, attack.add)


def poison_with_cover(
    access: AttackAccess,
    trigger: nn.Module,
    cover: nn.Module,
    poison_rate: float,
    cover_ratio: float,
) -> PoisonedSet:
    """The training set of a trainer whose batches hold cover, as one set: what its batches show, in
    the same shares.

    The first `poison_rate` of the replicate's permutation are triggered and relabelled, unless
    their class is not attacked; the next, `cover_ratio` times as many, go through the module
    `cover` and keep their labels.
    """
    train = access.train
    if train.labels is None:
        raise ValueError("only a labelled training set can be poisoned")
    count = int(poison_rate * len(train))
    order = torch.randperm(len(train), generator=access.selection())
    chosen, covered = order[:count], order[count : count + int(count * cover_ratio)]
    mapped = torch.tensor(access.label_table)[train.labels[chosen]]
    chosen, mapped = chosen[mapped >= 0], mapped[mapped >= 0]
    images = torch.cat([stamp(trigger, train.images[chosen]), stamp(cover, train.images[covered])])
    kinds = torch.arange(len(images)) >= len(chosen)
    indices = torch.cat([chosen, covered])
    return PoisonedSet(images, torch.cat([mapped, train.labels[covered]]), indices, cover=kinds)


def training_data(
    attack: Attack, train: ImageSet, poisoned: PoisonedSet | None, trigger: nn.Module | None
) -> tuple[ImageSet, dict[str, Any]]:
    """What a victim is fitted on, and with which hooks (members of `Hooks` by name), as the
    attack's `when` says.

    Without a poisoned set this is the clean training set.
    """
    if poisoned is None:
        return train, {}
    if not isinstance(attack, PoisoningAttack) or attack.when == "dataset" or trigger is None:
        return poisoned.merge(train), {}
    if poisoned.cover is not None:
        raise ValueError(
            f'cover images are stamped before training: when = "dataset" is wanted, not "{attack.when}"'
        )
    data = poisoned.merge(train, stamp=False)
    assert data.labels is not None
    hook = stamping_hook(trigger, poisoned.mask(len(train)), data.labels, attack.quantise)
    return data, {attack.when.replace("-", "_"): hook}


def stamping_hook(
    trigger: nn.Module, mask: Tensor, labels: Tensor, quantise: str = "none"
) -> Callable[[Batch], Batch]:
    """A `before_augment` or `after_augment` hook that stamps the poisoned images of each batch and
    sets their labels.

    `mask` (boolean) and `labels` (int64, read where the mask holds) cover the training set that is
    fitted; `quantise` is "none", or how stamped images go through uint8 and back. The trigger must
    be on the batches' device.
    """
    mask, labels = mask.cpu(), labels.cpu()

    def hook(batch: Batch) -> Batch:
        poisoned = (
            mask[batch.indices].nonzero().squeeze(1)
        )  # on the CPU: the device is not waited for
        if not len(poisoned):
            return batch
        there = poisoned.to(batch.images.device, non_blocking=True)
        with torch.no_grad(), evaluating(trigger):
            changed = stamped(trigger, batch.images[there], quantise)
        images = batch.images.index_copy(0, there, changed.to(batch.images.dtype))
        if batch.labels is None:
            return replace(batch, images=images)
        new = labels[batch.indices[poisoned]].to(batch.labels.device, non_blocking=True)
        return replace(batch, images=images, labels=batch.labels.index_copy(0, there, new))

    return hook
