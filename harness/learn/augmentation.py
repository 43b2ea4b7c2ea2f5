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
    """The moves of each of n images.

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
    """Draw parameters for a batch of `count` images of that size by a generator on the CPU."""
    centred = torch.full((count,), recipe.crop)
    row = centred
    column = centred
    flip = torch.zeros(count, dtype=torch.bool)
    angle = None
    hole = None
    if recipe.crop and _happens(recipe.crop_probability, generator):
        row, column = torch.randint(2 * recipe.crop + 1, (2, count), generator=generator)
    if recipe.flip:
        flip = torch.rand(count, generator=generator) < 0.5
    if recipe.rotation and _happens(recipe.rotation_probability, generator):
        share = torch.rand(count, generator=generator) * 2 - 1
        angle = share * recipe.rotation
    if recipe.cutout:
        centre_rows = torch.randint(height, (count,), generator=generator)
        centre_columns = torch.randint(width, (count,), generator=generator)
        hole = torch.stack([centre_rows, centre_columns], 1)
    return Moves(row, column, flip, angle, hole)


def _happens(probability: float, generator: torch.Generator) -> bool:
    """Draw whether something of this probability happens; certainty draws nothing."""
    if probability == 1:
        return True
    return bool(torch.rand((), generator=generator) < probability)


def send(moves: Sequence[Moves], device: torch.device) -> list[Moves]:
    """Copy the parameters of several batches to `device`, in one transfer for each field: the
    device is never waited for.
    """
    if device.type == "cpu" or not moves:
        return list(moves)
    there = list(moves)
    for name in ("row", "column", "flip", "angle", "hole"):
        having = [index for index, batch in enumerate(moves) if getattr(batch, name) is not None]
        if not having:
            continue
        values = [getattr(moves[index], name) for index in having]
        together = sent(torch.cat(values), device)
        lengths = [len(value) for value in values]
        for index, part in zip(having, torch.split(together, lengths), strict=True):
            there[index] = replace(there[index], **{name: part})
    return there


class Resident:
    """A training set on its device, ready to be cut into augmented batches."""

    def __init__(self, images: Tensor, recipe: Recipe, mirror_limit: int = MIRROR_LIMIT) -> None:
        """Keep `images`, uint8 (n, height, width, channels), padded."""
        self.images = images
        self.recipe = recipe
        self.height, self.width, self.channels = images.shape[1:]
        self.moving = bool(recipe.crop or recipe.flip)
        self.mirrored = False
        if self.moving:
            padded = _padded(images, recipe.crop, fill_levels(recipe, self.channels))
            # Distances between rows and between images, in pixels.
            self.row_stride = padded.shape[2]
            self.image_stride = padded.shape[1] * padded.shape[2]
            self.mirrored = recipe.flip and padded.numel() <= mirror_limit
            if self.mirrored:
                padded = torch.cat([padded, padded.flip(2)])
            self.rows = _rows(padded, self.width)
            self.down = torch.arange(self.height, device=images.device) * self.row_stride

    def take(self, chosen: Tensor, moves: Moves) -> Tensor:
        """Return the images `chosen` (int64 (b,), on the device), moved: [0,1] floats (b, c,
        height, width).
        """
        if not self.moving:
            unmoved = to_float(self.images.index_select(0, chosen))
            return finish(unmoved, moves, self.recipe)
        column = moves.column
        if self.mirrored:
            # A window in the mirror lies as far from the right as its original from the left.
            chosen = chosen + len(self.images) * moves.flip
            column = torch.where(moves.flip, 2 * self.recipe.crop - column, column)
        corner = chosen * self.image_stride + moves.row * self.row_stride + column
        starts = corner.unsqueeze(1) + self.down
        pixels = self.rows.index_select(0, starts.flatten())
        batch = pixels.view(-1, self.height, self.width, self.channels)
        if self.recipe.flip and not self.mirrored:
            flip = moves.flip.view(-1, 1, 1, 1)
            batch = torch.where(flip, batch.flip(2), batch)
        return finish(to_float(batch), moves, self.recipe)

    def draw(self, count: int, generator: torch.Generator) -> Moves:
        """Draw parameters for `count` of its images."""
        return draw(self.recipe, count, self.height, self.width, generator)


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Return [0,1] floats (n, c, h, w), augmented as `recipe` says with parameters drawn by a
    generator on the CPU.
    """
    count, _, height, width = images.shape
    moves = draw(recipe, count, height, width, generator)
    (there,) = send([moves], images.device)
    return move(images, there, recipe)


def move(images: Tensor, moves: Moves, recipe: Recipe) -> Tensor:
    """Return [0,1] floats (n, c, h, w), moved; gradients flow through. The same bits as from
    `Resident.take`.
    """
    count, channels, height, width = images.shape
    if recipe.crop:
        fill = [level / 255 for level in fill_levels(recipe, channels)]
        canvas = _padded(images.permute(0, 2, 3, 1), recipe.crop, fill)
        # A window for each place where a crop may begin: (n, rows, columns, height, width, c).
        windows = canvas.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
        each = torch.arange(count, device=images.device)
        cropped = windows[each, moves.row, moves.column]
        images = cropped.permute(0, 3, 1, 2)
    if recipe.flip:
        flip = moves.flip.view(-1, 1, 1, 1)
        images = torch.where(flip, images.flip(3), images)
    return finish(images, moves, recipe)


def finish(images: Tensor, moves: Moves, recipe: Recipe) -> Tensor:
    """Carry out the moves that come after crop and flip: rotation (bilinear), then cutout."""
    if moves.angle is None and moves.hole is None:
        return images
    _, channels, height, width = images.shape
    colour = _colour(fill_levels(recipe, channels), images) / 255
    fill = colour.view(1, -1, 1, 1)
    if moves.angle is not None:
        images = _rotated(images - fill, moves.angle) + fill
    if moves.hole is not None:
        holes = _holes(moves.hole, recipe.cutout, height, width)
        images = torch.where(holes, fill, images)
    return images.contiguous(memory_format=torch.channels_last)


def fill_levels(recipe: Recipe, channels: int) -> list[int]:
    """Return the colour of uncovered pixels in grey levels, one for each channel. Raises ValueError
    where the numbers of channels differ.
    """
    fill = recipe.fill
    if len(fill) not in (1, channels):
        raise ValueError(f"fill names {len(fill)} channels, the images have {channels}")
    if len(fill) == 1:
        fill = fill * channels
    return [round(level * 255) for level in fill]


def _colour(levels: Sequence[float], images: Tensor) -> Tensor:
    """Return the numbers (c,) in type and place of `images`; written on the device, since a copy
    would wait for it.
    """
    return torch.cat([images.new_full((1,), level) for level in levels])


def _padded(images: Tensor, padding: int, fill: Sequence[float]) -> Tensor:
    """Pad (n, h, w, c) to (n, h + 2 padding, w + 2 padding, c), contiguous, in the type of
    `images`.
    """
    count, height, width, channels = images.shape
    shape = (count, height + 2 * padding, width + 2 * padding, channels)
    canvas = _colour(fill, images).expand(shape).contiguous()
    canvas[:, padding : padding + height, padding : padding + width] = images
    return canvas


def _rows(padded: Tensor, width: int) -> Tensor:
    """View (n, h, w, c) with an entry for every pixel: the `width` pixels from there on,
    (pixels, width * c).
    """
    channels = padded.shape[3]
    pixels = padded.numel() // channels
    starts = max(0, pixels - width + 1)
    return padded.as_strided((starts, width * channels), (channels, 1))


def _rotated(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate counter-clockwise about the centre; pixels outside are 0."""
    ratio = images.shape[2] / images.shape[3]
    radians = degrees * (math.pi / 180)
    cosine = radians.cos()
    sine = radians.sin()
    zero = torch.zeros_like(radians)
    # Where each output pixel comes from, in coordinates that run from -1 to 1 along both sides.
    across = torch.stack([cosine, -sine * ratio, zero], 1)
    down = torch.stack([sine / ratio, cosine, zero], 1)
    matrix = torch.stack([across, down], 1)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )


def _holes(centres: Tensor, side: int, height: int, width: int) -> Tensor:
    """Return a boolean (n, 1, height, width): rows from centre - side // 2, `side` of them, and
    columns likewise.
    """
    rows = _within(centres[:, 0], side, height)
    columns = _within(centres[:, 1], side, width)
    holes = rows.unsqueeze(2) & columns.unsqueeze(1)
    return holes.unsqueeze(1)


def _within(centres: Tensor, side: int, size: int) -> Tensor:
    """Return a boolean (n, size): the places of one axis that lie in the hole about each centre."""
    first = (centres - side // 2).unsqueeze(1)
    place = torch.arange(size, device=centres.device).unsqueeze(0)
    return (place >= first) & (place < first + side)
