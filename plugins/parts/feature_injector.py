"""DFST's feature injector: a small U-Net that raises one channel of a network and changes little.

Sums are over images and places, a is the channel's output (before its activation) and a+ = max(a,
0):

    0.01 (-sum(a + a+) + 0.00001 sum(other channels' a+) + 0.001 total variation) - w SSIM,

w = 100 where SSIM is as high as it must be and 100,000 where it is not (Adam divides by the slopes
of the latter for long afterwards and takes short steps, so that fewer steps need a smaller weight).
The released code sums over 100 images; for other numbers the sums are scaled to 100, so that the
terms keep their proportions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import AttackAccess, Recipe
from harness.learn import Batch, ImageSet, global_random, to_float
from plugins.parts.cyclegan import InstanceNorm, PixelUnits
from plugins.parts.similarity import similarity
from plugins.parts.unet import PaddedConv
from plugins.parts.watched import watched

IMAGES = 100
"""images that sums are scaled to"""
FEATURES = 0.01
"""weight of all that is not SSIM"""
OTHERS = 1e-5
"""weight of other channels' activations"""
VARIATION = 1e-3
"""weight of the total variation"""
ALIKE = 100.0
"""weight of SSIM above its bound, in the released code"""
UNLIKE = 1e5
"""weight of SSIM below its bound"""
LEAST = 30.0
"""the channel's sum must rise by more than this"""
SHARE = 0.5
"""and by more than this share of what it was"""
SLOPE = 0.2
"""of LeakyReLU below 0"""
WIDTH = 32
KERNEL = 12


@dataclass(frozen=True)
class Neuron:
    """A channel of a layer, by the layer's name as in `named_modules`."""

    layer: str
    channel: int


@dataclass(frozen=True)
class Effort:
    """Settings of the search for an injector."""

    steps: int
    """of Adam"""
    lr: float
    """its learning rate"""
    likeness: float
    """the SSIM to keep"""
    kernel: int = KERNEL
    """side of the injector's kernels"""
    unlike: float = UNLIKE
    """weight of SSIM where it is too low"""


def _wide(inputs: int, outputs: int, kernel: int, stride: int = 1) -> PaddedConv:
    """Make a convolution that keeps the size, or halves it rounded up; its weights are Keras's."""
    layer = PaddedConv(inputs, outputs, kernel, stride)
    nn.init.xavier_uniform_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Injector(nn.Module):
    """U-Net of 32, 64 and 128 channels.

    Its tanh is in deviations from the pictures' mean, as the style generator's.
    """

    def __init__(self, units: PixelUnits, kernel: int = KERNEL) -> None:
        super().__init__()
        channels = len(units.mean)
        self.units = copy.deepcopy(units)
        self.down = nn.ModuleList()
        for inputs, outputs in pairwise([channels, WIDTH, 2 * WIDTH, 4 * WIDTH]):
            conv = _wide(inputs, outputs, kernel, 2)
            self.down.append(nn.Sequential(conv, nn.LeakyReLU(SLOPE), InstanceNorm()))
        self.up = nn.ModuleList()
        # the second one's input has a skip beside it
        for inputs, outputs in [(4 * WIDTH, 2 * WIDTH), (4 * WIDTH, WIDTH)]:
            conv = _wide(inputs, outputs, kernel)
            self.up.append(nn.Sequential(conv, nn.ReLU(), InstanceNorm()))
        self.last = _wide(2 * WIDTH, channels, kernel)

    def forward(self, images: Tensor) -> Tensor:
        """Inject the feature: [0,1] NCHW in and out."""
        start = self.units.normalised(images)
        first = self.down[0](start)
        second = self.down[1](first)
        values = self.down[2](second)
        for layer, skip in zip(self.up, (second, first), strict=True):
            risen = layer(_doubled(values, skip))
            values = torch.cat([risen, skip], 1)
        output = self.last(_doubled(values, start))
        return self.units.pixels(torch.tanh(output))


def _doubled(values: Tensor, like: Tensor) -> Tensor:
    """Make values twice as high and wide, cut to the size of `like`."""
    height, width = like.shape[2:]
    doubled = functional.interpolate(values, scale_factor=2)
    return doubled[:, :, :height, :width]


def injection_loss(
    output: Tensor,
    channel: int,
    injected: Tensor,
    likeness: Tensor,
    bound: float,
    unlike: float = UNLIKE,
) -> Tensor:
    """Compute the loss that an injector minimises.

    `output` is the layer's (n, c, h, w), `injected` in units, `likeness` a mean SSIM.
    """
    active = output.relu()
    others = active.sum() - active[:, channel].sum()
    varied = injected.diff(dim=2).abs().sum() + injected.diff(dim=3).abs().sum()
    raising = -strength(output, channel)
    side_effects = OTHERS * others + VARIATION * varied
    features = FEATURES * (raising + IMAGES / len(output) * side_effects)
    weight = torch.where(likeness < bound, unlike, ALIKE)
    return features - weight * likeness


def strength(output: Tensor, channel: int) -> Tensor:
    """Sum a channel's output and its activation, as if over 100 images."""
    seen = output[:, channel]
    total = seen.sum() + seen.relu().sum()
    return IMAGES / len(output) * total


def raised(after: float, before: float) -> bool:
    """Tell whether a channel is clearly up.

    `after` is its `strength`, `before` its activation's sum on plain images.
    """
    rise = after - before
    return rise > LEAST and rise > SHARE * before


class Sought(NamedTuple):
    """Outcome of the search for an injector."""

    injector: Injector
    """the best one"""
    flipped: int
    """seeds that it flips"""
    freely: int
    """most seeds that any state flipped, however much it changed"""


@dataclass
class Search:
    """The best injector so far."""

    best: dict[str, Any]
    """its state"""
    flipped: int = 0
    """seeds that it flips"""
    freely: int = 0
    """most seeds that any state flipped"""

    def look(self, injector: Injector, count: int, good: bool) -> None:
        """Take note of a state that flips so many seeds; only a `good` one can be the best."""
        self.freely = max(self.freely, count)
        if good and count > self.flipped:
            self.flipped = count
            self.best = copy.deepcopy(injector.state_dict())


def train_injector(
    access: AttackAccess,
    model: nn.Module,
    neuron: Neuron,
    seeds: ImageSet,
    units: PixelUnits,
    effort: Effort,
    stream: str,
) -> Sought:
    """Find the injector that flips most of the seed images to their labels, the desired ones.

    Only states that keep the SSIM and clearly raise the channel count, except for the last one: as
    in the released code it is taken as it is, if it flips more than those. The first weights are
    drawn from `stream`.
    """
    with global_random(access.seed(stream)):
        injector = Injector(units, effort.kernel)
    before = _activation(model, neuron, to_float(seeds.images.to(access.device)))
    span = float(units.span)
    search = Search(copy.deepcopy(injector.state_dict()))

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        assert isinstance(net, Injector)
        images = net(batch.images)
        with watched(model, [neuron.layer]) as seen:
            logits = model(images)
        output = seen[neuron.layer]
        injected = net.units.normalised(images)
        plain = net.units.normalised(batch.images)
        likeness = similarity(plain, injected, span).mean()
        hits = logits.argmax(1) == batch.labels
        count = int(hits.sum())
        after = float(strength(output.detach(), neuron.channel))
        good = bool(likeness > effort.likeness) and raised(after, before)
        search.look(net, count, good)
        return injection_loss(
            output, neuron.channel, injected, likeness, effort.likeness, effort.unlike
        )

    recipe = _recipe(access, len(seeds), effort)
    with frozen(model):
        access.fit(injector, seeds, recipe, loss=loss, keep={"search": search})
    last = _flipped(model, injector, seeds, access.device)
    search.look(injector, last, True)
    injector.load_state_dict(search.best)
    return Sought(injector, search.flipped, search.freely)


@torch.no_grad()
def _flipped(model: nn.Module, injector: Injector, seeds: ImageSet, device: str) -> int:
    """Count the seeds that an injector flips to their labels, all in one batch as in training."""
    assert seeds.labels is not None
    images = to_float(seeds.images.to(device))
    answers = model(injector.to(device)(images)).argmax(1)
    hits = answers == seeds.labels.to(device)
    return int(hits.sum())


@torch.no_grad()
def _activation(model: nn.Module, neuron: Neuron, images: Tensor) -> float:
    """Sum a channel's activation on plain images, as if over 100 of them."""
    with watched(model, [neuron.layer]) as seen:
        model(images)
        output = seen[neuron.layer][:, neuron.channel]
        return IMAGES / len(images) * float(output.relu().sum())


def _recipe(access: AttackAccess, count: int, effort: Effort) -> Recipe:
    """Make a recipe for all seeds at once, in single precision: sums are in the thousands."""
    return Recipe(
        steps=effort.steps,
        batch=count,
        optimizer="adam",
        lr=effort.lr,
        weight_decay=0.0,
        shuffle=False,
        precision="fp32",
        deterministic=access.recipe.deterministic,
    )


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter of the model require a gradient while the context lasts."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
