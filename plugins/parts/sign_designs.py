"""Designs of the procedural traffic signs: shapes, colours and strokes in a sign's own coordinates.

A sign fills about [-1, 1] x [-1, 1], u to the right, v down. A shape is its signed distance:
negative inside. Only + - * / min max sqrt are used, which IEEE 754 rounds alike everywhere, so
pictures are equal to the bit everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Plane: TypeAlias = NDArray[np.float32]
Shape: TypeAlias = Callable[[Plane, Plane], Plane]
Colour: TypeAlias = tuple[int, int, int]
Stroke: TypeAlias = tuple[tuple[float, float], ...]

ZERO = np.float32(0)
ONE = np.float32(1)
HALF = np.float32(0.5)
HALF_SQRT2 = np.float32(0.70710678)
HALF_SQRT3 = np.float32(0.8660254)

WHITE = (238, 238, 232)
BLACK = (24, 24, 26)
GREY = (120, 122, 124)
RED = (196, 28, 38)
BLUE = (22, 78, 172)
YELLOW = (250, 200, 30)
ORANGE = (240, 130, 24)
GREEN = (14, 118, 70)


def circle(u: Plane, v: Plane) -> Plane:
    """Measure the distance to a circle of radius 0.95."""
    radius = np.sqrt(u * u + v * v)
    return radius - np.float32(0.95)


def square(u: Plane, v: Plane) -> Plane:
    """Measure the distance to a square of half width 0.85."""
    reach = np.maximum(np.abs(u), np.abs(v))
    return reach - np.float32(0.85)


def diamond(u: Plane, v: Plane) -> Plane:
    """Measure the distance to a square on its corner."""
    reach: Plane = (np.abs(u) + np.abs(v)) * HALF_SQRT2
    return reach - np.float32(0.75)


def octagon(u: Plane, v: Plane) -> Plane:
    """Measure the distance to eight sides, two of them level."""
    u = np.abs(u)
    v = np.abs(v)
    level = np.maximum(u, v)
    slanted = (u + v) * HALF_SQRT2
    reach: Plane = np.maximum(level, slanted)
    return reach - np.float32(0.92)


def triangle(u: Plane, v: Plane) -> Plane:
    """Measure the distance to an equilateral triangle, one corner up."""
    v = v - np.float32(0.2)
    slanted = np.abs(u) * HALF_SQRT3 - v * HALF
    reach: Plane = np.maximum(v, slanted)
    return reach - np.float32(0.58)


def yielding(u: Plane, v: Plane) -> Plane:
    """Measure the distance to an equilateral triangle, one corner down."""
    return triangle(u, -v)


@dataclass(frozen=True)
class Design:
    """One class: the plate's shape, its face and rim, and the glyph drawn on it."""

    name: str
    shape: Shape
    face: Colour
    rim: Colour
    glyph: str = ""
    ink: Colour = BLACK


def _strokes(*polylines: str) -> tuple[Stroke, ...]:
    """Read polylines as SVG writes their points: "u,v u,v ..."."""
    strokes: list[Stroke] = []
    for polyline in polylines:
        stroke: list[tuple[float, float]] = []
        for point in polyline.split():
            u, v = point.split(",")
            stroke.append((float(u), float(v)))
        strokes.append(tuple(stroke))
    return tuple(strokes)


GLYPHS: Mapping[str, tuple[Stroke, ...]] = {
    "1": _strokes("-0.16,-0.26 0.06,-0.44 0.06,0.44"),
    "2": _strokes("-0.24,-0.26 -0.1,-0.44 0.12,-0.44 0.24,-0.28 0.2,-0.06 -0.26,0.44 0.28,0.44"),
    "3": _strokes(
        "-0.24,-0.34 -0.06,-0.44 0.14,-0.42 0.22,-0.24 0.14,-0.06 -0.06,-0.02",
        "0.14,-0.02 0.26,0.18 0.16,0.4 -0.06,0.44 -0.26,0.34",
    ),
    "4": _strokes("0.12,0.44 0.12,-0.44 -0.28,0.16 0.3,0.16"),
    "5": _strokes(
        "0.24,-0.44 -0.2,-0.44 -0.24,-0.06 0.08,-0.1 0.26,0.1 0.22,0.34 0.04,0.44 -0.26,0.36"
    ),
    "6": _strokes(
        "0.2,-0.44 -0.1,-0.26 -0.24,0.08 -0.18,0.38 0.04,0.44 0.24,0.3 0.22,0.06 "
        "0.0,-0.04 -0.22,0.08"
    ),
    "7": _strokes("-0.26,-0.44 0.26,-0.44 -0.08,0.44"),
    "8": _strokes(
        "0.0,-0.04 -0.2,-0.18 -0.18,-0.38 0.0,-0.46 0.18,-0.38 0.2,-0.18 0.0,-0.04 "
        "-0.26,0.16 -0.22,0.38 0.0,0.46 0.22,0.38 0.26,0.16 0.0,-0.04"
    ),
    "9": _strokes(
        "-0.2,0.44 0.1,0.26 0.24,-0.08 0.18,-0.38 -0.04,-0.44 -0.24,-0.3 -0.22,-0.06 "
        "0.0,0.04 0.22,-0.08"
    ),
    "left": _strokes("0.5,0.0 -0.5,0.0", "-0.12,-0.36 -0.5,0.0 -0.12,0.36"),
    "right": _strokes("-0.5,0.0 0.5,0.0", "0.12,-0.36 0.5,0.0 0.12,0.36"),
    "up": _strokes("0.0,0.5 0.0,-0.5", "-0.36,-0.12 0.0,-0.5 0.36,-0.12"),
    "keep left": _strokes("0.36,-0.36 -0.36,0.36", "-0.36,-0.12 -0.36,0.36 0.12,0.36"),
    "keep right": _strokes("-0.36,-0.36 0.36,0.36", "0.36,-0.12 0.36,0.36 -0.12,0.36"),
    "turn left": _strokes("0.3,0.5 0.3,-0.2 -0.4,-0.2", "-0.12,-0.48 -0.42,-0.2 -0.12,0.08"),
    "turn right": _strokes("-0.3,0.5 -0.3,-0.2 0.4,-0.2", "0.12,-0.48 0.42,-0.2 0.12,0.08"),
    "ring": _strokes("0.0,-0.44 0.38,-0.22 0.38,0.22 0.0,0.44 -0.38,0.22 -0.38,-0.22 0.0,-0.44"),
    "bar": _strokes("-0.5,-0.05 0.5,-0.05", "-0.5,0.05 0.5,0.05"),
    "slash": _strokes("-0.6,-0.6 0.6,0.6"),
    "back slash": _strokes("0.6,-0.6 -0.6,0.6"),
    "cross": _strokes("-0.6,-0.6 0.6,0.6", "0.6,-0.6 -0.6,0.6"),
    "!": _strokes("0.0,-0.3 0.0,0.2", "0.0,0.48 0.0,0.5"),
    "bend right": _strokes("-0.12,0.5 -0.12,0.24 0.14,0.06 0.14,-0.22"),
    "bend left": _strokes("0.12,0.5 0.12,0.24 -0.14,0.06 -0.14,-0.22"),
    "plus": _strokes("0.0,-0.16 0.0,0.56", "-0.3,0.2 0.3,0.2"),
    "bump": _strokes("-0.42,0.5 -0.16,0.22 0.16,0.22 0.42,0.5 -0.42,0.5"),
    "narrow": _strokes("-0.32,0.54 -0.1,0.1 -0.1,-0.2", "0.32,0.54 0.1,0.1 0.1,-0.2"),
    "dots": _strokes("-0.3,0.4 -0.28,0.4", "0.28,0.4 0.3,0.4", "0.0,-0.06 0.0,-0.04"),
    "P": _strokes("-0.2,0.5 -0.2,-0.46 0.12,-0.46 0.26,-0.3 0.26,-0.1 0.12,0.04 -0.2,0.04"),
    "H": _strokes("-0.26,-0.48 -0.26,0.48", "0.26,-0.48 0.26,0.48", "-0.26,0.0 0.26,0.0"),
    "T": _strokes("0.0,0.5 0.0,-0.4", "-0.4,-0.4 0.4,-0.4"),
}
"""Strokes by name: polylines, drawn with a round pen."""


def _limit(digit: str) -> Design:
    return Design(f"limit {digit}", circle, WHITE, RED, digit)


def _warning(name: str, glyph: str) -> Design:
    return Design(f"warning: {name}", triangle, WHITE, RED, glyph)


def _order(glyph: str) -> Design:
    return Design(f"go {glyph}", circle, BLUE, WHITE, glyph, WHITE)


DESIGNS: tuple[Design, ...] = (
    _limit("2"),
    _limit("3"),
    _limit("5"),
    _limit("8"),
    _warning("danger", "!"),
    _warning("bend", "bend right"),
    _order("left"),
    _order("right"),
    Design("priority road", diamond, YELLOW, WHITE),
    Design("stop", octagon, RED, WHITE, "bar", WHITE),
    Design("no entry", circle, RED, RED, "bar", WHITE),
    Design("yield", yielding, WHITE, RED),
    _limit("1"),
    _limit("4"),
    _limit("6"),
    _limit("7"),
    _limit("9"),
    Design("no vehicles", circle, WHITE, RED),
    Design("no stopping", circle, BLUE, RED, "cross", RED),
    Design("no parking", circle, BLUE, RED, "slash", RED),
    Design("no left turn", circle, WHITE, RED, "turn left"),
    Design("no right turn", circle, WHITE, RED, "turn right"),
    Design("end of limits", circle, WHITE, BLACK, "back slash", GREY),
    _order("up"),
    _order("keep left"),
    _order("keep right"),
    _order("ring"),
    _order("turn left"),
    _order("turn right"),
    _warning("crossing", "plus"),
    _warning("bend to the left", "bend left"),
    _warning("bump", "bump"),
    _warning("narrow road", "narrow"),
    _warning("works", "dots"),
    Design("detour left", diamond, ORANGE, BLACK, "left"),
    Design("detour right", diamond, ORANGE, BLACK, "right"),
    Design("detour ahead", diamond, ORANGE, BLACK, "up"),
    Design("parking", square, BLUE, WHITE, "P", WHITE),
    Design("hospital", square, BLUE, WHITE, "H", WHITE),
    Design("dead end", square, BLUE, WHITE, "T", WHITE),
    Design("exit right", square, GREEN, WHITE, "keep right", WHITE),
    Design("exit left", square, GREEN, WHITE, "keep left", WHITE),
    Design("customs", octagon, WHITE, RED, "bar"),
)
"""Class k is design k: the first ten already mix easy pairs (shape, colour) with hard ones (digits,
directions).
"""


def stroke_distance(strokes: tuple[Stroke, ...], u: Plane, v: Plane) -> Plane:
    """Measure the distance of every point (u, v) to the nearest stroke, in sign units."""
    nearest = np.full(u.shape, np.inf, np.float32)
    for stroke in strokes:
        for (au, av), (bu, bv) in pairwise(stroke):
            du = np.float32(bu - au)
            dv = np.float32(bv - av)
            pu = u - np.float32(au)
            pv = v - np.float32(av)
            # the foot of the perpendicular, in shares of the way from a to b
            projection = (pu * du + pv * dv) / (du * du + dv * dv)
            along = np.clip(projection, ZERO, ONE)
            pu -= along * du
            pv -= along * dv
            squared = pu * pu + pv * pv
            np.minimum(nearest, squared, out=nearest)
    return np.sqrt(nearest)
