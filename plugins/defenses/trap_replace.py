"""Trap and Replace: train on poisoned data so that the backdoor settles in the head, then replace
the head.

Wang et al., NeurIPS 2022. While the whole network learns the poisoned training set, a decoder must
reconstruct the images from what the stem gives. That keeps the stem busy with content and leaves
the shortcut from trigger to target to the head, which is thrown away. A fresh head is trained on
clean images, on top of the frozen stem.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from harness import Access, Context, Fraction, Incompatible, Recipe, Result
from harness.learn import Batch, Extra, evaluating, global_random
from plugins.models.fitted import steps
from plugins.parts.counting import FORWARD
from plugins.parts.cutmix import CutMix
from plugins.parts.fine_tuning import Augmented
from plugins.parts.points import Point, locate
from plugins.parts.ranges import Count, CountOrZero, NotNegative, Positive
from plugins.parts.watched import watched

NARROWEST = 32
"""Fewest channels between the layers of a decoder, unless the stem gives fewer."""
JUDGED = 500
"""Images that are reconstructed at a time."""


class TrapReplace(Augmented):
    """Trap the backdoor in the network's head, then replace the head (Wang et al. 2022).

    The trap is that images are reconstructed from the stem while the network learns. Both phases
    train as the grid trains its victims, which is what the paper says of its own; `[training]
    recipe = "trap"` is its recipe. `trap-code` has the defaults of the released code
    for that recipe. There dropout does nothing, since the network is in evaluation mode and only
    its parts are not. The published stem ends after the last block but one, in WRN-16-1 and in
    ResNet-34.
    """

    citation = (
        "Wang et al.: Trap and Replace - Defending Backdoor Attacks by Trapping Them into an "
        "Easy-to-Replace Subnetwork, NeurIPS 2022"
    )
    needs = frozenset({"training-set", "clean-labelled"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "trap": {},
        "trap-code": {
            "lambda2": 1.0,
            "head_epochs": 100,
            "head_batch": 64,
            "head_optimizer": "adam",
            "head_lr": 0.03,
            "head_schedule": "cosine",
            "label_smoothing": 0.1,
            "cutmix": 1.0,
            "dropout": 0.0,
        },
    }

    stem_end: Point = "blocks[-2]"
    """end of the stem: its output goes to the decoder, what follows is the head"""
    lambda1: NotNegative = 10.0
    """weight of the reconstruction's mean squared error; without both terms there is no decoder"""
    lambda2: NotNegative = 0.1
    """weight of the reconstruction's total variation; 0.1 in the paper, 1 by default in its code"""
    epochs: CountOrZero | None = None
    """passes over the training set; none: as the grid trains its victims"""

    replace: bool = True
    """replace the head; if false, the network stays as it is after the first phase, an ablation of
    the paper
    """
    head_epochs: CountOrZero | None = None
    """passes of the head over the clean images; none: as many as the first phase"""
    head_batch: Count = 32
    """images a step of the head; no more than there are"""
    head_optimizer: Literal["sgd", "adam", "adamw"] | None = None
    """of the head, with a rate of its own; none: as the first phase"""
    head_lr: Positive | None = None
    """learning rate of the head; none: as the first phase"""
    head_schedule: Literal["constant", "cosine", "linear", "one-cycle"] | None = None
    """of that rate, over all epochs of the head; none: as the first phase"""
    label_smoothing: Fraction | None = None
    """share of the head's targets that is spread evenly over all classes; none: as the first phase
    """
    cutmix: Fraction = 0.0
    """probability that a box of each image of the head's batch is exchanged for that of another
    image, and its label in the same share
    """
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """share of the last block's outputs that are dropped while the head learns"""

    @model_validator(mode="after")
    def _has_a_rate(self) -> Self:
        if self.head_optimizer is not None and self.head_lr is None:
            raise ValueError(
                f'head_optimizer "{self.head_optimizer}" needs a head_lr: the grid\'s is another '
                "one's"
            )
        return self

    def unused(self) -> Mapping[str, str]:
        """Name the head's settings where the head is not replaced."""
        unused = dict(super().unused())
        if not self.replace:
            names = [name for name in type(self).model_fields if name.startswith("head_")]
            names += ["label_smoothing", "cutmix", "dropout"]
            unused.update(dict.fromkeys(names, "replace = false"))
        return unused

    def compatible(self, context: Context) -> str | None:
        """Refuse a learning rate of the head beside a table of them."""
        recipe = context.recipe
        if recipe is None or self.head_lr is None or self.head_schedule is not None:
            return super().compatible(context)
        if not (self.replace and recipe.rates):
            return super().compatible(context)
        return (
            f"head_lr = {self.head_lr:g} would do nothing: the victim's schedule = "
            f'"{recipe.schedule}" has its learning rates in `rates`; set head_schedule too'
        )

    def defend(self, access: Access) -> Result:
        """Trap the backdoor, then replace the head."""
        model = access.fresh_model()
        anatomy = access.anatomy(model)
        stem_end = locate(anatomy, self.stem_end)
        cut = find_cut(model, stem_end, access.task.image_shape)
        recipe = self.trapping(access.recipe.replace(**self.augmentation(access.task)))
        record = self._trap(access, model, cut, recipe)
        if self.replace:
            renewed = renew(model, access.fresh_model(), cut.after)
            record["head_parameters"] = float(renewed)
            blocks = anatomy.blocks or anatomy.stages
            last = model.get_submodule(blocks[-1])
            with dropping(last, self.dropout):
                self._train_head(access, model, cut, recipe)
        return Result(model=model, record=record)

    def trapping(self, grid: Recipe) -> Recipe:
        """Return the recipe of the first phase."""
        if self.epochs is None:
            return grid
        return grid.replace(epochs=self.epochs, steps=None)

    def replacing(self, first: Recipe, count: int) -> Recipe:
        """Return the recipe of the head on `count` clean images, given that of the first phase."""
        changed: dict[str, Any] = {"batch": min(self.head_batch, count)}
        if self.head_epochs is not None:
            changed["epochs"] = self.head_epochs
            changed["steps"] = None
        if self.head_schedule is not None:
            changed["schedule"] = self.head_schedule
            changed["rates"] = ()
            changed["horizon"] = None
            changed["warmup"] = None
        if self.head_optimizer is not None:
            changed["optimizer"] = self.head_optimizer
        if self.head_lr is not None:
            changed["lr"] = self.head_lr
        if self.label_smoothing is not None:
            changed["label_smoothing"] = self.label_smoothing
        return first.replace(**changed)

    def _trap(self, access: Access, model: nn.Module, cut: Cut, recipe: Recipe) -> dict[str, float]:
        """Train the first phase, in place; return the decoder's error on the clean images."""
        data = access.training_set()
        if not (self.lambda1 or self.lambda2):
            access.fit(model, data, recipe)
            return {}  # there is no decoder
        with global_random(access.seed("decoder")):
            decoder = Decoder(cut.shape, access.task.image_shape)
        decoder.to(access.device)

        with watched(model, [cut.name]) as outputs:

            def loss(network: nn.Module, batch: Batch) -> Tensor:
                assert batch.labels is not None
                logits = network(batch.images).float()
                entropy = functional.cross_entropy(
                    logits, batch.labels, label_smoothing=recipe.label_smoothing
                )
                reconstructed = decoder(outputs[cut.name])
                trap = trap_loss(reconstructed, batch.images, self.lambda1, self.lambda2)
                return entropy + trap

            access.fit(model, data, recipe, loss=loss, extra=[Extra(decoder.parameters())])
        return {"reconstruction_mse": reconstruction_error(access, model, cut.name, decoder)}

    def _train_head(self, access: Access, model: nn.Module, cut: Cut, first: Recipe) -> None:
        """Train the second phase, in place: what follows the stem learns.

        The stem is frozen, in evaluation mode.
        """
        data = access.clean()
        recipe = self.replacing(first, len(data))
        mix = CutMix(self.cutmix, recipe.label_smoothing, access.generator("cutmix"))
        head = [model.get_submodule(name) for name in cut.after]
        learning: set[int] = set()
        for module in head:
            learning.update(id(parameter) for parameter in module.parameters(recurse=False))

        def mode(network: nn.Module) -> None:
            network.eval()
            for module in head:
                module.training = True

        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        frozen = [parameter for parameter in trained if id(parameter) not in learning]
        for parameter in frozen:
            parameter.requires_grad_(False)
        access.fit(model, data, recipe, mode=mode, after_augment=mix.batch, loss=mix.loss)
        for parameter in frozen:
            parameter.requires_grad_(True)


# --- the cut --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """The end of a stem."""

    name: str
    """module that ends it"""
    shape: tuple[int, int, int]
    """channels, height and width of that module's output"""
    after: tuple[str, ...]
    """modules that run later"""


def find_cut(model: nn.Module, name: str, shape: Sequence[int]) -> Cut:
    """Cut a network behind the module `name`, given the shape of an image.

    The order in which modules run decides what lies behind. Raises Incompatible where that module
    gives no maps, which a decoder could make images of.
    """
    run = steps(model, shape, keep=True)
    turns = [step.name for step in run]
    output = None
    if name in turns:
        output = run[turns.index(name)].output
    if output is None or output.dim() != 4:
        given = "no tensor" if output is None else f"a tensor {tuple(output.shape)}"
        raise Incompatible(
            f"images are reconstructed from maps (n, c, h, w), but {name} of this network gives "
            f"{given}"
        )
    after = []
    for later in turns[turns.index(name) + 1 :]:
        around = name.startswith(f"{later}.")
        if later and not around and later not in after:
            after.append(later)
    _, channels, height, width = output.shape
    return Cut(name, (channels, height, width), tuple(after))


@torch.no_grad()
def renew(model: nn.Module, fresh: nn.Module, names: Sequence[str]) -> int:
    """Put the state of another network's modules into those of the same names, in place.

    Return how many parameters learn.
    """
    count = 0
    for name in names:
        old = model.get_submodule(name)
        new = fresh.get_submodule(name)
        for own, parameter in old.named_parameters(recurse=False):
            parameter.copy_(new.get_parameter(own))
            count += parameter.numel()
        for own, buffer in old.named_buffers(recurse=False):
            buffer.copy_(new.get_buffer(own))
    return count


@contextmanager
def dropping(module: nn.Module, share: float) -> Iterator[None]:
    """Drop a share of a module's outputs while the context lasts, and scale up the rest."""
    if share == 0:
        yield
        return

    def drop(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return functional.dropout(output, share, training=True)

    handle = module.register_forward_hook(drop)
    try:
        yield
    finally:
        handle.remove()


# --- the trap -------------------------------------------------------------------------------------


class Decoder(nn.Module):
    """Maps to images: transposed convolutions with ReLU between them, two at least.

    Each of 4x4 doubles the size and halves the channels, down to 32; where fewer than two of them
    reach the image's size, layers of 3x3 follow. For WRN-16-1 these are the published ones: 64 to
    32 to 3 channels, or 32 to 32 to 3 where the stem is a block shorter. Where doubling does not
    hit the image's size, what came out is resized to it.
    """

    def __init__(self, maps: tuple[int, int, int], image: tuple[int, int, int]) -> None:
        super().__init__()
        channels, height, width = maps
        colours = image[0]
        self.size = image[1:]
        enlargement = max(image[1] / height, image[2] / width)
        doublings = max(0, math.ceil(math.log2(enlargement)))
        narrowest = min(NARROWEST, channels)
        count = max(doublings, 2)
        layers = nn.Sequential()
        for number in range(count):
            outputs = max(channels // 2, narrowest)
            if number == count - 1:
                outputs = colours
            kernel = 3
            stride = 1
            if number < doublings:
                kernel = 4
                stride = 2
            layers.append(nn.ConvTranspose2d(channels, outputs, kernel, stride, padding=1))
            layers.append(nn.ReLU())
            channels = outputs
        self.layers = layers[:-1]  # without the last ReLU

    def forward(self, maps: Tensor) -> Tensor:
        """Return images in (0,1), in single precision."""
        images = self.layers(maps).float()
        if images.shape[2:] != self.size:
            images = functional.interpolate(images, self.size, mode="bilinear")
        return torch.sigmoid(images)


@torch.no_grad()
def reconstruction_error(
    access: Access, model: nn.Module, stem_end: str, decoder: nn.Module
) -> float:
    """Return the mean squared error of clean images that are reconstructed from the stem."""
    clean = access.clean().to(access.device)
    error = 0.0
    with evaluating(model), watched(model, [stem_end]) as outputs:
        for images, _ in clean.batches(JUDGED):
            model(images)
            reconstructed = decoder(outputs[stem_end])
            mean = float(functional.mse_loss(reconstructed, images))
            error += mean * len(images)
            access.tick()
    access.tick(len(clean) // FORWARD)
    return error / len(clean)


def trap_loss(reconstructed: Tensor, images: Tensor, lambda1: float, lambda2: float) -> Tensor:
    """Return what the first phase adds to the cross-entropy."""
    error = lambda1 * functional.mse_loss(reconstructed, images)
    variation = lambda2 * total_variation(reconstructed)
    return error + variation


def total_variation(images: Tensor) -> Tensor:
    """Return the squared differences of neighbours, summed and divided by the number of values.

    The number of differences is not the divisor.
    """
    down = images.diff(dim=2)
    across = images.diff(dim=3)
    squares = down.square().sum() + across.square().sum()
    return squares / images.numel()
