"""Procedural traffic signs: a data set that needs no download."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from harness import Dataset, Facts, Fraction, Pictures
from plugins.parts.ranges import Count
from plugins.parts.sign_designs import DESIGNS, GLYPHS, Colour, Design, Plane, stroke_distance

SUPERSAMPLE = 2
"""points a pixel is sampled at, along each side"""
BLOCK = 250
"""images drawn from one random stream and rendered together"""
RIM = np.float32(0.2)
"""width of a plate's rim, in sign units"""
PEN = np.float32(0.11)
"""half the width of a stroke, in sign units"""
RADIUS = 0.74
"""mean half width of a sign, in units of half the image"""
TRAIN, TEST = 0, 1
DRAWS = 64
"""random words an image has besides its noise; more than are used, so that a new effect need not
move the others
"""
DEGREE = 0.017453292519943295
ZERO = np.float32(0)
HALF = np.float32(0.5)
ONE = np.float32(1)
BYTE = np.float32(255)


class Signs(Dataset):
    """Procedural traffic signs on cluttered backgrounds, in up to 43 designs; no download.

    They are made in seconds: a plate with rim and glyph under a random affine map, before horizon,
    pole and patches, under uneven light and noise, in the manner of TrojAI's synthetic data. Image
    i of a split depends on neither count, and is the same to the bit everywhere. Images are RGB,
    `size` x `size`.
    """

    citation = "after Karra et al., The TrojAI Software Framework, 2020 (arXiv 2003.07233)"
    mirrors: ClassVar[bool] = False

    classes: Annotated[int, Field(ge=2, le=len(DESIGNS))] = 10
    """number of designs, from the first; more of them are more alike"""
    size: Annotated[int, Field(ge=8, le=128)] = 16
    """height and width in pixels"""
    train: Count = 4000
    """training images; classes are balanced to one image"""
    test: Count = 2000
    """test images"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """seed of the pictures"""
    rotation: Annotated[float, Field(ge=0, le=90)] = 12.0
    """largest rotation to either side, in degrees"""
    tilt: Annotated[float, Field(ge=0, le=0.5)] = 0.25
    """largest narrowing and slant, as of a sign seen from the side"""
    scale: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    """largest relative change of a sign's size"""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.08
    """largest shift to each side, as a share of the image"""
    light: Fraction = 0.5
    """strength of brightness changes, colour casts and shadows"""
    noise: Fraction = 0.06
    """standard deviation of the noise, as a share of the range of values"""
    clutter: Fraction = 0.7
    """distance of background colours from a plain grey"""

    def facts(self) -> Facts:
        """Describe the pictures by the parameters alone."""
        splitting = set(Dataset.model_fields)  # how they are split is not in the pictures
        drawn = self.model_dump(exclude=splitting)
        content = json.dumps(["signs", drawn], sort_keys=True)
        return Facts(
            classes=self.classes,
            height=self.size,
            width=self.size,
            channels=3,
            train_count=self.train,
            test_count=self.test,
            fingerprint=hashlib.sha256(content.encode()).hexdigest(),
        )

    def load(self) -> Pictures:
        """Render both splits."""
        train_images, train_labels = self._split(TRAIN, self.train)
        test_images, test_labels = self._split(TEST, self.test)
        return Pictures(train_images, train_labels, test_images, test_labels)

    def _split(self, split: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        labels = self._labels(split, count)
        images = np.empty((count, self.size, self.size, 3), np.uint8)
        for number, start in enumerate(range(0, count, BLOCK), start=1):
            end = min(start + BLOCK, count)
            stream = _stream(self.seed, split, number)
            images[start:end] = self._block(stream, labels[start:end])
        return images, labels

    def _labels(self, split: int, count: int) -> NDArray[np.int64]:
        """Draw permutations of the classes one after the other.

        Every prefix is therefore balanced to one image.
        """
        rounds = math.ceil(count / self.classes)
        words = _stream(self.seed, split, 0).random_raw(rounds * self.classes)
        words = words.reshape(rounds, self.classes)
        orders = np.argsort(words, axis=1, kind="stable")
        return orders.reshape(-1)[:count].astype(np.int64)

    def _block(self, stream: np.random.Philox, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Render images of these labels.

        Words are drawn image by image, so that a prefix of the block stays the same.
        """
        count = len(labels)
        size = self.size
        noise_words = math.ceil(size * size * 3 / 2)
        words = stream.random_raw(count * (DRAWS + noise_words)).reshape(count, -1)
        draws = _Draws(words[:, :DRAWS])
        picture = _background(draws, size, self.clutter)
        frame = self._frame(draws)
        fade = draws.between(0, 0.35 * self.light).astype(np.float32)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            design = DESIGNS[label]
            picture[rows] = _with_sign(picture[rows], design, frame.of(rows), fade[rows])
        _illuminate(picture, draws, self.light)
        picture += np.float32(self.noise) * _bell(words[:, DRAWS:], size)
        picture = np.clip(picture, ZERO, ONE) * BYTE
        quantised: NDArray[np.uint8] = np.floor(picture + HALF).astype(np.uint8)
        return quantised

    def _frame(self, draws: _Draws) -> _Frame:
        """Place the sign of each image.

        A circle's rational parameters stand in for sine and cosine.
        """
        half = draws.between(-0.5, 0.5) * self.rotation * DEGREE
        tangent = half * (1 + half * half / 3)
        square = tangent * tangent
        cosine = (1 - square) / (1 + square)
        sine = 2 * tangent / (1 + square)
        radius = RADIUS * (1 + draws.between(-self.scale, self.scale))
        x = draws.between(-2 * self.shift, 2 * self.shift)
        y = draws.between(-2 * self.shift, 2 * self.shift)
        slant = draws.between(-self.tilt, self.tilt)
        narrow = 1 - draws.between(0, self.tilt)
        return _Frame(
            x=x.astype(np.float32),
            y=y.astype(np.float32),
            cosine=(cosine / radius).astype(np.float32),
            sine=(sine / radius).astype(np.float32),
            slant=slant.astype(np.float32),
            narrow=narrow.astype(np.float32),
            radius=radius.astype(np.float32),
        )


# --- random numbers -------------------------------------------------------------------------------


def _stream(seed: int, split: int, block: int) -> np.random.Philox:
    """Return a stream of words.

    Philox words are the same on every machine and in every NumPy; what Generator makes of them need
    not be.
    """
    key = np.array([seed, (split << 32) + block], np.uint64)
    return np.random.Philox(key=key)


class _Draws:
    """Uniform numbers of a block of images, one column after the other, from random words.

    The words are (images, DRAWS).
    """

    def __init__(self, words: NDArray[np.uint64]) -> None:
        numbers = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        self._columns = iter(numbers.T)

    def between(self, low: float, high: float) -> NDArray[np.float64]:
        """Draw a number in [low, high) for each image."""
        column: NDArray[np.float64] = next(self._columns)
        return low + (high - low) * column

    def plane(self, low: float, high: float) -> Plane:
        """Draw as `between` does, to be broadcast over (images, height, width)."""
        numbers = self.between(low, high).astype(np.float32)
        return numbers[:, None, None]

    def colour(self, spread: float) -> Plane:
        """Draw a colour for each image, (images, 1, 1, 3).

        It is `spread` of the way from middle grey to anywhere.
        """
        low = 0.5 - spread / 2
        high = 0.5 + spread / 2
        channels = [self.between(low, high) for _ in "rgb"]
        colours = np.stack(channels, axis=1).astype(np.float32)
        return colours[:, None, None, :]


def _bell(words: NDArray[np.uint64], size: int) -> Plane:
    """Return nearly normal numbers of mean 0 and deviation 1, (images, size, size, 3).

    Each is the sum of four random bytes.
    """
    low = words & np.uint64(0xFFFFFFFF)
    high = words >> np.uint64(32)
    pairs = np.stack([low, high], axis=2).astype(np.uint32)
    total = np.zeros_like(pairs)
    for shift in (0, 8, 16, 24):
        total += (pairs >> np.uint32(shift)) & np.uint32(255)
    # 510 and 147.80 are mean and deviation of the sum of four bytes.
    bell = (total.astype(np.float32) - np.float32(510)) / np.float32(147.80)
    pixels = bell.reshape(len(words), -1)[:, : size * size * 3]
    return pixels.reshape(-1, size, size, 3)


# --- painting -------------------------------------------------------------------------------------
# Pictures are float32 (images, size, size, 3) in [0, 1], coordinates go from -1 to 1 over an image.


@dataclass(frozen=True)
class _Frame:
    """The maps from image to sign coordinates, one for each image; arrays of shape (images,)."""

    x: Plane
    y: Plane
    cosine: Plane
    sine: Plane
    slant: Plane
    narrow: Plane
    radius: Plane

    def of(self, rows: NDArray[np.intp]) -> _Frame:
        """Return the maps of some images, to be broadcast over (images, height, width)."""
        return _Frame(
            x=self.x[rows, None, None],
            y=self.y[rows, None, None],
            cosine=self.cosine[rows, None, None],
            sine=self.sine[rows, None, None],
            slant=self.slant[rows, None, None],
            narrow=self.narrow[rows, None, None],
            radius=self.radius[rows, None, None],
        )

    def coordinates(self, x: Plane, y: Plane) -> tuple[Plane, Plane]:
        """Return the sign coordinates (u, v) of image points."""
        x = x - self.x
        y = y - self.y
        v = self.cosine * y - self.sine * x
        u = (self.cosine * x + self.sine * y - self.slant * v) / self.narrow
        return u, v


def _points(count: int) -> tuple[Plane, Plane]:
    """Return the cell centres of a grid: x (1, 1, count), y (1, count, 1)."""
    centres = (np.arange(count) + 0.5) * (2 / count) - 1
    centres = centres.astype(np.float32)
    return centres[None, None, :], centres[None, :, None]


def _cover(distance: Plane, sharpness: Plane | np.float32) -> Plane:
    """Return the share of a cell that lies inside, from a signed distance.

    `sharpness` is cells per unit of distance.
    """
    cover: Plane = np.clip(HALF - distance * sharpness, ZERO, ONE)
    return cover


def _paint(picture: Plane, colour: Plane, cover: Plane) -> None:
    """Paint `colour` over the picture, in place."""
    picture += (colour - picture) * cover[..., None]


def _background(draws: _Draws, size: int, clutter: float) -> Plane:
    """Paint sky and ground with a slanted horizon, three patches, and a pole below the middle."""
    x, y = _points(size)
    sharp = np.float32(size / 2)
    sky = draws.colour(clutter)
    picture = np.repeat(np.repeat(sky, size, axis=1), size, axis=2)

    ground = draws.colour(clutter)
    horizon = draws.plane(-0.6, 0.8) + draws.plane(-0.5, 0.5) * x
    _paint(picture, ground, _cover(horizon - y, sharp))
    for _ in range(3):
        u = np.abs(x - draws.plane(-1, 1))
        v = np.abs(y - draws.plane(-1, 1))
        patch = np.maximum(u - draws.plane(0.1, 0.6), v - draws.plane(0.1, 0.6))
        _paint(picture, draws.colour(clutter), _cover(patch, sharp))

    aside = np.abs(x - draws.plane(-0.15, 0.15))
    pole = np.maximum(aside - draws.plane(0.04, 0.12), -y)
    _paint(picture, draws.colour(clutter), _cover(pole, sharp))
    return picture


def _with_sign(picture: Plane, design: Design, frame: _Frame, fade: Plane) -> Plane:
    """Paint the sign in front of the picture: rim, then face, then glyph.

    Each is mixed with grey by `fade`.
    """
    fine = picture.shape[1] * SUPERSAMPLE
    u, v = frame.coordinates(*_points(fine))
    sharp = frame.radius * np.float32(fine / 2)
    plate = design.shape(u, v)
    layers: list[tuple[Colour, Plane]] = [(design.rim, plate), (design.face, plate + RIM)]
    if design.glyph:
        strokes = stroke_distance(GLYPHS[design.glyph], u, v) - PEN
        layers.append((design.ink, strokes))
    for colour, distance in layers:
        paint = np.array(colour, np.float32) / BYTE
        paint = paint + (np.float32(0.45) - paint) * fade[:, None, None, None]
        _paint(picture, paint, _shrink(_cover(distance, sharp)))
    return picture


def _shrink(cover: Plane) -> Plane:
    """Average over SUPERSAMPLE x SUPERSAMPLE cells.

    They are added in a fixed order: np.mean's order depends on the processor.
    """
    total = np.zeros_like(cover[:, ::SUPERSAMPLE, ::SUPERSAMPLE])
    for row in range(SUPERSAMPLE):
        for column in range(SUPERSAMPLE):
            total += cover[:, row::SUPERSAMPLE, column::SUPERSAMPLE]
    return total / np.float32(SUPERSAMPLE**2)


def _illuminate(picture: Plane, draws: _Draws, light: float) -> None:
    """Change contrast, brightness and tint, and cast a shadow with a straight edge, in place."""
    size = picture.shape[1]
    x, y = _points(size)
    contrast = draws.plane(1 - 0.6 * light, 1)
    brightness = draws.plane(-0.4 * light, 0.4 * light)
    picture -= HALF
    picture *= contrast[..., None]
    picture += HALF + brightness[..., None]

    edge = draws.plane(-1, 1) * x + draws.plane(-1, 1) * y + draws.plane(-0.5, 0.5)
    shadow = _cover(edge, np.float32(size / 2)) * draws.plane(0, light)
    picture *= (ONE - shadow)[..., None]

    tint = draws.colour(0.4 * light) - HALF
    picture *= ONE + tint
