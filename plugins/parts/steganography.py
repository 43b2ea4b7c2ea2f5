"""A pair of networks that hide bits in a picture and read them again, for the invisible attack.

StegaStamp, Tancik et al., CVPR 2020, in the small form of BackdoorBox: images of 32 x 32 and 20
bits. StegaStamp survives print and camera thanks to warps, blur and JPEG in training, which the
attack left out; so does this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from harness import Context, Part, Recipe, Task
from harness.learn import Batch, Extra, global_random
from plugins.parts.ranges import Count, CountOrZero, NotNegative, Positive
from plugins.parts.similarity import similarity
from plugins.parts.stegastamp import Critic, Pair, StegaStampDecoder, StegaStampEncoder
from plugins.parts.unet import Padding

if TYPE_CHECKING:
    from harness import PartAccess

MULTIPLE = 16
"""Sides must be a multiple of this: the encoder halves an image four times."""
CRITIC_RATE = 1e-5
"""Learning rate of the critic's RMSprop (StegaStamp's code)."""
CRITIC_SMOOTHING = 0.9
"""Its decay."""
CRITIC_BOUND = 0.01
"""Largest distance of the critic's weights from 0."""


class Steganography(Part):
    """Encoder that hides bits in an image, trained with a decoder that reads them (StegaStamp).

    Loss: cross-entropy of the bits alone at first, then weighted with the square of the residual,
    the structural dissimilarity 1 - SSIM of image and encoded image, and a critic's opinion if
    asked. SSIM is our choice: the published loss has LPIPS there, a distance between features of a
    network that was trained on ImageNet. BackdoorBox also trains on test images; here the pair sees
    the training set only. All layers start as in He et al. (2015), as StegaStamp's encoder does:
    from PyTorch's smaller weights hundreds of steps pass before a bit is read.
    """

    citation = (
        "Tancik, Mildenhall, Ng: "
        "StegaStamp: Invisible Hyperlinks in Physical Photographs, CVPR 2020"
    )
    needs: ClassVar[AbstractSet[str]] = frozenset({"train"})
    seeded = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "backdoorbox": {},
        # Our own, for 10,000 small images on a CPU. At a rate of 1e-3 residuals drown CIFAR-10 and
        # no bit is read.
        "fast": {"epochs": 5, "secret_epochs": 1, "lr": 3e-4, "secrets": "fresh"},
    }

    bits: Count = 20
    """number of hidden bits; 20 in StegaStamp's and BackdoorBox's code, 100 in the invisible
    attack's
    """
    resolution: Annotated[int, Field(ge=MULTIPLE, multiple_of=MULTIPLE)] | None = None
    """side in pixels to which images are resized before they are encoded; none: as they are"""
    padding: Padding = "port"
    """of strided convolutions: same as TensorFlow (StegaStamp), or one pixel earlier (BackdoorBox)
    """
    secrets: Literal["fixed", "fresh"] = "fixed"
    """bits to train with: one draw for each image (BackdoorBox), or a new one in each batch
    (StegaStamp)
    """
    epochs: Count = 20
    """passes over the training images"""
    secret_epochs: CountOrZero = 2
    """passes at the start in which only the bits count"""
    batch: Count = 32
    """images a step"""
    lr: Positive = 1e-4
    """learning rate of Adam, constant"""
    l2: NotNegative = 2.0
    """weight of the mean squared residual"""
    ssim: NotNegative = 1.5
    """weight of 1 - SSIM; the published weight of LPIPS"""
    bce: NotNegative = 1.5
    """weight of the bits' cross-entropy, after the first passes"""
    critic: NotNegative = 0.0
    """weight of the critic; 0: none is trained, as in BackdoorBox's settings, where it has 0.5
    otherwise
    """
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """of forward and backward passes; on a CPU bf16 is faster, but PyTorch 2.11 gets gradients of
    the decoder's last layer wrong there where images have 16 pixels a side
    """

    @model_validator(mode="after")
    def _counts_epochs(self) -> Self:
        if self.secret_epochs > self.epochs:
            raise ValueError(
                f"secret_epochs {self.secret_epochs} are more than "
                f"the {self.epochs} epochs there are"
            )
        return self

    def compatible(self, context: Context) -> str | None:
        """Refuse images that cannot be halved four times, as the encoder does."""
        height, width = self.sides(context.task)
        if height % MULTIPLE == 0 and width % MULTIPLE == 0:
            return None
        larger = -(-max(height, width) // MULTIPLE) * MULTIPLE
        return (
            f"images of {height} x {width} cannot be halved four times: "
            f'set encoder = {{name = "steganography", resolution = {larger}}}'
        )

    def sides(self, task: Task) -> tuple[int, int]:
        """Return height and width at which images are encoded."""
        if self.resolution is None:
            return task.height, task.width
        return self.resolution, self.resolution

    def encoder(self, task: Task) -> StegaStampEncoder:
        """Make a freshly initialised encoder."""
        height, width = self.sides(task)
        return StegaStampEncoder(task.channels, height, width, self.bits, self.padding)

    def build(self, task: Task, model: nn.Module | None) -> Pair:
        """Make an encoder and a decoder."""
        height, width = self.sides(task)
        encoder = self.encoder(task)
        decoder = StegaStampDecoder(task.channels, height, width, self.bits, self.padding)
        return Pair(encoder, decoder)

    def make(self, access: PartAccess) -> nn.Module:
        """Train both, and the critic if there is one."""
        data = access.train().unlabelled()
        critic = None
        with global_random(access.seed("weights")):
            pair = self.build(access.task, None)
            pair.initialise()
            if self.critic:
                critic = Critic(access.task.channels, self.padding)
                critic.to(access.device)
        bits = self._bits(access, len(data))
        loss = Loss(self, critic, bits, self.sides(access.task))
        access.fit(pair, data, self._recipe(access), loss=loss, **judged(critic))
        return pair

    def _bits(self, access: PartAccess, count: int) -> Callable[[Batch], Tensor]:
        """Return the function that gives a batch its bits, floats 0 or 1 (b, bits)."""
        drawing = access.generator("bits")

        def draw(images: int) -> Tensor:
            return torch.randint(2, (images, self.bits), generator=drawing).float()

        def fresh(batch: Batch) -> Tensor:
            bits = draw(len(batch.images))
            return bits.to(batch.images.device, non_blocking=True)

        if self.secrets == "fresh":
            return fresh
        table = draw(count)

        def fixed(batch: Batch) -> Tensor:
            bits = table[batch.indices]
            return bits.to(batch.images.device, non_blocking=True)

        return fixed

    def _recipe(self, access: PartAccess) -> Recipe:
        return Recipe(
            epochs=self.epochs,
            batch=self.batch,
            optimizer="adam",
            lr=self.lr,
            weight_decay=0.0,
            precision=self.precision,
            deterministic=access.numerics["deterministic"],
        )


@dataclass(frozen=True)
class Loss:
    """The `loss` hook of `fit`."""

    part: Steganography
    critic: Critic | None
    bits: Callable[[Batch], Tensor]
    """gives a batch the bits that it hides"""
    sides: tuple[int, int]
    """height and width at which it hides them"""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the loss: of the bits alone at first, then of all terms."""
        part = self.part
        images = resized(batch.images, self.sides)
        bits = self.bits(batch)
        residual, encoded, logits = model(images, bits)
        reading = functional.binary_cross_entropy_with_logits(logits.float(), bits)
        if batch.epoch < part.secret_epochs:
            return reading
        total = part.bce * reading
        total = total + visibility(images, encoded, residual, part.l2, part.ssim)
        if self.critic is None:
            return total
        return total + opinion(self.critic, images, encoded, part.critic)


def visibility(images: Tensor, encoded: Tensor, residual: Tensor, l2: float, ssim: float) -> Tensor:
    """Add l2 times the mean squared residual and ssim times 1 - SSIM, in single precision."""
    # SSIM takes small differences of large numbers
    with torch.autocast(images.device.type, enabled=False):
        alike = similarity(encoded.float(), images.float()).mean()
        squared = residual.float().square().mean()
        return l2 * squared + ssim * (1 - alike)


def opinion(critic: Critic, images: Tensor, encoded: Tensor, weight: float) -> Tensor:
    """Add the losses of encoder, weight C(encoded), and critic, C(plain) - C(encoded).

    Each half hands its gradient to one of the two only, so that one backward pass serves both.
    """
    critic.requires_grad_(False)
    suspicion = critic(encoded)
    critic.requires_grad_(True)
    difference = critic(images) - critic(encoded.detach())
    return cast(Tensor, weight * suspicion.float() + difference.float())


def judged(critic: Critic | None) -> dict[str, Any]:
    """Return settings of `fit` for the critic: its optimiser, and a bound on its weights.

    The bound is kept after each step. RMSprop is Adam without momentum, up to a correction in the
    first steps.
    """
    if critic is None:
        return {}

    @torch.no_grad()
    def bound(batch: Batch) -> None:
        for parameter in critic.parameters():
            parameter.clamp_(-CRITIC_BOUND, CRITIC_BOUND)

    rates = {"lr": CRITIC_RATE, "betas": (0.0, CRITIC_SMOOTHING)}
    trained = Extra(critic.parameters(), rates)
    return {"extra": [trained], "after_step": bound}


def resized(images: Tensor, sides: tuple[int, int], antialias: bool = True) -> Tensor:
    """Resize images bilinearly; they are returned themselves where they have that size.

    `antialias` smooths them, which matters where they shrink.
    """
    if tuple(images.shape[2:]) == sides:
        return images
    return functional.interpolate(
        images, sides, mode="bilinear", align_corners=False, antialias=antialias
    )
