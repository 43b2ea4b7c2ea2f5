"""Procedural traffic signs: a data set that needs no download."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from harness import Dataset, Facts, Pictures
from plugins.parts.sign_designs import DESIGNS, GLYPHS, Colour, Design, Plane, stroke_distance

SUPERSAMPLE = 2
"""points a pixel is sampled at, along each side"""
BLOCK = 250
"""images drawn from one random stream and rendered together"""
RIM, PEN = np.float32(0.2), np.float32(0.11)
"""width of a plate's rim, half the width of a stroke, in sign units"""
RADIUS = 0.74
"""mean half width of a sign, in units of half the image"""
TRAIN, TEST = 0, 1
DRAWS = 64
"""random words an image has besides its noise; more than are used, so that a new effect need not
move the others
"""
DEGREE = 0.017453292519943295

Share = Annotated[float, Field(ge=0, le=1)]


class Signs(Dataset):
    """Procedural traffic signs on cluttered backgrounds, in up to 43 designs: seconds to make,
    nothing to download.

    A plate with rim and glyph under a random affine map, before horizon, pole and patches, under
    uneven light and noise, in the manner of TrojAI's synthetic data. Image i of a split depends on
    neither count, and is the same to the bit everywhere. Images are RGB, `size` x `size`.
    """

    citation = "after Karra et al., The TrojAI Software Framework, 2020 (arXiv 2003.07233)"

    classes: Annotated[int, Field(ge=2, le=len(DESIGNS))] = 10
    """how many designs, from the first; more of them are more alike"""
    size: Annotated[int, Field(ge=8, le=128)] = 16
    """height and width in pixels"""
    train: Annotated[int, Field(ge=1)] = 4000
    """training images; classes are balanced to one image"""
    test: Annotated[int, Field(ge=1)] = 2000
    """test images"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """which pictures are drawn"""
    rotation: Annotated[float, Field(ge=0, le=90)] = 12.0
    """largest rotation to either side, in degrees"""
    tilt: Annotated[float, Field(ge=0, le=0.5)] = 0.25
    """largest narrowing and slant, as of a sign seen from the side"""
    scale: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    """largest relative change of a sign's size"""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.08
    """largest shift to each side, as a share of the image"""
    light: Share = 0.5
    """strength of brightness changes, colour casts and shadows"""
    noise: Share = 0.06
    """standard deviation of the noise, as a share of the range of values"""
    clutter: Share = 0.7
    """how far background colours lie from a plain grey"""

    def facts(self) -> Facts:
        """From the parameters alone."""
        drawn = self.model_dump(
            exclude=set(Dataset.model_fields)
        )  # how they are split is not in the pictures
        fingerprint = hashlib.sha256(
            json.dumps(["signs", drawn], sort_keys=True).encode()
        ).hexdigest()
        return Facts(self.classes, self.size, self.size, 3, self.train, self.test, fingerprint)

    def load(self) -> Pictures:
        """Render both splits."""
        return Pictures(*self._split(TRAIN, self.train), *self._split(TEST, self.test))

    def _split(self, split: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        labels = self._labels(split, count)
        images = np.empty((count, self.size, self.size, 3), np.uint8)
        for number, start in enumerate(range(0, count, BLOCK), start=1):
            part = slice(start, min(start + BLOCK, count))
            images[part] = self._block(_stream(self.seed, split, number), labels[part])
        return images, labels

    def _labels(self, split: int, count: int) -> NDArray[np.int64]:
        """Permutations of the classes one after the other, so that every prefix is balanced to one
        image.
        """
        rounds = -(-count // self.classes)
        words = (
            _stream(self.seed, split, 0)
            .random_raw(rounds * self.classes)
            .reshape(rounds, self.classes)
        )
        return np.argsort(words, axis=1, kind="stable").reshape(-1)[:count].astype(np.int64)

    def _block(self, stream: np.random.Philox, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images of these labels. Words are drawn image by image, so that a prefix of the block
        stays the same.
        """
        count, size = len(labels), self.size
        noise_words = -(-size * size * 3 // 2)
        words = stream.random_raw(count * (DRAWS + noise_words)).reshape(count, -1)
        draws = _Draws(words[:, :DRAWS])
        picture = _background(draws, size, self.clutter)
        frame = self._frame(draws)
        fade = draws.between(0, 0.35 * self.light).astype(np.float32)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            picture[rows] = _with_sign(picture[rows], DESIGNS[label], frame.of(rows), fade[rows])
        _illuminate(picture, draws, self.light)
        picture += np.float32(self.noise) * _bell(words[:, DRAWS:], size)
        picture = np.clip(picture, np.float32(0), np.float32(1)) * np.float32(255)
        quantised: NDArray[np.uint8] = np.floor(picture + np.float32(0.5)).astype(np.uint8)
        return quantised

    def _frame(self, draws: _Draws) -> _Frame:
        """Where the sign of each image is. A circle's rational parameters stand in for sine and
        cosine.
        """
        half = draws.between(-0.5, 0.5) * self.rotation * DEGREE
        tangent = half * (1 + half * half / 3)
        cosine, sine = (
            (1 - tangent * tangent) / (1 + tangent * tangent),
            2 * tangent / (1 + tangent * tangent),
        )
        radius = RADIUS * (1 + draws.between(-self.scale, self.scale))
        x, y = (draws.between(-2 * self.shift, 2 * self.shift).astype(np.float32) for _ in "xy")
        return _Frame(
            x,
            y,
            cosine=(cosine / radius).astype(np.float32),
            sine=(sine / radius).astype(np.float32),
            slant=(draws.between(-self.tilt, self.tilt)).astype(np.float32),
            narrow=(1 - draws.between(0, self.tilt)).astype(np.float32),
            radius=radius.astype(np.float32),
        )


# --- random numbers -------------------------------------------------------------------------------


def _stream(seed: int, split: int, block: int) -> np.random.Philox:
    """Philox words are the same on every machine and in every NumPy; what Generator makes of them
    need not be.
    """
    return np.random.Philox(key=np.array([seed, (split << 32) + block], np.uint64))


class _Draws:
    """Uniform numbers of a block of images, one column after the other, from (images, DRAWS) random
    words.
    """

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self._columns = iter(((words >> np.uint64(11)).astype(np.float64) * 2.0**-53).T)

    def between(self, low: float, high: float) -> NDArray[np.float64]:
        """One number in [low, high) for each image."""
        column: NDArray[np.float64] = next(self._columns)
        return low + (high - low) * column

    def plane(self, low: float, high: float) -> Plane:
        """The same, to be broadcast over (images, height, width)."""
        return self.between(low, high).astype(np.float32)[:, None, None]

    def colour(self, spread: float) -> Plane:
        """A colour for each image, (images, 1, 1, 3), `spread` of the way from middle grey to
        anywhere.
        """
        channels = [self.between(0.5 - spread / 2, 0.5 + spread / 2) for _ in "rgb"]
        return np.stack(channels, axis=1).astype(np.float32)[:, None, None, :]


def _bell(words: NDArray[np.uint64], size: int) -> Plane:
    """Nearly normal numbers of mean 0 and deviation 1, (images, size, size, 3): each the sum of
    four random bytes.
    """
    pairs = np.stack([words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)], axis=2).astype(
        np.uint32
    )
    total = sum((pairs >> np.uint32(shift)) & np.uint32(255) for shift in (0, 8, 16, 24))
    bell = (np.asarray(total).astype(np.float32) - np.float32(510)) / np.float32(147.80)
    return bell.reshape(len(words), -1)[:, : size * size * 3].reshape(-1, size, size, 3)


# --- painting: pictures are float32 (images, size, size, 3) in [0, 1], coordinates go from -1 to 1 over an image ------


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
        """The maps of some images, shaped to be broadcast over (images, height, width)."""
        return _Frame(*(getattr(self, part.name)[rows, None, None] for part in fields(self)))

    def coordinates(self, x: Plane, y: Plane) -> tuple[Plane, Plane]:
        """Sign coordinates (u, v) of image points."""
        x, y = x - self.x, y - self.y
        v = self.cosine * y - self.sine * x
        return (self.cosine * x + self.sine * y - self.slant * v) / self.narrow, v


def _points(count: int) -> tuple[Plane, Plane]:
    """Cell centres of a grid: x (1, 1, count), y (1, count, 1)."""
    centres = ((np.arange(count) + 0.5) * (2 / count) - 1).astype(np.float32)
    return centres[None, None, :], centres[None, :, None]


def _cover(distance: Plane, sharpness: Plane | np.float32) -> Plane:
    """Share of a cell that lies inside, from a signed distance; `sharpness` is cells per unit of
    distance.
    """
    cover: Plane = np.clip(np.float32(0.5) - distance * sharpness, np.float32(0), np.float32(1))
    return cover


def _blend(picture: Plane, colour: Plane, cover: Plane) -> None:
    """Paint `colour` over the picture, in place."""
    picture += (colour - picture) * cover[..., None]


def _background(draws: _Draws, size: int, clutter: float) -> Plane:
    """Sky and ground with a slanted horizon, three patches, and a pole below the middle."""
    x, y = _points(size)
    sharp = np.float32(size / 2)
    picture = np.repeat(np.repeat(draws.colour(clutter), size, axis=1), size, axis=2)
    _blend(
        picture,
        draws.colour(clutter),
        _cover(draws.plane(-0.6, 0.8) + draws.plane(-0.5, 0.5) * x - y, sharp),
    )
    for _ in range(3):
        u, v = np.abs(x - draws.plane(-1, 1)), np.abs(y - draws.plane(-1, 1))
        patch = np.maximum(u - draws.plane(0.1, 0.6), v - draws.plane(0.1, 0.6))
        _blend(picture, draws.colour(clutter), _cover(patch, sharp))
    pole = np.maximum(np.abs(x - draws.plane(-0.15, 0.15)) - draws.plane(0.04, 0.12), -y)
    _blend(picture, draws.colour(clutter), _cover(pole, sharp))
    return picture


def _with_sign(picture: Plane, design: Design, frame: _Frame, fade: Plane) -> Plane:
    """The picture with the sign in front: rim, then face, then glyph, each mixed with grey by
    `fade`.
    """
    size = picture.shape[1]
    u, v = frame.coordinates(*_points(size * SUPERSAMPLE))
    sharp = frame.radius * np.float32(size * SUPERSAMPLE / 2)
    plate = design.shape(u, v)
    layers: list[tuple[Colour, Plane]] = [(design.rim, plate), (design.face, plate + RIM)]
    if design.glyph:
        layers.append((design.ink, stroke_distance(GLYPHS[design.glyph], u, v) - PEN))
    for colour, distance in layers:
        paint = np.array(colour, np.float32) / np.float32(255)
        paint = paint + (np.float32(0.45) - paint) * fade[:, None, None, None]
        _blend(picture, paint, _shrink(_cover(distance, sharp)))
    return picture


def _shrink(cover: Plane) -> Plane:
    """Mean over SUPERSAMPLE x SUPERSAMPLE cells, added in a fixed order: np.mean's order depends on
    the processor.
    """
    total = np.zeros_like(cover[:, ::SUPERSAMPLE, ::SUPERSAMPLE])
    for row in range(SUPERSAMPLE):
        for column in range(SUPERSAMPLE):
            total += cover[:, row::SUPERSAMPLE, column::SUPERSAMPLE]
    return total / np.float32(SUPERSAMPLE**2)


def _illuminate(picture: Plane, draws: _Draws, light: float) -> None:
    """Contrast, brightness, a colour cast, and the shadow of something with a straight edge; in
    place.
    """
    x, y = _points(picture.shape[1])
    picture -= np.float32(0.5)
    picture *= draws.plane(1 - 0.6 * light, 1)[..., None]
    picture += np.float32(0.5) + draws.plane(-0.4 * light, 0.4 * light)[..., None]
    edge = draws.plane(-1, 1) * x + draws.plane(-1, 1) * y + draws.plane(-0.5, 0.5)
    shadow = _cover(edge, np.float32(picture.shape[1] / 2)) * draws.plane(0, light)
    picture *= (np.float32(1) - shadow)[..., None]
    picture *= np.float32(1) + (draws.colour(0.4 * light) - np.float32(0.5))
