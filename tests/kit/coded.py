"""A tiny encoder and decoder, and a search for pervasive backdoors with them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import nn

from harness.access.granted import MetricAccess, PartAccess
from harness.learn.images import ImageSet
from plugins.parts.codec import Codec
from plugins.parts.deck_decoder import DeckDecoder
from plugins.parts.pervasive_backdoors import Pervasive, Toned
from plugins.parts.pervasive_search import Lot, Search
from plugins.parts.pervasive_settings import PervasiveSettings
from tests.kit.learned import pictures, stage_context, task_of, trained


def made(part: DeckDecoder, data: ImageSet | None = None) -> tuple[Codec, PartAccess]:
    """Return what a part makes of pictures of 8 x 8 pixels, and its access."""
    data = pictures(120) if data is None else data
    around = replace(
        stage_context(stage="part"), task=task_of(data), parts={"pictures": lambda: data}
    )
    access = PartAccess(around, frozenset(), {})
    module = part.make(access)
    assert isinstance(module, Codec)
    return module, access


@cache
def tiny_codec(**settings: Any) -> Codec:
    """Return an encoder with a decoder that has learned the pictures."""
    part = DeckDecoder(count=100, batch=20, epochs=15, lr=5e-3, encoder_epochs=2, **settings)
    codec, _ = made(part)
    return codec


@cache
def tiny_victim() -> nn.Module:
    """Return a network that knows the pictures."""
    return trained().eval().requires_grad_(False)


def search(
    pairs: list[tuple[int, int]],
    settings: PervasiveSettings,
    kind: str = "deck",
    count: int = 10,
    net: nn.Module | None = None,
) -> Search:
    """Return a search among the three classes of the pictures."""
    codec = tiny_codec()
    lot = tiny_lot(codec, count)
    access = MetricAccess(stage_context(stage="measure"), frozenset(), {})
    backdoor: Any = Toned(settings)
    if kind == "deck":
        backdoor = Pervasive(settings, codec, (4, 4))
    net = tiny_victim() if net is None else net
    return Search(access, net, codec, settings, backdoor, lot, pairs, "search")


def tiny_lot(codec: Codec, count: int, first: int = 0) -> Lot:
    """Return pictures of each of three classes, from the `first` on."""
    data = pictures(120, 60)
    assert data.labels is not None
    images = [data.images[data.labels == label][first : first + count] for label in range(3)]
    return Lot.of(torch.stack(images), codec.encoder, 1000)
