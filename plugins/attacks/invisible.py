"""The invisible attack: a steganographic encoder hides one string in every poisoned image, in each
differently.

Li et al., ICCV 2021 (ISSBA): the encoder makes the trigger specific to the image, the string makes
it the same to the victim. Their encoder, trained on pictures of 224 x 224, is not available, so the
part `steganography` trains one on the attacker's own clean images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self, cast

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from harness import AttackAccess, Context, Part, PoisoningAttack, Reference, Task, Use, use
from harness.learn import to_float, to_uint8
from plugins.parts.bch import parity
from plugins.parts.steganography import Steganography, resized
from plugins.parts.stegastamp import Pair, StegaStampEncoder

LETTERS = 7
"""Bytes of the official text, filled up with spaces."""
PACKET = 100
"""Bits of the packet that the text becomes."""
PRIMITIVE = 137
"""Primitive polynomial of the official BCH code."""
ERRORS = 5
"""Misread bits that the code corrects in 56 bits of text."""
CHUNK = 1 << 20
"""Pixels that are encoded at once: 1024 images of 32 x 32, 20 of 224 x 224."""
WITNESSES = 500
"""Training images on which the trigger is measured."""
OFFICIAL: Mapping[str, Any] = {
    "secret": "a",
    "encoder": {
        "name": "steganography",
        "bits": PACKET,
        "resolution": 224,
        "padding": "same",
        "secrets": "fresh",
    },
}


class Invisible(PoisoningAttack):
    """Fixed string, hidden in each image differently by a steganographic encoder (Li et al. 2021).

    By default as BackdoorBox has it: images are encoded at their own size, with bits drawn for the
    replicate. The official code and the toolbox behind DECK encode at 224 x 224, the latter small
    images blown up and shrunk again. Training an encoder of that size needs a GPU; `encoder = {name
    = "steganography", preset = "fast"}` takes minutes on a CPU.
    """

    citation = "Li et al.: Invisible Backdoor Attack with Sample-Specific Triggers, ICCV 2021"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "backdoorbox": {"poison_rate": 0.05},
        "issba": {**OFFICIAL, "poison_rate": 0.1, "add": True},
        "deck": {
            **OFFICIAL,
            "poison_rate": 0.1,
            "rate_of": "eligible",
            "eligible": "non-target",
            "when": "after-augment",
            "quantise": "none",
        },
    }

    encoder: Use[Part] = use("steganography")
    """the part `steganography` and its settings, among them `resolution`, at which images are
    encoded
    """
    secret: Annotated[str, Field(max_length=LETTERS)] | None = None
    """text to hide, up to 7 ASCII letters, as an error-correcting packet of 100 bits; official: the
    target's letter; none: bits drawn for the replicate
    """
    antialias: bool = False
    """smooth when encoded images are shrunk to their size again; DECK's toolbox did not at its time
    """

    @model_validator(mode="after")
    def _knows_its_encoder(self) -> Self:
        name = self._chosen.name
        if name != "steganography":
            raise ValueError(
                f"encoder must be the part steganography: of {name} no structure is known"
            )
        if self.secret is not None and not self.secret.isascii():
            raise ValueError(f"secret must be ASCII, one byte for each letter, not {self.secret!r}")
        try:
            bits = self._hiding().bits
        except (ValidationError, KeyError):
            return self  # the part's own check says it better
        if self.secret is not None and bits != PACKET:
            raise ValueError(
                f"secret makes {PACKET} bits, but the encoder hides {bits}: "
                f'set encoder = {{name = "steganography", bits = {PACKET}}}'
            )
        return self

    @property
    def _chosen(self) -> Reference:
        return cast(Reference, self.encoder)

    def _hiding(self) -> Steganography:
        """Return the part with its settings: the trigger has its encoder's structure, and must be
        built before the part is trained.
        """
        params: dict[str, Any] = {}
        if self._chosen.preset:
            params.update(Steganography.presets[self._chosen.preset])
        params.update(self._chosen.params)
        return Steganography.model_validate_json(json.dumps(params))

    def compatible(self, context: Context) -> str | None:
        """Refuse images that do not suit the encoder."""
        refusal = self._hiding().compatible(context)
        if refusal:
            return refusal
        return super().compatible(context)

    def trigger(self, task: Task) -> nn.Module:
        """Return the encoder with its secret; `craft` fills both."""
        part = self._hiding()
        return Hidden(part.encoder(task), part.bits, part.sides(task), self.antialias)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Copy the trained encoder, choose the bits, and record how visible and how readable they
        are.
        """
        assert isinstance(trigger, Hidden)
        pair = access.part("encoder")
        assert isinstance(pair, Pair)
        trigger.encoder.load_state_dict(pair.encoder.state_dict())
        trigger.secret.copy_(self._bits(access))
        order = torch.randperm(len(access.train), generator=access.generator("witnesses"))
        witnesses = access.train.images[order[:WITNESSES]].to(access.device)
        access.record.update(measured(trigger, pair, to_float(witnesses)))

    def _bits(self, access: AttackAccess) -> Tensor:
        """Return the bits to hide, floats (bits,)."""
        if self.secret is not None:
            return packet(self.secret)
        shape = (self._hiding().bits,)
        drawn = torch.randint(2, shape, generator=access.generator("secret"))
        return drawn.float()


class Hidden(nn.Module):
    """x' = clip(x + residual(x, secret)), at the encoder's size and back at the image's own."""

    secret: Tensor

    def __init__(
        self, encoder: StegaStampEncoder, bits: int, sides: tuple[int, int], antialias: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.sides = sides
        self.antialias = antialias
        self.register_buffer("secret", torch.zeros(bits))

    def forward(self, images: Tensor) -> Tensor:
        """Stamp images: [0,1] NCHW in and out."""
        size = (images.shape[2], images.shape[3])
        return resized(self.encode(images), size, self.antialias)

    def encode(self, images: Tensor) -> Tensor:
        """Return the encoded images, at the encoder's size."""
        pixels = self.sides[0] * self.sides[1]
        count = max(1, CHUNK // pixels)
        encoded: list[Tensor] = []
        for part in torch.split(images, count):
            enlarged = resized(part, self.sides)
            residual = self.encoder(enlarged, self.secret)
            encoded.append((enlarged + residual).clamp(0, 1))
        return torch.cat(encoded)


def packet(text: str) -> Tensor:
    """Return the official 100 bits of a text, floats: 7 bytes, 5 of parity, the first bit of a byte
    first, and four zeros.
    """
    message = text.ljust(LETTERS).encode("ascii")
    coded = message + parity(message, PRIMITIVE, ERRORS)
    bits: list[int] = []
    for byte in coded:
        bits += [byte >> place & 1 for place in range(7, -1, -1)]
    bits += [0] * (PACKET - len(bits))
    return torch.tensor(bits, dtype=torch.float32)


@torch.no_grad()
def measured(trigger: Hidden, pair: Pair, images: Tensor) -> dict[str, float]:
    """Return how a trigger changes images, in grey levels of 0..255 and dB, and the share of bits
    read from stored pixels.
    """
    change = 255 * (trigger(images) - images)
    squared = (change / 255).square().mean((1, 2, 3))
    # 100 dB at most: an image that is not changed would have infinitely many
    logarithms = squared.clamp_min(1e-10).log10()
    stored = to_float(to_uint8(trigger.encode(images)))
    read = pair.decoder(stored) > 0
    right = read == (trigger.secret > 0.5)
    return {
        "mean_change": float(change.abs().mean()),
        "max_change": float(change.abs().max()),
        "psnr": float(-10 * logarithms.mean()),
        "bits_read": float(right.float().mean()),
    }
