from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from harness import Incompatible, Task
from harness.components import Context
from harness.learn.images import ImageSet
from plugins.parts.codec import Codec
from plugins.parts.deck_decoder import DeckDecoder, judged
from plugins.parts.similarity import similarity
from plugins.parts.vgg_block import TORCHVISION
from tests.kit.coded import made, tiny_codec
from tests.kit.learned import Tiny, pictures
from tests.kit.outside import cifar10_test, outside

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_decoder_learns_to_undo_the_encoder() -> None:
    few, _ = made(DeckDecoder(count=100, batch=20, epochs=1, encoder_epochs=2))
    many = tiny_codec()
    assert float(many.psnr) > float(few.psnr) + 1
    assert float(many.ssim) > float(few.ssim)
    assert float(many.psnr) > 12
    assert not any(parameter.requires_grad for parameter in many.parameters())


def test_what_is_reported_is_measured_on_pictures_that_were_held_out() -> None:
    data = pictures(120)
    codec, access = made(DeckDecoder(count=100, epochs=2, encoder_epochs=1, held_out=12), data)
    order = torch.randperm(120, generator=access.generator("pictures"))
    others = data.images[order[:12]]
    levels = others.permute(0, 3, 1, 2).float()
    with torch.no_grad():
        decoded = codec(levels, access.generator("judging")).clamp(0, 255)
    errors = (decoded - levels).double().square().mean((1, 2, 3))
    psnr = (10 * torch.log10(255**2 / errors)).mean()
    assert access.record["psnr"] == pytest.approx(float(psnr), rel=1e-4)
    assert access.record["ssim"] == pytest.approx(
        float(similarity(decoded, levels, 255.0).mean()), rel=1e-4
    )
    assert float(codec.psnr) == pytest.approx(access.record["psnr"], rel=1e-5)
    assert float(codec.ssim) == pytest.approx(access.record["ssim"], rel=1e-5)


def test_it_repeats_and_its_state_fits_what_is_built() -> None:
    part = DeckDecoder(count=30, epochs=1, encoder_epochs=1, layer="pool2", kernel=5)
    first, access = made(part)
    second, _ = made(part)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    built = part.build(access.task, None)
    built.load_state_dict(first.state_dict())
    levels = 255 * torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        here = first(levels, torch.Generator().manual_seed(1))
        there = built(levels, torch.Generator().manual_seed(1))
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-2)


def test_an_encoder_of_our_own_is_trained_on_labels_and_says_so() -> None:
    codec = tiny_codec()
    assert bool(codec.trained)
    assert DeckDecoder().stand_in
    assert not DeckDecoder(encoder="torchvision").stand_in
    mean = torch.tensor(TORCHVISION.mean).view(3, 1, 1)
    assert torch.equal(codec.encoder.mean, mean)
    # trained: not the features that it began with
    fresh = DeckDecoder().build(Tiny.task, None)
    levels = 255 * torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        assert not torch.allclose(fresh.encoder(levels), codec.encoder(levels), rtol=0.1)
    with pytest.raises(Incompatible, match="these pictures have none"):
        made(DeckDecoder(), pictures(60).unlabelled())
    with pytest.raises(Incompatible, match="there is one at most"):
        made(DeckDecoder(), pictures(1))


def test_torchvisions_weights_that_cannot_be_had_are_missed_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*args: Any, **settings: Any) -> None:
        raise OSError("no route to the server")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ValueError, match=r"no route to the server.*give a file of it as `weights`"):
        made(DeckDecoder(encoder="torchvision"))


def test_parameters_that_do_nothing_are_told() -> None:
    assert DeckDecoder().unused() == {}
    assert set(DeckDecoder(encoder="torchvision").unused()) == {"encoder_epochs"}
    assert set(DeckDecoder(upsampling="zero").unused()) == {"noise"}
    with pytest.raises(ValidationError, match="4 is even"):
        DeckDecoder(kernel=4)


def test_pictures_that_cannot_be_halved_are_refused() -> None:
    def reason(layer: Any, side: int) -> str | None:
        context = Context(task=Task("any", 3, side, side, 3, 10))
        return DeckDecoder(layer=layer).compatible(context)

    assert reason("pool1", 30) is None
    assert reason("pool2", 28) is None
    found = reason("pool2", 30)
    assert found is not None
    assert "30 x 30 pixels cannot be halved up to pool2, which takes multiples of 4" in found


@pytest.mark.real
def test_natural_pictures_are_undone_through_imagenets_layers() -> None:
    weights = outside("BENCH_MODELS", "vgg-block1.npz")
    images, _ = cifar10_test(1000)
    data = ImageSet((images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous())
    part = DeckDecoder(weights=weights, noise=0.1, epochs=1, count=600)
    codec, access = made(part, data)
    assert not part.stand_in
    assert not bool(codec.trained)
    assert access.record["psnr"] > 18
    psnr, ssim = judged(codec, data.images[:50], "cpu", torch.Generator().manual_seed(0))
    assert psnr > 18
    assert ssim > 0.5
    assert isinstance(codec, Codec)
