"""DECK's encoder and decoder: an ImageNet network's first layers, and what undoes them.

Tao et al., NDSS 2024, section IV-A. The encoder f is fixed, and the decoder is trained once, on any
pictures, to

    min  MSE(x, f^-1(f(x)))

Pooling cannot be undone; what upsampling puts beside the pooled value is the paper's point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness import Context, Dataset, File, Incompatible, Part, PartAccess, Recipe, Task, Use, use
from harness.learn import Batch, ImageSet, global_random, to_float, together
from plugins.parts.codec import Codec
from plugins.parts.ranges import Count, NotNegative, Odd, Positive
from plugins.parts.similarity import similarity
from plugins.parts.upsampling import Upsampling
from plugins.parts.vgg_block import (
    LEVELS,
    TORCHVISION,
    Encoder,
    Layer,
    fill_encoder,
    read_encoder,
)

MEASURED = 512
"""Pictures on which the deviation of activations is measured."""
GRID = 4
"""Side of the map that the classifier behind an encoder of our own averages features to."""


class DeckDecoder(Part):
    """DECK's encoder, the first layers of an ImageNet VGG, and a decoder that undoes them.

    The paper trains the decoder on ImageNet; any pictures do, and the more natural the better: the
    default is drawn signs, which are always at hand. Give the encoder as a file, or let torchvision
    download it. With neither an encoder is trained to classify the same pictures: distances
    measured by it are no other's, and each row that stands on it is marked.
    """

    seeded = False
    citation = "Tao et al.: DECK - Model Hardening for Defending Pervasive Backdoors, NDSS 2024"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deck": {},
        # The author's later code: hardly any noise, and wide kernels for pictures of 32 pixels.
        "author": {"noise": 3e-4, "kernel": 9},
    }

    weights: File | None = None
    """a VGG without BatchNorm, .npz, .safetensors or a torch state, by the names of the original
    release (conv1_1.weight, ...) or torchvision's (features.0.weight, ...); none: see `encoder`
    """
    encoder: Literal["trained", "torchvision"] = "trained"
    """without a file: trained here on the labels of `pictures`, or torchvision's VGG-16, which is
    downloaded once (528 MB) to torch's cache
    """
    layer: Layer = "pool1"
    """pooling at which features are taken; the paper's ablation has pool2, the second, as well"""
    upsampling: Upsampling = "random"
    """what undoes a pooling: random, the paper's; zero, nearest and swwae are its ablation"""
    noise: NotNegative = 1.0
    """deviation of what random upsampling draws, as a multiple of that of the activations before
    the pooling, channel by channel, as the paper says; the author's later code has nearly 0
    """
    kernel: Odd = 3
    """side of the decoder's kernels, odd; the encoder's is 3, the author's later code has 9 for
    pictures of 32 pixels
    """
    pictures: Use[Dataset] = use("signs")
    """training pictures of this dataset, resized, are what it learns from"""
    count: Count = 10_000
    """pictures that are used, in a drawn order; of a smaller dataset all"""
    held_out: Count = 500
    """further pictures on which it is judged, at most a tenth"""
    epochs: Count = 2
    """passes of the decoder over them"""
    encoder_epochs: Count = 10
    """passes of an encoder that is trained here"""
    batch: Count = 8
    """pictures a step"""
    lr: Positive = 2e-3
    """highest learning rate of Adam, which falls to 0 along a cosine"""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """of forward and backward passes"""

    @property
    def stand_in(self) -> bool:
        """See `Part.stand_in`: an encoder of our own replaces an ImageNet network's."""
        return self.weights is None and self.encoder == "trained"

    def unused(self) -> Mapping[str, str]:
        """See `Component.unused`."""
        unused = dict(super().unused())
        if self.weights is not None:
            unused["encoder"] = "`weights` are the encoder"
        if self.weights is not None or self.encoder != "trained":
            unused["encoder_epochs"] = "no encoder is trained"
        if self.upsampling != "random":
            unused["noise"] = f'upsampling = "{self.upsampling}" draws nothing'
        return unused

    def compatible(self, context: Context) -> str | None:
        """Refuse pictures that poolings do not halve evenly."""
        shrinks = Encoder(self.layer).shrinks
        task = context.task
        if task.height % shrinks or task.width % shrinks:
            return (
                f"pictures of {task.height} x {task.width} pixels cannot be halved "
                f"up to {self.layer}, which takes multiples of {shrinks}"
            )
        return None

    def build(self, task: Task, model: nn.Module | None) -> Codec:
        """Make an encoder and a decoder."""
        with global_random(0):
            return Codec(self.layer, task.channels, self.upsampling, self.kernel)

    def make(self, access: PartAccess) -> nn.Module:
        """Fill or train the encoder, train the decoder, and judge it on held-out pictures."""
        everything: ImageSet = access.part("pictures")
        order = torch.randperm(len(everything), generator=access.generator("pictures"))
        held = max(1, min(self.held_out, len(order) // 10))
        ours = everything.subset(order[held : held + self.count])
        if len(ours) == 0:
            raise Incompatible("a decoder is trained on pictures, and there is one at most")
        with global_random(access.seed("weights")):
            codec = Codec(self.layer, access.task.channels, self.upsampling, self.kernel)
        codec.to(access.device)
        self._encoder(access, codec, ours)
        codec.encoder.requires_grad_(False)
        codec.decoder.measure(
            _taken(codec.encoder, ours.images[:MEASURED], access.device), self.noise
        )
        self._decoder(access, codec, ours.unlabelled())
        others = everything.images[order[:held]]
        psnr, ssim = judged(codec, others, access.device, access.generator("judging"))
        codec.psnr.fill_(psnr)
        codec.ssim.fill_(ssim)
        access.record.update(psnr=psnr, ssim=ssim)
        return codec.requires_grad_(False).eval()

    def shown(self, module: nn.Module, images: Tensor) -> Mapping[str, Tensor]:
        """Return the images decoded from their features, with what was measured on others."""
        assert isinstance(module, Codec)
        generator = torch.Generator(images.device).manual_seed(0)
        with torch.no_grad():
            decoded = module(images * LEVELS, generator) / LEVELS
        caption = f"decoded: PSNR {float(module.psnr):.1f} dB, SSIM {float(module.ssim):.3f}"
        return {caption: decoded.clamp(0, 1)}

    def _encoder(self, access: PartAccess, codec: Codec, data: ImageSet) -> None:
        if self.weights is not None:
            read_encoder(codec.encoder, self.weights)
        elif self.encoder == "torchvision":
            fill_encoder(codec.encoder, downloaded(), "torchvision's VGG-16")
        else:
            self._train_encoder(access, codec.encoder, data)
            codec.trained.fill_(True)
        codec.encoder.to(access.device)

    def _train_encoder(self, access: PartAccess, encoder: Encoder, data: ImageSet) -> None:
        """Train it below a small classifier, on inputs in torchvision's units."""
        if data.labels is None:
            raise Incompatible("an encoder is trained on labels, and these pictures have none")
        encoder.mean.copy_(torch.tensor(TORCHVISION.mean).view(3, 1, 1))
        encoder.std.copy_(torch.tensor(TORCHVISION.std).view(3, 1, 1))
        classes = int(data.labels.max()) + 1
        with global_random(access.seed("classifier")):
            classifier = Classifier(encoder, classes).to(access.device)
        access.fit(
            classifier,
            data,
            self._recipe(access, self.encoder_epochs),
            loss=_classification,
        )
        encoder.rescale()

    def _decoder(self, access: PartAccess, codec: Codec, data: ImageSet) -> None:
        draws = access.generator("noise")

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            levels = batch.images * LEVELS
            decoded = model(levels, draws)
            return functional.mse_loss(decoded.float() / LEVELS, batch.images)

        access.fit(codec, data, self._recipe(access, self.epochs), loss=loss)

    def _recipe(self, access: PartAccess, epochs: int) -> Recipe:
        return Recipe(
            epochs=epochs,
            batch=self.batch,
            optimizer="adam",
            lr=self.lr,
            weight_decay=0.0,
            schedule="cosine",
            update="step",
            precision=self.precision,
            deterministic=access.numerics["deterministic"],
        )


class Classifier(nn.Module):
    """What an encoder is trained below: its features, averaged to 4 x 4, and a linear layer."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.convolutions[-1].get_parameter("bias").shape[0]
        self.head = nn.Linear(width * GRID * GRID, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Turn [0,1] pictures into logits."""
        features = self.encoder(images * LEVELS)
        pooled = functional.adaptive_avg_pool2d(features, GRID)
        return self.head(pooled.flatten(1))  # type: ignore[no-any-return]


def _classification(model: nn.Module, batch: Batch) -> Tensor:
    assert batch.labels is not None
    return functional.cross_entropy(model(batch.images), batch.labels)


def downloaded() -> dict[str, Tensor]:
    """Return the state of torchvision's VGG-16, from torch's cache or its server."""
    from torchvision.models import VGG16_Weights

    try:
        state: dict[str, Tensor] = VGG16_Weights.IMAGENET1K_V1.get_state_dict(
            progress=False, check_hash=True
        )
    except OSError as error:
        raise ValueError(
            f"torchvision's VGG-16 cannot be downloaded ({error}): give a file of it as `weights`, "
            'or train an encoder with encoder = "trained"'
        ) from error
    return state


@torch.no_grad()
def _taken(encoder: Encoder, images: Tensor, device: str) -> list[Tensor]:
    """Return what the poolings took of uint8 pictures, on the CPU."""
    chunks: list[list[Tensor]] = []
    for chunk in torch.split(images, together(images, device)):
        _, taken = encoder.watched(to_float(chunk.to(device)) * LEVELS)
        chunks.append([values.cpu() for values in taken])
    return [torch.cat(maps) for maps in zip(*chunks, strict=True)]


@torch.no_grad()
def judged(
    codec: Codec, images: Tensor, device: str, generator: torch.Generator
) -> tuple[float, float]:
    """Return PSNR, in decibel, and SSIM of uint8 pictures that are encoded and decoded.

    Both are means over pictures of what is cut to 0..255.
    """
    decibels: list[Tensor] = []
    alike: list[Tensor] = []
    for chunk in torch.split(images, together(images, device)):
        levels = to_float(chunk.to(device)) * LEVELS
        decoded = codec(levels, generator).clamp(0, LEVELS)
        error = (decoded - levels).square().mean((1, 2, 3)).clamp(min=1e-10)
        decibels.append(20 * math.log10(LEVELS) - 10 * error.log10())
        alike.append(similarity(decoded, levels, LEVELS))
    return float(torch.cat(decibels).mean()), float(torch.cat(alike).mean())
