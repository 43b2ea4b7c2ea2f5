from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.learn.augmentation import Moves, Resident, augment, draw, move
from harness.learn.images import to_float
from harness.learn.recipes import Recipe

RECIPES = st.builds(
    Recipe,
    crop=st.integers(0, 3),
    flip=st.booleans(),
    cutout=st.integers(0, 4),
    fill=st.sampled_from([(0.0,), (0.3,), (1.0, 0.5, 0.2)]),
    crop_probability=st.sampled_from([0.0, 0.5, 1.0]),
)
SHAPES = st.tuples(st.integers(1, 6), st.integers(4, 7), st.integers(4, 9), st.just(3))


def pictures(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randint(
        256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def one_by_one(images: Tensor, moves: Moves, recipe: Recipe) -> np.ndarray:
    """Crop, flip and cutout in plain loops over pixels; NHWC, in grey levels."""
    source = images.numpy()
    count, height, width, channels = source.shape
    fill = [
        round(255 * level)
        for level in (recipe.fill * channels if len(recipe.fill) == 1 else recipe.fill)
    ]
    result = np.empty(source.shape, dtype=np.uint8)
    for n in range(count):
        for r in range(height):
            for c in range(width):
                across = width - 1 - c if moves.flip[n] else c
                y, x = (
                    r + int(moves.row[n]) - recipe.crop,
                    across + int(moves.column[n]) - recipe.crop,
                )
                inside = 0 <= y < height and 0 <= x < width
                result[n, r, c] = source[n, y, x] if inside else fill
                if moves.hole is not None:
                    top, left = (int(value) - recipe.cutout // 2 for value in moves.hole[n])
                    if 0 <= r - top < recipe.cutout and 0 <= c - left < recipe.cutout:
                        result[n, r, c] = fill
    return result


@given(RECIPES, SHAPES, st.integers(0, 99), st.sampled_from([0, 2**29]))
@settings(deadline=None, max_examples=60)
def test_both_ways_equal_the_plain_loop(
    recipe: Recipe, shape: tuple[int, int, int, int], seed: int, mirror_limit: int
) -> None:
    images = pictures(shape, seed)
    resident = Resident(images, recipe, mirror_limit)
    moves = resident.draw(shape[0], torch.Generator().manual_seed(seed))
    wanted = torch.from_numpy(one_by_one(images, moves, recipe))
    fast = resident.take(torch.arange(shape[0]), moves)
    slow = move(to_float(images), moves, recipe)
    assert torch.equal(fast, to_float(wanted))
    assert torch.equal(slow, fast)
    assert fast.is_contiguous(memory_format=torch.channels_last) or min(fast.shape) == 1


def test_images_are_taken_in_the_order_asked() -> None:
    images = pictures((9, 6, 6, 1))
    resident = Resident(images, Recipe(crop=2, flip=True))
    still = Moves(torch.full((3,), 2), torch.full((3,), 2), torch.zeros(3, dtype=torch.bool))
    assert torch.equal(resident.take(torch.tensor([8, 0, 8]), still), to_float(images[[8, 0, 8]]))


@given(st.floats(-180, 180), st.integers(3, 6), st.integers(3, 6), st.sampled_from([0.0, 1.0]))
@settings(deadline=None, max_examples=30)
def test_rotation_is_bilinear_about_the_centre(
    degrees: float, height: int, width: int, fill: float
) -> None:
    image = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(1))
    recipe = Recipe(rotation=180.0, fill=(fill,))
    still = torch.zeros(1, dtype=torch.int64)
    moves = Moves(still, still, still.bool(), torch.tensor([degrees]))
    turned = move(image, moves, recipe)[0, 0].numpy()
    source = image[0, 0].double().numpy()

    def pixel(y: int, x: int) -> float:
        return float(source[y, x]) if 0 <= y < height and 0 <= x < width else fill

    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    for r in range(height):
        for c in range(width):
            down, right = r - (height - 1) / 2, c - (width - 1) / 2
            # where the output pixel comes from: turned back, clockwise on a y axis that points down
            y = (height - 1) / 2 + sine * right + cosine * down
            x = (width - 1) / 2 + cosine * right - sine * down
            top, left = math.floor(y), math.floor(x)
            dy, dx = y - top, x - left
            wanted = (1 - dy) * ((1 - dx) * pixel(top, left) + dx * pixel(top, left + 1))
            wanted += dy * ((1 - dx) * pixel(top + 1, left) + dx * pixel(top + 1, left + 1))
            assert turned[r, c] == pytest.approx(wanted, abs=2e-5)


def test_a_quarter_turn_is_counter_clockwise() -> None:
    image = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    still = torch.zeros(2, dtype=torch.int64)
    turned = move(
        image, Moves(still, still, still.bool(), torch.full((2,), 90.0)), Recipe(rotation=90.0)
    )
    torch.testing.assert_close(turned, torch.rot90(image, 1, (2, 3)), atol=1e-5, rtol=0)


def test_each_image_has_its_own_parameters_over_the_whole_range() -> None:
    recipe = Recipe(crop=2, flip=True, rotation=10.0, cutout=3)
    moves = draw(recipe, 4000, 8, 6, torch.Generator().manual_seed(0))
    assert moves.angle is not None
    assert moves.hole is not None
    for values, expected in (
        (moves.row, 5),
        (moves.column, 5),
        (moves.hole[:, 0], 8),
        (moves.hole[:, 1], 6),
    ):
        counts = torch.bincount(values, minlength=expected)
        assert len(counts) == expected
        assert (counts / 4000 - 1 / expected).abs().max() < 0.03
    assert abs(float(moves.flip.float().mean()) - 0.5) < 0.03
    assert float(moves.angle.min()) < -9.9
    assert float(moves.angle.max()) > 9.9
    stacked = torch.stack(
        [moves.row.double(), moves.column.double(), moves.flip.double(), moves.angle.double()]
    )
    assert (torch.corrcoef(stacked) - torch.eye(4)).abs().max() < 0.06


def test_probabilities_are_of_whole_batches() -> None:
    recipe = Recipe(
        crop=5, crop_probability=0.8, rotation=10.0, rotation_probability=0.5, flip=True
    )
    generator = torch.Generator().manual_seed(0)
    batches = [draw(recipe, 16, 32, 32, generator) for _ in range(400)]
    still = [bool((moves.row == 5).all() and (moves.column == 5).all()) for moves in batches]
    assert abs(np.mean(still) - 0.2) < 0.06
    assert abs(np.mean([moves.angle is None for moves in batches]) - 0.5) < 0.08
    assert all(0 < int(moves.flip.sum()) < 16 for moves in batches[:20])


def test_batches_drawn_one_by_one_or_together_agree() -> None:
    images = to_float(pictures((10, 8, 8, 3)))
    recipe = Recipe(crop=2, flip=True, cutout=3)
    first, second = (torch.Generator().manual_seed(5) for _ in range(2))
    moves = draw(recipe, 10, 8, 8, first)
    assert torch.equal(augment(images, recipe, second), move(images, moves, recipe))
    assert torch.equal(first.get_state(), second.get_state())


def test_gradients_flow_through_every_move() -> None:
    images = torch.rand(4, 3, 8, 8, requires_grad=True)
    recipe = Recipe(crop=2, flip=True, rotation=15.0, cutout=2, fill=(0.5,))
    augment(images, recipe, torch.Generator().manual_seed(0)).sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0


def test_a_recipe_without_augmentation_touches_nothing() -> None:
    images = pictures((3, 4, 4, 3))
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert torch.equal(augment(to_float(images), Recipe(), generator), to_float(images))
    assert torch.equal(generator.get_state(), before)


def test_fill_must_fit_the_channels() -> None:
    with pytest.raises(ValueError, match="3 channels"):
        Resident(pictures((2, 4, 4, 1)), Recipe(crop=1, fill=(0.1, 0.2, 0.3)))
