"""The invisible attack: a steganographic encoder hides one string in every poisoned image, in each
differently.

Li et al., ICCV 2021 (ISSBA): the encoder makes the trigger specific to the image, the string makes
it the same to the victim. Their encoder, trained on pictures of 224 x 224, is not to be had, so the
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
from plugins.parts.stegastamp import Encoder, Pair

LETTERS, PACKET = 7, 100
"""Bytes of the official text, filled up with spaces, and bits of the packet it becomes."""
PRIMITIVE, ERRORS = 137, 5
"""Of the official BCH code: 56 bits of text bear 5 misread ones."""
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
    """Fixed string hidden by a steganographic encoder, invisible and different in each image (Li et
    al. 2021).

    By default as BackdoorBox has it: images are encoded as they are, with bits drawn for the
    replicate. The official code and the toolbox behind DECK encode at 224 x 224, the latter small
    images blown up and shrunk again. Training an encoder of that size wants a GPU; `encoder = {name
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
        if self._chosen.name != "steganography":
            raise ValueError(
                f"encoder must be the part steganography: of {self._chosen.name} no structure is known"
            )
        if self.secret is not None and not self.secret.isascii():
            raise ValueError(f"secret must be ASCII, a byte a letter, not {self.secret!r}")
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
        """The part as it is set: the trigger has its encoder's structure, and must be built without
        it.
        """
        preset = Steganography.presets[self._chosen.preset] if self._chosen.preset else {}
        return Steganography.model_validate_json(json.dumps({**preset, **self._chosen.params}))

    def compatible(self, context: Context) -> str | None:
        """Images must suit the encoder."""
        return self._hiding().compatible(context) or super().compatible(context)

    def trigger(self, task: Task) -> nn.Module:
        """The encoder with its secret; `craft` fills both."""
        part = self._hiding()
        return Hidden(part.encoder(task), part.bits, part.sides(task), self.antialias)

    def craft(self, access: AttackAccess, trigger: nn.Module) -> None:
        """Copy the trained encoder, choose the bits, and note how visible and how readable they
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
        if self.secret is not None:
            return packet(self.secret)
        return torch.randint(
            2, (self._hiding().bits,), generator=access.generator("secret")
        ).float()


class Hidden(nn.Module):
    """x' = clip(x + residual(x, secret)), at the encoder's size and back at the image's own."""

    secret: Tensor

    def __init__(
        self, encoder: Encoder, bits: int, sides: tuple[int, int], antialias: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.sides, self.antialias = sides, antialias
        self.register_buffer("secret", torch.zeros(bits))

    def forward(self, images: Tensor) -> Tensor:
        """[0,1] NCHW in and out."""
        return resized(self.encode(images), (images.shape[2], images.shape[3]), self.antialias)

    def encode(self, images: Tensor) -> Tensor:
        """The encoded images, at the encoder's size."""
        parts = torch.split(images, max(1, CHUNK // (self.sides[0] * self.sides[1])))
        return torch.cat([self._encoded(resized(part, self.sides)) for part in parts])

    def _encoded(self, images: Tensor) -> Tensor:
        return cast(Tensor, (images + self.encoder(images, self.secret)).clamp(0, 1))


def packet(text: str) -> Tensor:
    """The official 100 bits of a text, floats: 7 bytes, 5 of parity, the first bit of a byte first,
    and four zeros.
    """
    message = text.ljust(LETTERS).encode("ascii")
    coded = message + parity(message, PRIMITIVE, ERRORS)
    bits = [byte >> place & 1 for byte in coded for place in range(7, -1, -1)]
    return torch.tensor([*bits, *(0 for _ in range(PACKET - len(bits)))], dtype=torch.float32)


@torch.no_grad()
def measured(trigger: Hidden, pair: Pair, images: Tensor) -> dict[str, float]:
    """How a trigger changes images, in grey levels of 0..255 and dB, and the share of bits read
    from stored pixels.
    """
    change = 255 * (trigger(images) - images)
    squared = (change / 255).square().mean((1, 2, 3))
    stored = to_float(to_uint8(trigger.encode(images)))
    right = (pair.decoder(stored) > 0) == (trigger.secret > 0.5)
    return {
        "mean_change": float(change.abs().mean()),
        "max_change": float(change.abs().max()),
        "psnr": float(-10 * squared.clamp_min(1e-10).log10().mean()),
        "bits_read": float(right.float().mean()),
    }
