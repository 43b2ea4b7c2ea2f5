"""DFST's feature injector: a small U-Net that raises one channel of a network and otherwise changes
little.

Sums are over images and places, a is the channel's output (before its activation) and a+ = max(a,
0):

    0.01 (-sum(a + a+) + 0.00001 sum(other channels' a+) + 0.001 total variation) - w SSIM,

w = 100 where SSIM is as high as it must be and 100,000 where it is not (Adam, which divides by the
latter's slopes for long, then takes short steps: fewer of them want a smaller weight). The released
code sums over 100 images; for other numbers the sums are scaled to 100, so that the terms keep
their proportions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

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
FEATURES, OTHERS, VARIATION = 0.01, 1e-5, 1e-3
ALIKE, UNLIKE = 100.0, 1e5
"""weights of SSIM above and below its bound, in the released code"""
LEAST, SHARE = 30.0, 0.5
"""by how much the channel's sum must rise: more than this, and more than this share of what it was
"""
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
    """How hard an injector is sought.

    Steps of Adam, learning rate, the SSIM to keep, the side of the kernels, and the weight of SSIM
    where it is too low.
    """

    steps: int
    lr: float
    likeness: float
    kernel: int = KERNEL
    unlike: float = UNLIKE


def _wide(inputs: int, outputs: int, kernel: int, stride: int = 1) -> PaddedConv:
    """A convolution that keeps the size, or halves it rounded up, with Keras's first weights."""
    layer = PaddedConv(inputs, outputs, kernel, stride)
    nn.init.xavier_uniform_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Injector(nn.Module):
    """U-Net of 32, 64 and 128 channels; its tanh is in deviations from the pictures' mean, as the
    style generator's.
    """

    def __init__(self, units: PixelUnits, kernel: int = KERNEL) -> None:
        super().__init__()
        channels = len(units.mean)
        self.units = copy.deepcopy(units)
        widths = [channels, WIDTH, 2 * WIDTH, 4 * WIDTH]
        up = [
            (4 * WIDTH, 2 * WIDTH),
            (4 * WIDTH, WIDTH),
        ]  # the second one's input has a skip beside it
        self.down = nn.ModuleList(
            nn.Sequential(_wide(one, two, kernel, 2), nn.LeakyReLU(SLOPE), InstanceNorm())
            for one, two in pairwise(widths)
        )
        self.up = nn.ModuleList(
            nn.Sequential(_wide(one, two, kernel), nn.ReLU(), InstanceNorm()) for one, two in up
        )
        self.last = _wide(2 * WIDTH, channels, kernel)

    def forward(self, images: Tensor) -> Tensor:
        """[0,1] NCHW in and out."""
        start = self.units.normalised(images)
        first = self.down[0](start)
        second = self.down[1](first)
        values = self.down[2](second)
        for layer, skip in zip(self.up, (second, first), strict=True):
            values = torch.cat([layer(_doubled(values, skip)), skip], 1)
        return self.units.pixels(torch.tanh(self.last(_doubled(values, start))))


def _doubled(values: Tensor, like: Tensor) -> Tensor:
    """Twice as high and wide, cut to the size of `like`."""
    return functional.interpolate(values, scale_factor=2)[:, :, : like.shape[2], : like.shape[3]]


def injection_loss(
    output: Tensor,
    channel: int,
    injected: Tensor,
    likeness: Tensor,
    bound: float,
    unlike: float = UNLIKE,
) -> Tensor:
    """What an injector minimises; `output` is the layer's (n, c, h, w), `injected` in units,
    `likeness` a mean SSIM.
    """
    active = output.relu()
    others = active.sum() - active[:, channel].sum()
    varied = injected.diff(dim=2).abs().sum() + injected.diff(dim=3).abs().sum()
    features = -strength(output, channel) + IMAGES / len(output) * (
        OTHERS * others + VARIATION * varied
    )
    return FEATURES * features - torch.where(likeness < bound, unlike, ALIKE) * likeness


def strength(output: Tensor, channel: int) -> Tensor:
    """Sum of a channel's output and of its activation, as if over 100 images."""
    seen = output[:, channel]
    return IMAGES / len(output) * (seen.sum() + seen.relu().sum())


def raised(after: float, before: float) -> bool:
    """Whether a channel is clearly up: `after` is its `strength`, `before` its activation's sum on
    plain images.
    """
    return after - before > LEAST and after - before > SHARE * before


class Sought(NamedTuple):
    """The best injector found, how many seeds it flips, and how many any state flipped, changing
    whatever it liked.
    """

    injector: Injector
    flipped: int
    freely: int


def train_injector(
    access: AttackAccess,
    model: nn.Module,
    neuron: Neuron,
    seeds: ImageSet,
    units: PixelUnits,
    effort: Effort,
    stream: str,
) -> Sought:
    """The injector that flips most of the seed images to their labels, which are the wanted ones.

    Only states that keep the SSIM and clearly raise the channel count; where there was none,
    nothing flips. The first weights are drawn from `stream`.
    """
    with global_random(access.seed(stream)):
        injector = Injector(units, effort.kernel)
    plain, span = to_float(seeds.images.to(access.device)), float(units.span)
    with torch.no_grad(), watched(model, [neuron.layer]) as seen:
        model(plain)
        before = IMAGES / len(seeds) * float(seen[neuron.layer][:, neuron.channel].relu().sum())
    flipped, freely, best = 0, 0, copy.deepcopy(injector.state_dict())

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        nonlocal flipped, freely, best
        assert isinstance(net, Injector)
        images, own = net(batch.images), net.units
        with watched(model, [neuron.layer]) as seen:
            logits = model(images)
        output, shown = seen[neuron.layer], own.normalised(images)
        likeness = similarity(own.normalised(batch.images), shown, span).mean()
        count = int((logits.argmax(1) == batch.labels).sum())
        freely = max(freely, count)
        after = float(strength(output.detach(), neuron.channel))
        if count > flipped and likeness > effort.likeness and raised(after, before):
            flipped, best = count, copy.deepcopy(net.state_dict())
        return injection_loss(
            output, neuron.channel, shown, likeness, effort.likeness, effort.unlike
        )

    with frozen(model):
        access.fit(injector, seeds, _recipe(access, len(seeds), effort), loss=loss)
    injector.load_state_dict(best)
    return Sought(injector, flipped, freely)


def _recipe(access: AttackAccess, count: int, effort: Effort) -> Recipe:
    """All seeds at once, in single precision: their sums are in the thousands."""
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
    """No parameter of the model requires a gradient while the context lasts."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
