from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from harness import Context, Task
from harness.learn.hooks import Batch
from harness.learn.images import to_float, to_uint8
from harness.learn.recipes import Recipe
from plugins.parts.steganography import Loss, Steganography, judged, opinion, resized, visibility
from plugins.parts.stegastamp import Critic, Pair, StegaStampDecoder, StegaStampEncoder
from tests.kit.hiding import SMALL, access_to, hiding_pair
from tests.kit.learned import pictures
from tests.kit.oracles import oracle

pytestmark = pytest.mark.usefixtures("one_thread")

CIFAR = Task("any", classes=10, height=32, width=32, channels=3, train_count=10)


def number_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def filled(module: nn.Module) -> nn.Module:
    """The seeded weights that the recorded residuals were made with."""
    with torch.no_grad():
        for place, value in enumerate(module.state_dict().values()):
            drawn = (
                np.random.default_rng(1000 + place)
                .standard_normal(value.numel())
                .reshape(value.shape)
            )
            scale = np.sqrt(2 * len(value) / value.numel()) if value.ndim > 1 else 0.1
            value.copy_(torch.from_numpy((scale * drawn).astype(np.float32)))
    return module


# --- networks -------------------------------------------------------------------------------------


def test_the_published_numbers_of_parameters() -> None:
    pair = Steganography().build(CIFAR, None)
    assert number_of(pair.encoder) == 1_047_011
    assert number_of(pair.decoder) == 756_538


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["rand", "smooth"])
def test_residuals_as_the_published_port_makes_them(kind: str) -> None:
    recorded, inputs = oracle("attacks/issba"), oracle("attacks/inputs")
    encoder = filled(StegaStampEncoder(3, 32, 32, 20, "port"))
    shapes = [",".join(map(str, value.shape)) for value in encoder.state_dict().values()]
    assert shapes == [entry.split(":")[1] for entry in recorded["enc_state_order"]]
    decoder = StegaStampDecoder(3, 32, 32, 20, "port")
    assert (number_of(encoder), number_of(decoder)) == (
        recorded["enc_params"],
        recorded["dec_params"],
    )
    images = torch.from_numpy(inputs[f"x_{kind}"]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        found = encoder(images, torch.from_numpy(recorded["secret20"]))
    np.testing.assert_allclose(found, recorded[f"enc_residual_{kind}"], atol=1e-4)


def test_one_secret_serves_all_images() -> None:
    encoder, images, bits = (
        StegaStampEncoder(1, 16, 16, 3, "same"),
        torch.rand(4, 1, 16, 16),
        torch.tensor([0.0, 1.0, 1.0]),
    )
    torch.testing.assert_close(encoder(images, bits), encoder(images, bits.expand(4, -1)))
    assert not torch.allclose(encoder(images, bits), encoder(images, 1 - bits))


def test_the_decoder_restated() -> None:
    """The image, moved by a guessed affine map (at first none), through seven convolutions and two
    dense layers.
    """
    torch.manual_seed(0)
    decoder, images = StegaStampDecoder(1, 16, 32, 5, "port"), torch.rand(3, 1, 16, 32)
    value = images - 0.5
    for place, stride in zip(range(0, 14, 2), (2, 1, 2, 1, 2, 2, 2), strict=True):
        layer = decoder.look[place]
        value = functional.conv2d(value, layer.weight, layer.bias, stride, padding=1).relu()
    first, _, last = decoder.read
    dense = functional.linear(value.flatten(1), first.weight, first.bias).relu()
    expected = functional.linear(dense, last.weight, last.bias)
    torch.testing.assert_close(decoder(images), expected, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        decoder.affine.bias.copy_(torch.tensor([1.0, 0, 0, 0, -1, 0]))
    upside_down = decoder(images.flip(2))
    torch.testing.assert_close(upside_down, expected, atol=1e-5, rtol=1e-4)


def test_the_pair_clips_what_it_reads() -> None:
    pair = Pair(StegaStampEncoder(1, 16, 16, 2, "port"), StegaStampDecoder(1, 16, 16, 2, "port"))
    pair.initialise()
    images, bits = torch.rand(2, 1, 16, 16).round(), torch.ones(2, 2)
    residual, encoded, logits = pair(images, bits)
    assert torch.equal(encoded, (images + residual).clamp(0, 1))
    assert torch.equal(logits, pair.decoder(encoded))
    assert torch.equal(pair.decoder.affine.bias.detach(), torch.tensor([1.0, 0, 0, 0, 1, 0]))


# --- losses ---------------------------------------------------------------------------------------


def similarity(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM of one channel: Gaussian window of 11 pixels and deviation 1.5, where it lies within the
    image.
    """
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            a, b = (image[row : row + 11, column : column + 11] for image in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            spread_a, spread_b = (
                (window * (a - mean_a) ** 2).sum(),
                (window * (b - mean_b) ** 2).sum(),
            )
            common = (window * (a - mean_a) * (b - mean_b)).sum()
            bright = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
            values.append(bright * (2 * common + 9e-4) / (spread_a + spread_b + 9e-4))
    return float(np.mean(values))


def test_visibility_restated() -> None:
    torch.manual_seed(0)
    images, residual = torch.rand(2, 3, 16, 16), 0.1 * torch.randn(2, 3, 16, 16)
    encoded = (images + residual).clamp(0, 1)
    alike = np.mean(
        [
            similarity(x, y)
            for x, y in zip(
                images.flatten(0, 1).numpy(), encoded.flatten(0, 1).numpy(), strict=True
            )
        ]
    )
    expected = 2.0 * float((residual**2).mean()) + 1.5 * (1 - alike)
    assert float(visibility(images, encoded, residual, 2.0, 1.5)) == pytest.approx(
        expected, abs=1e-5
    )


def test_one_backward_pass_serves_encoder_and_critic() -> None:
    torch.manual_seed(0)
    critic, images = Critic(1, "port").double(), torch.rand(3, 1, 16, 16, dtype=torch.float64)
    encoded = torch.rand(3, 1, 16, 16, dtype=torch.float64).requires_grad_()
    opinion(critic, images, encoded, 0.5).backward()
    (wanted,) = torch.autograd.grad(0.5 * critic(encoded), [encoded])
    torch.testing.assert_close(encoded.grad, wanted)
    apart = torch.autograd.grad(
        critic(images) - critic(encoded.detach()), list(critic.parameters())
    )
    for parameter, gradient in zip(critic.parameters(), apart, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_the_critic_is_bounded_after_each_step() -> None:
    critic = Critic(3, "port")
    settings = judged(critic)
    settings["after_step"](Batch(torch.rand(1, 3, 16, 16), None, torch.arange(1), 0, 0))
    assert max(float(parameter.detach().abs().max()) for parameter in critic.parameters()) <= 0.01
    assert judged(None) == {}


class Fixed(Pair):
    """A pair whose answers are known."""

    def forward(self, images: Tensor, bits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        residual = 0.1 * torch.ones_like(images)
        return residual, (images + residual).clamp(0, 1), 2 * bits - 1


@pytest.mark.parametrize(("epoch", "all_terms"), [(1, False), (2, True)])
def test_bits_alone_count_at_first(epoch: int, all_terms: bool) -> None:
    part, images = Steganography(), torch.rand(2, 1, 16, 16)
    bits = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    pair = Fixed(StegaStampEncoder(1, 16, 16, 2, "port"), StegaStampDecoder(1, 16, 16, 2, "port"))
    found = Loss(part, None, lambda batch: bits, (16, 16))(
        pair, Batch(images, None, torch.arange(2), epoch, 0)
    )
    read = float(np.log(1 + np.exp(-1)))
    if all_terms:
        seen = visibility(
            images, (images + 0.1).clamp(0, 1), torch.full_like(images, 0.1), 2.0, 1.5
        )
        read = 1.5 * read + float(seen)
    assert float(found) == pytest.approx(read, abs=1e-6)


def test_resizing_up_and_down_by_seven_without_smoothing_is_nothing() -> None:
    images = torch.rand(2, 3, 32, 32)
    assert resized(images, (32, 32)) is images
    large = resized(images, (224, 224))
    assert large.shape == (2, 3, 224, 224)
    torch.testing.assert_close(resized(large, (32, 32), antialias=False), images, atol=1e-5, rtol=0)
    assert not torch.allclose(resized(large, (32, 32), antialias=True), images, atol=1e-2)


# --- the part -------------------------------------------------------------------------------------


def test_bits_are_read_back_from_stored_pixels() -> None:
    pair, images = hiding_pair(), resized(to_float(pictures(90).images), (16, 16))
    bits = torch.randint(2, (90, 2), generator=torch.Generator().manual_seed(7)).float()
    with torch.no_grad():
        _, encoded, _ = pair(images, bits)
        stored = to_float(to_uint8(encoded))
        right = (pair.decoder(stored) > 0) == (bits > 0.5)
    assert float(right.float().mean()) > 0.85
    assert float((stored - images).abs().mean()) < 0.15


def test_training_repeats_and_leaves_torch_alone() -> None:
    state = torch.get_rng_state()
    part = Steganography(
        **{**SMALL, "secrets": "fixed", "epochs": 1, "secret_epochs": 0}, critic=0.5
    )
    first, second = (part.make(access_to(pictures(20))).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)


def test_fixed_secrets_belong_to_images_and_fresh_ones_do_not() -> None:
    batch = Batch(torch.rand(3, 1, 8, 8), None, torch.tensor([4, 1, 4]), 0, 0)
    fixed = Steganography(bits=30)._bits(access_to(pictures()), 30)
    assert torch.equal(fixed(batch), fixed(batch))
    assert torch.equal(fixed(batch)[0], fixed(batch)[2])
    fresh = Steganography(bits=30, secrets="fresh")._bits(access_to(pictures()), 30)
    assert not torch.equal(fresh(batch), fresh(batch))
    assert set(fresh(batch).unique().tolist()) == {0.0, 1.0}


def test_settings_that_cannot_be() -> None:
    for settings, reason in [
        ({"epochs": 2, "secret_epochs": 3}, "more than the 2 epochs"),
        ({"resolution": 40}, "multiple of 16"),
        ({"padding": "valid"}, "padding"),
    ]:
        with pytest.raises(ValidationError, match=reason):
            Steganography.model_validate_json(json.dumps(settings))


def test_sizes_that_cannot_be_halved_are_incompatible() -> None:
    task = Task("any", classes=10, height=28, width=28, channels=1, train_count=10)
    reason = Steganography().compatible(Context(task))
    assert reason is not None
    assert "resolution = 32" in reason
    assert Steganography(resolution=32).compatible(Context(task)) is None
    assert Steganography().compatible(Context(CIFAR)) is None


@pytest.mark.parametrize("asked", [False, True, "warn"])
def test_training_is_as_repeatable_as_the_grid_asks(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Recipe] = []
    access = access_to(pictures(20))
    access._context = replace(access._context, numerics={"deterministic": asked})
    monkeypatch.setattr(access, "fit", lambda pair, data, recipe, **hooks: seen.append(recipe))
    Steganography(**SMALL).make(access)
    assert [recipe.deterministic for recipe in seen] == [asked]
