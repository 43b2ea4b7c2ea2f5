from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.learn.images import ImageSet, resize, to_float, to_uint8


def some(count: int, height: int = 6, width: int = 5, channels: int = 3, seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, height, width, channels)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.randint(10, (count,), generator=generator))


def test_every_level_survives_the_way_to_float_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    for quantise in ("truncate", "round"):
        assert torch.equal(to_uint8(to_float(levels), quantise), levels)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 100))
@settings(deadline=None, max_examples=100)
def test_truncation_is_that_of_the_exact_blend(pixel: int, pattern: int, percent: int) -> None:
    exact = ((100 - percent) * pixel + percent * pattern) // 100
    rounded = (2 * ((100 - percent) * pixel + percent * pattern) + 100) // 200
    a, b = (
        torch.tensor(value / 255, dtype=torch.float32).view(1, 1, 1, 1)
        for value in (pixel, pattern)
    )
    blend = (1 - percent / 100) * a + percent / 100 * b
    assert int(to_uint8(blend)) == exact
    assert abs(int(to_uint8(blend, "round")) - rounded) <= (
        ((100 - percent) * pixel + percent * pattern) % 100 == 50
    )


def test_conversion_moves_axes_and_clips() -> None:
    data = some(4)
    pixels = to_float(data.images)
    assert pixels.dtype == torch.float32
    assert pixels.shape == (4, 3, 6, 5)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(
        pixels[2, 1, 3].numpy(), data.images[2, 3, :, 1].numpy().astype(np.float32) / 255
    )
    wild = torch.tensor([-3.0, 0.0, 1.0, 7.0]).view(1, 1, 2, 2)
    assert to_uint8(wild).flatten().tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_set_survives_the_disk(tmp_path: Path, labelled: bool) -> None:
    data = some(7) if labelled else some(7).unlabelled()
    data.subset(torch.tensor([6, 0, 3])).save(tmp_path / "a.safetensors")
    again = ImageSet.load(tmp_path / "a.safetensors")
    assert torch.equal(again.images, data.images[[6, 0, 3]])
    if labelled:
        assert data.labels is not None
        assert again.labels is not None
        assert torch.equal(again.labels, data.labels[[6, 0, 3]])
    else:
        assert again.labels is None


def test_batches_cover_the_set_once() -> None:
    data = some(11)
    assert data.labels is not None
    plain = list(data.batches(4))
    assert [len(images) for images, _ in plain] == [4, 4, 3]
    assert torch.equal(torch.cat([images for images, _ in plain]), to_float(data.images))
    shuffled = list(data.batches(4, torch.Generator().manual_seed(3)))
    again = list(data.batches(4, torch.Generator().manual_seed(3)))
    order = torch.randperm(11, generator=torch.Generator().manual_seed(3))
    labels = [part for _, part in shuffled if part is not None]
    assert torch.equal(torch.cat(labels), data.labels[order])
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(shuffled, again, strict=True))
    assert all(labels is None for _, labels in data.unlabelled().batches(4))


def test_join_appends() -> None:
    joined = some(3).join(some(2, seed=1))
    assert len(joined) == 5
    assert torch.equal(joined.images[3:], some(2, seed=1).images)
    with pytest.raises(ValueError, match="labels"):
        some(3).join(some(2).unlabelled())


@pytest.mark.parametrize(
    ("images", "labels", "told"),
    [
        (torch.zeros(2, 4, 4, 3), None, "uint8"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), None, "1 or 3"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), None, "height"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"\(2,\)"),
        (torch.zeros(2, 4, 4, 3, dtype=torch.uint8), torch.zeros(2), "int64"),
    ],
)
def test_other_tensors_are_refused(
    images: torch.Tensor, labels: torch.Tensor | None, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        ImageSet(images, labels)


def test_resize_changes_size_and_channels() -> None:
    data = some(3, 8, 8)
    assert resize(data.images, 8, 8, 3) is data.images
    grey = resize(data.images, 8, 8, 1)
    weighted = (data.images.double() * torch.tensor([0.299, 0.587, 0.114]).double()).sum(
        -1, keepdim=True
    )
    assert (grey.double() - weighted).abs().max() <= 0.501
    colour = resize(grey, 8, 8, 3)
    assert torch.equal(colour, grey.expand(-1, -1, -1, 3))
    flat = torch.full((2, 8, 8, 3), 77, dtype=torch.uint8)
    assert torch.equal(resize(flat, 5, 13, 3), torch.full((2, 5, 13, 3), 77, dtype=torch.uint8))
    assert resize(data.images[:0], 4, 4, 1).shape == (0, 4, 4, 1)
    # antialiased: a third of a one-pixel checkerboard is grey, not every third pixel of it
    board = (torch.arange(15).view(-1, 1) + torch.arange(15)).remainder(2).mul(255).to(torch.uint8)
    third = resize(board.view(1, 15, 15, 1), 5, 5, 1)
    assert (third.int() - 127).abs().max() < 50
