"""The choice of images to poison, their stamping, and their place in a training set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.errors import Incompatible
from harness.learn.device import device_of, evaluating
from harness.learn.evaluation import stamped, together
from harness.learn.hooks import Batch, HookSettings
from harness.learn.images import ImageSet, Rounding, check_images, to_float, to_uint8
from harness.learn.rules import BatchStamping, PoisonRule

SHORTFALL = 0.9
"""Share of the asked number that must be eligible: a rate of exactly one class may miss by the
spread of class sizes and is then the whole class, more is a mistake in the grid.
"""
TENSORS = ("images", "labels", "indices", "cover")
"""The tensors that a poisoned set keeps on disk, by name."""


@dataclass(frozen=True, eq=False)
class PoisonedSet:
    """An attack's changes to a training set: the k images that it changed or added.

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
                expected = f"{str(dtype).removeprefix('torch.')} ({len(self.images)},)"
                seen = f"{value.dtype} {tuple(value.shape)}"
                raise ValueError(
                    f"{name} must be {expected}, one for each stamped image, not {seen}"
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
        """Return poisoned images as a share of a training set of `count` originals, which is what a
        poison rate means.
        """
        return int(self.poisoned.sum()) / count

    def merge(self, train: ImageSet, stamp: bool = True) -> ImageSet:
        """Return the training set with stamped images in their originals' places, or behind all if
        they are added.

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
        """Return a boolean over the merged set: True for its poisoned images. `count` is the number
        of originals.
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


def mapped_labels(label_table: Sequence[int], labels: Tensor) -> Tensor:
    """Return the labels (int64) that triggered images of these labels should get, -1 where the
    class is not attacked.
    """
    return torch.tensor(label_table, device=labels.device)[labels]


def choose(rule: PoisonRule, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return the indices (int64) of the training images to poison, given their labels (int64,
    (n,)).

    One permutation of the whole set, filtered by eligibility, cut to length: a smaller rate gives a
    subset of a larger one, and attacks that share the generator's start poison the same images as
    far as their rules agree. Raises Incompatible where the rate asks for clearly more images than
    are eligible, or is above 0 and selects none.
    """
    count = len(labels)
    if rule.order == "random":
        order = torch.randperm(count, generator=generator)
    else:
        order = torch.arange(count)
    eligible = _eligible(rule, labels)
    order = order[eligible[order]]
    of = len(order) if rule.rate_of == "eligible" else count
    asked = int(rule.poison_rate * of + 0.5)
    rate = f"poison_rate {rule.poison_rate:g} of {of} images"
    if len(order) < SHORTFALL * asked:
        possible = len(order) / of
        raise Incompatible(
            f"{rate} asks for {asked}, but only {len(order)} are eligible ({rule.eligible}): "
            f'lower it to {possible:.4g}, or name their share with rate_of = "eligible"'
        )
    if rule.poison_rate > 0 and asked == 0:
        raise Incompatible(f"{rate} poisons none of them")
    return order[:asked]


def _eligible(rule: PoisonRule, labels: Tensor) -> Tensor:
    """Return a boolean over the training set. Images of a class that the label map leaves alone are
    never eligible, unless labels are kept.
    """
    own = labels == rule.target
    if rule.clean_label:
        # The map is of test images alone, and the target itself is no source of it.
        masks = {"all": torch.ones_like(own), "target": own, "non-target": ~own}
        return masks[rule.eligible]
    mapped = mapped_labels(rule.label_table, labels)
    attacked = mapped >= 0
    if rule.eligible == "target":
        return own & attacked
    if rule.eligible == "non-target":
        return attacked & (mapped != labels)
    return attacked


@torch.no_grad()
def stamp(
    trigger: nn.Module, images: Tensor, quantise: Rounding = "truncate", batch: int = 512
) -> Tensor:
    """Put the trigger on uint8 NHWC images, which stay where they are; it runs on its own device,
    in evaluation mode, on at most `batch` images at a time.
    """
    check_images(images)
    if not len(images):
        return images
    device = device_of(trigger)
    size = min(batch, together(images, device))
    stamped_parts = []
    with evaluating(trigger):
        for part in torch.split(images, size):
            changed = stamped(trigger, to_float(part.to(device)))
            # As floats, all of them would take four times the memory.
            stamped_parts.append(to_uint8(changed, quantise))
    # A GPU is waited for once, here.
    return torch.cat(stamped_parts).to(images.device)


def poison(
    train: ImageSet,
    rule: PoisonRule,
    order: torch.Generator,
    stamp_images: Callable[[Tensor, Tensor], Tensor],
    add: bool = False,
) -> PoisonedSet:
    """Return the images that `rule` selects from `train`, stamped and relabelled.

    `order` is the generator of the replicate's permutation; `stamp_images` is called once with the
    chosen images (uint8 NHWC) and their true labels. Images are stamped whether or not the victim's
    batches are: the stored set is what a defense is shown. Raises ValueError without labels.
    """
    if train.labels is None:
        raise ValueError("only a labelled training set can be poisoned")
    indices = choose(rule, train.labels, order)
    labels = train.labels[indices]
    images = stamp_images(train.images[indices], labels)
    if not rule.clean_label:
        labels = mapped_labels(rule.label_table, labels)
    return PoisonedSet(images, labels, indices, add)


def poison_with_cover(
    train: ImageSet,
    label_table: Sequence[int],
    order: torch.Generator,
    trigger: nn.Module,
    cover: nn.Module,
    *,
    poison_rate: float,
    cover_ratio: float,
) -> PoisonedSet:
    """Return the training set of a trainer whose batches hold cover, as one set with the same
    shares as its batches.

    The first `poison_rate` of the permutation that `order` draws are triggered and relabelled,
    unless their class is not attacked; the next, `cover_ratio` times as many, go through the module
    `cover` and keep their labels. Raises ValueError without labels.
    """
    if train.labels is None:
        raise ValueError("only a labelled training set can be poisoned")
    count = int(poison_rate * len(train))
    cover_count = int(count * cover_ratio)
    permutation = torch.randperm(len(train), generator=order)
    chosen = permutation[:count]
    covered = permutation[count : count + cover_count]
    mapped = mapped_labels(label_table, train.labels[chosen])
    attacked = mapped >= 0
    chosen = chosen[attacked]
    mapped = mapped[attacked]
    triggered_images = stamp(trigger, train.images[chosen])
    cover_images = stamp(cover, train.images[covered])
    images = torch.cat([triggered_images, cover_images])
    labels = torch.cat([mapped, train.labels[covered]])
    indices = torch.cat([chosen, covered])
    is_cover = torch.arange(len(images)) >= len(chosen)
    return PoisonedSet(images, labels, indices, cover=is_cover)


def training_data(
    train: ImageSet,
    poisoned: PoisonedSet | None,
    trigger: nn.Module | None,
    stamping: BatchStamping | None,
) -> tuple[ImageSet, HookSettings]:
    """Return the data that a victim is fitted on, and the hooks that stamp its batches.

    Without a poisoned set this is the clean training set; without `stamping` images are stamped
    beforehand and there is no hook. Raises ValueError for cover images with `stamping`.
    """
    if poisoned is None:
        return train, {}
    if stamping is None or trigger is None:
        return poisoned.merge(train), {}
    if poisoned.cover is not None:
        raise ValueError(
            'cover images are stamped before training: when = "dataset" is expected, '
            f'not "{stamping.when}"'
        )
    data = poisoned.merge(train, stamp=False)
    assert data.labels is not None
    mask = poisoned.mask(len(train))
    hook = stamping_hook(trigger, mask, data.labels, stamping.quantise)
    if stamping.when == "before-augment":
        return data, {"before_augment": hook}
    return data, {"after_augment": hook}


def stamping_hook(
    trigger: nn.Module, mask: Tensor, labels: Tensor, quantise: str = "none"
) -> Callable[[Batch], Batch]:
    """Return a `before_augment` or `after_augment` hook that stamps the poisoned images of each
    batch and sets their labels.

    `mask` (boolean) and `labels` (int64, read where the mask holds) cover the training set that is
    fitted; `quantise` is "none", or how stamped images go through uint8 and back. The trigger must
    be on the batches' device.
    """
    mask, labels = mask.cpu(), labels.cpu()

    def hook(batch: Batch) -> Batch:
        # On the CPU, so that the device is not waited for.
        poisoned = mask[batch.indices].nonzero().squeeze(1)
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
