from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from plugins.parts.vgg_block import SCALE, Encoder, fill_encoder, read_encoder
from tests.kit.outside import cifar10_test, outside

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(names: tuple[str, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    shapes = ((64, 3), (64, 64), (128, 64), (128, 128))
    for name, (outputs, inputs) in zip(names, shapes, strict=False):
        weight = torch.randn(outputs, inputs, 3, 3, generator=generator) / (3 * inputs**0.5)
        state[f"{name}.weight"] = weight
        state[f"{name}.bias"] = torch.randn(outputs, generator=generator)
    return state


ORIGINAL = ("conv1_1", "conv1_2", "conv2_1", "conv2_2")
TORCHVISION = ("features.0", "features.2", "features.5", "features.7")


def restated(levels: Tensor, state: dict[str, Tensor], names: tuple[str, ...]) -> Tensor:
    """The network, layer by layer, on what its release takes."""
    if names[0] == "conv1_1":
        values = levels.flip(1) - torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)
    else:
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        values = (levels / 255 - mean) / std
    for number, name in enumerate(names):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        values = functional.conv2d(values, weight, bias, padding=1).clamp(min=0)
        if number % 2:
            values = functional.max_pool2d(values, 2)
    return values


@pytest.mark.parametrize("layer", ["pool1", "pool2"])
@pytest.mark.parametrize(("names", "times"), [(ORIGINAL, 1.0), (TORCHVISION, SCALE)])
def test_features_are_those_of_the_release(
    layer: str, names: tuple[str, ...], times: float
) -> None:
    state = drawn(names)
    encoder = Encoder(layer)  # type: ignore[arg-type]
    fill_encoder(encoder, {**state, "classifier.0.weight": torch.ones(1)}, "a file")
    levels = 255 * torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features = encoder(levels)
    own = names[:2] if layer == "pool1" else names
    expected = times * restated(levels, state, own)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-3 * times)
    assert features.shape[2:] == (8 // encoder.shrinks, 12 // encoder.shrinks)


def test_grey_pictures_are_of_three_equal_colours() -> None:
    encoder = Encoder("pool1")
    fill_encoder(encoder, drawn(ORIGINAL), "a file")
    grey = 255 * torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(encoder(grey), encoder(grey.repeat(1, 3, 1, 1)))


def test_a_file_that_is_no_vgg_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, stem=np.zeros(3))
    with pytest.raises(ValueError, match=r"other.npz: no first block of a VGG; conv1_1.weight or"):
        read_encoder(Encoder("pool1"), path)
    short = {name: array.numpy() for name, array in drawn(ORIGINAL[:2]).items()}
    np.savez(path, **short)
    read_encoder(Encoder("pool1"), path)
    with pytest.raises(ValueError, match=r"conv2_1.weight is to be \(128, 64, 3, 3\) finite"):
        read_encoder(Encoder("pool2"), path)
    short["conv1_1.bias"][3] = np.nan
    np.savez(path, **short)
    with pytest.raises(ValueError, match=r"conv1_1.bias is to be \(64,\) finite numbers"):
        read_encoder(Encoder("pool1"), path)


@pytest.mark.real
def test_the_released_weights_give_activations_of_the_size_that_is_known() -> None:
    """The deviation of activations before the pooling, over channels, is about 166."""
    encoder = Encoder("pool1")
    read_encoder(encoder, outside("BENCH_MODELS", "vgg-block1.npz"))
    images, _ = cifar10_test(200)
    with torch.no_grad():
        _, taken = encoder.watched(images * 255)
    assert float(taken[0].std((0, 2, 3)).mean()) == pytest.approx(166, rel=0.05)
