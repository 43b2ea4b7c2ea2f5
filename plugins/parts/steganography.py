"""A pair of networks that hide bits in a picture and read them again: StegaStamp's, as the
invisible attack uses them.

Tancik et al., CVPR 2020, in the small form of BackdoorBox: images of 32 x 32 and 20 bits. What
makes StegaStamp survive print and camera (warps, blur, JPEG in training) was left out by the attack
and is here.
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
from plugins.parts.similarity import similarity
from plugins.parts.stegastamp import Critic, Decoder, Encoder, Pair
from plugins.parts.unet import Padding

if TYPE_CHECKING:
    from harness import PartAccess

Weight = Annotated[float, Field(ge=0)]

MULTIPLE = 16
"""Sides must be a multiple of this: the encoder halves an image four times."""
CRITIC_RATE, CRITIC_SMOOTHING, CRITIC_BOUND = 1e-5, 0.9, 0.01
"""Learning rate and decay of the critic's RMSprop, and how far its weights may be from 0
(StegaStamp's code).
"""


class Steganography(Part):
    """Encoder that hides bits in an image, trained with the decoder that reads them (Tancik et al.
    2020).

    Loss: cross-entropy of the bits alone at first, then weighted with the square of the residual,
    the structural dissimilarity 1 - SSIM of image and encoded image, and a critic's opinion if
    asked. SSIM is our choice: the published loss has LPIPS there, a distance between features of a
    network that was trained on ImageNet. BackdoorBox also trains on test images; here the pair sees
    the training set only. All layers start as He et al. (2015) say, as StegaStamp's encoder does:
    from PyTorch's smaller weights hundreds of steps pass before a bit is read.
    """

    citation = "Tancik, Mildenhall, Ng: StegaStamp: Invisible Hyperlinks in Physical Photographs, CVPR 2020"
    needs: ClassVar[AbstractSet[str]] = frozenset({"train"})
    seeded = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "backdoorbox": {},
        # Our own, for 10,000 small images on a CPU. At a rate of 1e-3 residuals drown CIFAR-10 and
        # no bit is read.
        "fast": {"epochs": 5, "secret_epochs": 1, "lr": 3e-4, "secrets": "fresh"},
    }

    bits: Annotated[int, Field(ge=1)] = 20
    """length of what is hidden; 20 in StegaStamp's and BackdoorBox's code, 100 in the invisible
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
    epochs: Annotated[int, Field(ge=1)] = 20
    """passes over the training images"""
    secret_epochs: Annotated[int, Field(ge=0)] = 2
    """passes at the start in which only the bits count"""
    batch: Annotated[int, Field(ge=1)] = 32
    """images a step"""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """learning rate of Adam, constant"""
    l2: Weight = 2.0
    """weight of the mean squared residual"""
    ssim: Weight = 1.5
    """weight of 1 - SSIM; the published weight of LPIPS"""
    bce: Weight = 1.5
    """weight of the bits' cross-entropy, after the first passes"""
    critic: Weight = 0.0
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
                f"secret_epochs {self.secret_epochs} are more than the {self.epochs} epochs there are"
            )
        return self

    def compatible(self, context: Context) -> str | None:
        """The encoder halves images four times."""
        height, width = self.sides(context.task)
        if height % MULTIPLE or width % MULTIPLE:
            larger = -(-max(height, width) // MULTIPLE) * MULTIPLE
            return (
                f"images of {height} x {width} cannot be halved four times: "
                f'set encoder = {{name = "steganography", resolution = {larger}}}'
            )
        return None

    def sides(self, task: Task) -> tuple[int, int]:
        """Height and width at which images are encoded."""
        return (self.resolution, self.resolution) if self.resolution else (task.height, task.width)

    def encoder(self, task: Task) -> Encoder:
        """A freshly initialised encoder."""
        return Encoder(task.channels, *self.sides(task), self.bits, self.padding)

    def build(self, task: Task, model: nn.Module | None) -> Pair:
        """Encoder and decoder."""
        return Pair(
            self.encoder(task), Decoder(task.channels, *self.sides(task), self.bits, self.padding)
        )

    def make(self, access: PartAccess) -> nn.Module:
        """Train both, and the critic if there is one."""
        data = access.train().unlabelled()
        with global_random(access.seed("weights")):
            pair = self.build(access.task, None)
            pair.initialise()
            critic = (
                Critic(access.task.channels, self.padding).to(access.device)
                if self.critic
                else None
            )
        loss = Loss(self, critic, self._bits(access, len(data)), self.sides(access.task))
        access.fit(pair, data, self._recipe(), loss=loss, **judged(critic))
        return pair

    def _bits(self, access: PartAccess, count: int) -> Callable[[Batch], Tensor]:
        """What gives a batch its bits, floats 0 or 1 (b, bits)."""
        drawing = access.generator("bits")

        def draw(images: int) -> Tensor:
            return torch.randint(2, (images, self.bits), generator=drawing).float()

        if self.secrets == "fresh":
            return lambda batch: draw(len(batch.images)).to(batch.images.device, non_blocking=True)
        table = draw(count)
        return lambda batch: table[batch.indices].to(batch.images.device, non_blocking=True)

    def _recipe(self) -> Recipe:
        return Recipe(
            epochs=self.epochs,
            batch=self.batch,
            optimizer="adam",
            lr=self.lr,
            weight_decay=0.0,
            precision=self.precision,
        )


@dataclass(frozen=True)
class Loss:
    """The `loss` hook of `fit`. `bits` gives a batch what it hides; `sides` is the size at which it
    does.
    """

    part: Steganography
    critic: Critic | None
    bits: Callable[[Batch], Tensor]
    sides: tuple[int, int]

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Bits alone at first, then all terms."""
        images, bits = resized(batch.images, self.sides), self.bits(batch)
        residual, encoded, logits = model(images, bits)
        read = functional.binary_cross_entropy_with_logits(logits.float(), bits)
        if batch.epoch < self.part.secret_epochs:
            return read
        total = self.part.bce * read + visibility(
            images, encoded, residual, self.part.l2, self.part.ssim
        )
        return (
            total
            if self.critic is None
            else total + opinion(self.critic, images, encoded, self.part.critic)
        )


def visibility(images: Tensor, encoded: Tensor, residual: Tensor, l2: float, ssim: float) -> Tensor:
    """l2 times the mean squared residual, and ssim times 1 - SSIM, in single precision."""
    with torch.autocast(
        images.device.type, enabled=False
    ):  # SSIM takes small differences of large numbers
        alike = similarity(encoded.float(), images.float()).mean()
        return l2 * residual.float().square().mean() + ssim * (1 - alike)


def opinion(critic: Critic, images: Tensor, encoded: Tensor, weight: float) -> Tensor:
    """What the encoder minimises, weight C(encoded), and the critic, C(plain) - C(encoded): one sum
    for one backward.

    Each half hands its gradient to one of the two only.
    """
    critic.requires_grad_(False)
    fooled = critic(encoded)
    critic.requires_grad_(True)
    told_apart = critic(images) - critic(encoded.detach())
    return cast(Tensor, weight * fooled.float() + told_apart.float())


def judged(critic: Critic | None) -> dict[str, Any]:
    """What `fit` must know of the critic: its optimiser, and the bound on its weights after each
    step.

    RMSprop is Adam without momentum, up to a correction in the first steps.
    """
    if critic is None:
        return {}

    @torch.no_grad()
    def bound(batch: Batch) -> None:
        for parameter in critic.parameters():
            parameter.clamp_(-CRITIC_BOUND, CRITIC_BOUND)

    rates = {"lr": CRITIC_RATE, "betas": (0.0, CRITIC_SMOOTHING)}
    return {"extra": [Extra(critic.parameters(), rates)], "after_step": bound}


def resized(images: Tensor, sides: tuple[int, int], antialias: bool = True) -> Tensor:
    """Bilinear, and the images themselves where they have that size; smoothing matters where they
    shrink.
    """
    if tuple(images.shape[2:]) == sides:
        return images
    return functional.interpolate(
        images, sides, mode="bilinear", align_corners=False, antialias=antialias
    )
