from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plugins.parts.codec import Codec
from plugins.parts.upsampling import back_in_place, nearest, places_of, spread

pytestmark = pytest.mark.usefixtures("one_thread")


def codec(layer: Any = "pool1", upsampling: Any = "random", kernel: int = 3) -> Codec:
    torch.manual_seed(0)
    made = Codec(layer, 3, upsampling, kernel).eval().requires_grad_(False)
    levels = 255 * torch.rand(4, 3, 8, 8)
    _, taken = made.encoder.watched(levels)
    made.decoder.measure(taken, 0.5)
    return made


def restated(made: Codec, features: Tensor, drawn: list[Tensor], taken: list[Tensor]) -> Tensor:
    """The decoder as the paper draws it: upsample to a full map, then transposed convolutions."""
    decoder = made.decoder
    values = features / decoder.unit
    for number in range(len(decoder.widths)):
        if decoder.upsampling == "nearest":
            whole = nearest(values)
        elif decoder.upsampling == "swwae":
            whole = back_in_place(values, places_of(taken[-1 - number]))
        else:
            height, width = values.shape[2:]
            others = torch.zeros(*values.shape[:2], 2 * height, 2 * width)
            if drawn:
                others = drawn[number] / decoder.unit
            whole = spread(values, others)
        first, second = decoder.convolutions[2 * number : 2 * number + 2]
        values = second(functional.relu(first(whole)))
        if number < len(decoder.widths) - 1:
            values = functional.relu(values)
    return 127.5 * values + 127.5


@pytest.mark.parametrize("upsampling", ["random", "zero", "nearest", "swwae"])
@pytest.mark.parametrize(("layer", "kernel"), [("pool1", 3), ("pool2", 3), ("pool1", 9)])
def test_the_decoder_restated(upsampling: str, layer: str, kernel: int) -> None:
    made = codec(layer, upsampling, kernel)
    levels = 255 * torch.rand(5, 3, 8, 12)
    features, taken = made.encoder.watched(levels)
    drawn = made.draws(levels, torch.Generator().manual_seed(3))
    assert len(drawn) == (0 if upsampling != "random" else len(made.decoder.widths))
    expected = restated(made, features, drawn, taken)
    decoded = made.decoder(features, made.decoder.responses(drawn), made.places(taken))
    torch.testing.assert_close(decoded, expected, rtol=1e-4, atol=1e-3)
    again = made(levels, torch.Generator().manual_seed(3))
    torch.testing.assert_close(again, decoded, rtol=1e-4, atol=1e-3)
    assert decoded.shape == levels.shape


def test_groups_of_pictures_share_the_draws() -> None:
    made = codec()
    levels = 255 * torch.rand(6, 3, 8, 8)
    features = made.encoder(levels)
    responses = made.decoder.responses(made.draws(levels[:2], torch.Generator().manual_seed(1)))
    together = made.decoder(features, responses)
    for start in (0, 2, 4):
        alone = made.decoder(features[start : start + 2], responses)
        torch.testing.assert_close(together[start : start + 2], alone, rtol=1e-4, atol=1e-3)


def test_draws_are_measured_on_what_poolings_take() -> None:
    made = codec("pool2")
    levels = 255 * torch.rand(9, 3, 8, 8)
    _, taken = made.encoder.watched(levels)
    made.decoder.measure(taken, 0.25)
    first = taken[0].double().std((0, 2, 3), correction=0)
    second = taken[1].double().std((0, 2, 3), correction=0)
    # the decoder undoes the second pooling first
    torch.testing.assert_close(made.decoder.get_buffer("sigma0").double(), 0.25 * second)
    torch.testing.assert_close(made.decoder.get_buffer("sigma1").double(), 0.25 * first)
    assert float(made.decoder.unit) == pytest.approx(float(second.mean()))
