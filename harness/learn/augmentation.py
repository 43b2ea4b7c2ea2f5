"""Random crops, flips, rotations and cutouts, of whole batches at once but each image with its own
parameters.

Parameters are drawn on the CPU (so every device sees the same ones) by `draw`; applying them draws
nothing. A training set rests on its device as padded uint8 images; a cropped and flipped batch is
one selection from a view of them that has the row of a crop at every pixel. A rotation comes after
crop and flip, a cutout last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from harness.learn.device import sent
from harness.learn.images import to_float
from harness.learn.recipes import Recipe

MIRROR_LIMIT = 2**29
"""Bytes of padded images up to which a mirrored copy is kept beside them: a flip is then free, else
it doubles the work of a batch.
"""


@dataclass(frozen=True)
class Moves:
    """What happens to each of n images.

    `row`, `column`: int64 (n,), where in the padded image the crop begins, 0 to twice the padding;
    `flip`: bool (n,); `angle`: float32 (n,), degrees counter-clockwise, or None where the batch is
    not rotated; `hole`: int64 (n, 2), row and column of the cutout's centre, or None.
    """

    row: Tensor
    column: Tensor
    flip: Tensor
    angle: Tensor | None = None
    hole: Tensor | None = None

    def __len__(self) -> int:
        return len(self.row)


def draw(recipe: Recipe, count: int, height: int, width: int, generator: torch.Generator) -> Moves:
    """Parameters for a batch of `count` images of that size, by a generator on the CPU."""
    row = column = torch.full((count,), recipe.crop)
    flip = torch.zeros(count, dtype=torch.bool)
    angle = hole = None
    if recipe.crop and _happens(recipe.crop_probability, generator):
        row, column = torch.randint(2 * recipe.crop + 1, (2, count), generator=generator)
    if recipe.flip:
        flip = torch.rand(count, generator=generator) < 0.5
    if recipe.rotation and _happens(recipe.rotation_probability, generator):
        angle = (torch.rand(count, generator=generator) * 2 - 1) * recipe.rotation
    if recipe.cutout:
        centres = [torch.randint(size, (count,), generator=generator) for size in (height, width)]
        hole = torch.stack(centres, 1)
    return Moves(row, column, flip, angle, hole)


def _happens(probability: float, generator: torch.Generator) -> bool:
    return probability == 1 or bool(torch.rand((), generator=generator) < probability)


def send(moves: Sequence[Moves], device: torch.device) -> list[Moves]:
    """The parameters of several batches on `device`, in one transfer a field: the device is never
    waited for.
    """
    if device.type == "cpu" or not moves:
        return list(moves)
    sizes = [len(one) for one in moves]
    there = list(moves)
    for name in ("row", "column", "flip", "angle", "hole"):
        parts = [getattr(one, name) for one in moves]
        present = [part for part in parts if part is not None]
        if not present:
            continue
        lengths = [size if part is not None else 0 for size, part in zip(sizes, parts, strict=True)]
        split = torch.split(sent(torch.cat(present), device), lengths)
        for index, (part, one) in enumerate(zip(parts, split, strict=True)):
            if part is not None:
                there[index] = replace(there[index], **{name: one})
    return there


class Resident:
    """A training set on its device, ready to be cut into augmented batches."""

    def __init__(self, images: Tensor, recipe: Recipe, mirror_limit: int = MIRROR_LIMIT) -> None:
        """`images`: uint8 (n, height, width, channels)."""
        self.images, self.recipe = images, recipe
        self.height, self.width, self.channels = images.shape[1:]
        self.moving = bool(recipe.crop or recipe.flip)
        self.mirrored = False
        if self.moving:
            padded = _padded(images, recipe.crop, fill_levels(recipe, self.channels))
            self.mirrored = recipe.flip and padded.numel() <= mirror_limit
            self.stride, self.image = (
                padded.shape[2],
                padded.shape[1] * padded.shape[2],
            )  # in pixels
            self.rows = _rows(
                torch.cat([padded, padded.flip(2)]) if self.mirrored else padded, self.width
            )
            self.down = torch.arange(self.height, device=images.device) * self.stride

    def take(self, chosen: Tensor, moves: Moves) -> Tensor:
        """The images `chosen` (int64 (b,), on the device), moved: [0,1] floats (b, c, height,
        width).
        """
        if not self.moving:
            return finish(to_float(self.images.index_select(0, chosen)), moves, self.recipe)
        column = moves.column
        if self.mirrored:  # there a window lies as far from the right as its original from the left
            chosen = chosen + len(self.images) * moves.flip
            column = torch.where(moves.flip, 2 * self.recipe.crop - column, column)
        corner = chosen * self.image + moves.row * self.stride + column
        batch = self.rows.index_select(0, (corner.unsqueeze(1) + self.down).flatten())
        batch = batch.view(-1, self.height, self.width, self.channels)
        if self.recipe.flip and not self.mirrored:
            batch = torch.where(moves.flip.view(-1, 1, 1, 1), batch.flip(2), batch)
        return finish(to_float(batch), moves, self.recipe)

    def draw(self, count: int, generator: torch.Generator) -> Moves:
        """Parameters for `count` of its images."""
        return draw(self.recipe, count, self.height, self.width, generator)


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """[0,1] floats (n, c, h, w), augmented as `recipe` says with parameters drawn by a generator on
    the CPU.
    """
    count, _, height, width = images.shape
    moves = draw(recipe, count, height, width, generator)
    return move(images, send([moves], images.device)[0], recipe)


def move(images: Tensor, moves: Moves, recipe: Recipe) -> Tensor:
    """[0,1] floats (n, c, h, w), moved as told; gradients flow through. The same bits as from
    `Resident.take`.
    """
    if recipe.crop:
        levels = fill_levels(recipe, images.shape[1])
        canvas = _padded(images.permute(0, 2, 3, 1), recipe.crop, [level / 255 for level in levels])
        windows = (
            canvas.unfold(1, images.shape[2], 1)
            .unfold(2, images.shape[3], 1)
            .permute(0, 1, 2, 4, 5, 3)
        )
        rows = torch.arange(len(images), device=images.device)
        images = windows[rows, moves.row, moves.column].permute(0, 3, 1, 2)
    if recipe.flip:
        images = torch.where(moves.flip.view(-1, 1, 1, 1), images.flip(3), images)
    return finish(images, moves, recipe)


def finish(images: Tensor, moves: Moves, recipe: Recipe) -> Tensor:
    """The moves that come after crop and flip: rotation (bilinear), then cutout."""
    if moves.angle is None and moves.hole is None:
        return images
    fill = (_colour(fill_levels(recipe, images.shape[1]), images) / 255).view(1, -1, 1, 1)
    if moves.angle is not None:
        images = _rotated(images - fill, moves.angle) + fill
    if moves.hole is not None:
        images = torch.where(
            _holes(moves.hole, recipe.cutout, images.shape[2], images.shape[3]), fill, images
        )
    return images.contiguous(memory_format=torch.channels_last)


def fill_levels(recipe: Recipe, channels: int) -> list[int]:
    """The colour of uncovered pixels in grey levels, one a channel. Raises ValueError where the
    numbers differ.
    """
    if len(recipe.fill) not in (1, channels):
        raise ValueError(f"fill names {len(recipe.fill)} channels, the images have {channels}")
    return [
        round(level * 255)
        for level in (recipe.fill * channels if len(recipe.fill) == 1 else recipe.fill)
    ]


def _colour(levels: Sequence[float], images: Tensor) -> Tensor:
    """Those numbers (c,), in type and place of `images`; written on the device, since a copy would
    wait for it.
    """
    return torch.cat([images.new_full((1,), level) for level in levels])


def _padded(images: Tensor, padding: int, fill: Sequence[float]) -> Tensor:
    """(n, h, w, c) -> (n, h + 2 padding, w + 2 padding, c), contiguous, in the type of `images`."""
    count, height, width, channels = images.shape
    shape = (count, height + 2 * padding, width + 2 * padding, channels)
    canvas = _colour(fill, images).expand(shape).contiguous()
    canvas[:, padding : padding + height, padding : padding + width] = images
    return canvas


def _rows(padded: Tensor, width: int) -> Tensor:
    """View of (n, h, w, c) with an entry for every pixel: the `width` pixels from there on,
    (pixels, width * c).
    """
    pixels, channels = padded.numel() // padded.shape[3], padded.shape[3]
    return padded.as_strided((max(0, pixels - width + 1), width * channels), (channels, 1))


def _rotated(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotated counter-clockwise about the centre; what lies outside is 0."""
    ratio = images.shape[2] / images.shape[3]
    radians = degrees * (math.pi / 180)
    cosine, sine, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    # where each output pixel comes from, in coordinates that run from -1 to 1 along both sides
    across, down = (
        torch.stack([cosine, -sine * ratio, zero], 1),
        torch.stack([sine / ratio, cosine, zero], 1),
    )
    grid = functional.affine_grid(
        torch.stack([across, down], 1), list(images.shape), align_corners=False
    )
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )


def _holes(centres: Tensor, side: int, height: int, width: int) -> Tensor:
    """Boolean (n, 1, height, width): rows from centre - side // 2, `side` of them, and columns
    likewise.
    """
    inside = []
    for axis, size in enumerate((height, width)):
        first = (centres[:, axis] - side // 2).unsqueeze(1)
        place = torch.arange(size, device=centres.device).unsqueeze(0)
        inside.append((place >= first) & (place < first + side))
    return (inside[0].unsqueeze(2) & inside[1].unsqueeze(1)).unsqueeze(1)
