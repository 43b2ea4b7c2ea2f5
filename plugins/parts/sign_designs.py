"""What the procedural traffic signs look like: shapes, colours and strokes, in a sign's own
coordinates.

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

HALF_SQRT2, HALF_SQRT3 = np.float32(0.70710678), np.float32(0.8660254)
HALF = np.float32(0.5)

WHITE, BLACK, GREY = (238, 238, 232), (24, 24, 26), (120, 122, 124)
RED, BLUE, YELLOW, ORANGE, GREEN = (
    (196, 28, 38),
    (22, 78, 172),
    (250, 200, 30),
    (240, 130, 24),
    (14, 118, 70),
)


def circle(u: Plane, v: Plane) -> Plane:
    """Radius 0.95."""
    return np.sqrt(u * u + v * v) - np.float32(0.95)


def square(u: Plane, v: Plane) -> Plane:
    """Half width 0.85."""
    return np.maximum(np.abs(u), np.abs(v)) - np.float32(0.85)


def diamond(u: Plane, v: Plane) -> Plane:
    """A square on its corner."""
    distance: Plane = (np.abs(u) + np.abs(v)) * HALF_SQRT2 - np.float32(0.75)
    return distance


def octagon(u: Plane, v: Plane) -> Plane:
    """Eight sides, two of them level."""
    u, v = np.abs(u), np.abs(v)
    distance: Plane = np.maximum(np.maximum(u, v), (u + v) * HALF_SQRT2) - np.float32(0.92)
    return distance


def triangle(u: Plane, v: Plane) -> Plane:
    """Equilateral, one corner up."""
    v = v - np.float32(0.2)
    distance: Plane = np.maximum(v, np.abs(u) * HALF_SQRT3 - v * HALF) - np.float32(0.58)
    return distance


def yielding(u: Plane, v: Plane) -> Plane:
    """Equilateral, one corner down."""
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


GLYPHS: Mapping[str, tuple[Stroke, ...]] = {
    "1": (((-0.16, -0.26), (0.06, -0.44), (0.06, 0.44)),),
    "2": (((-0.24, -0.26), (-0.1, -0.44), (0.12, -0.44), (0.24, -0.28), (0.2, -0.06), (-0.26, 0.44), (0.28, 0.44)),),
    "3": (((-0.24, -0.34), (-0.06, -0.44), (0.14, -0.42), (0.22, -0.24), (0.14, -0.06), (-0.06, -0.02)),
          ((0.14, -0.02), (0.26, 0.18), (0.16, 0.4), (-0.06, 0.44), (-0.26, 0.34))),
    "4": (((0.12, 0.44), (0.12, -0.44), (-0.28, 0.16), (0.3, 0.16)),),
    "5": (((0.24, -0.44), (-0.2, -0.44), (-0.24, -0.06), (0.08, -0.1), (0.26, 0.1), (0.22, 0.34), (0.04, 0.44),
           (-0.26, 0.36)),),
    "6": (((0.2, -0.44), (-0.1, -0.26), (-0.24, 0.08), (-0.18, 0.38), (0.04, 0.44), (0.24, 0.3), (0.22, 0.06),
           (0.0, -0.04), (-0.22, 0.08)),),
    "7": (((-0.26, -0.44), (0.26, -0.44), (-0.08, 0.44)),),
    "8": (((0.0, -0.04), (-0.2, -0.18), (-0.18, -0.38), (0.0, -0.46), (0.18, -0.38), (0.2, -0.18), (0.0, -0.04),
           (-0.26, 0.16), (-0.22, 0.38), (0.0, 0.46), (0.22, 0.38), (0.26, 0.16), (0.0, -0.04)),),
    "9": (((-0.2, 0.44), (0.1, 0.26), (0.24, -0.08), (0.18, -0.38), (-0.04, -0.44), (-0.24, -0.3), (-0.22, -0.06),
           (0.0, 0.04), (0.22, -0.08)),),
    "left": (((0.5, 0.0), (-0.5, 0.0)), ((-0.12, -0.36), (-0.5, 0.0), (-0.12, 0.36))),
    "right": (((-0.5, 0.0), (0.5, 0.0)), ((0.12, -0.36), (0.5, 0.0), (0.12, 0.36))),
    "up": (((0.0, 0.5), (0.0, -0.5)), ((-0.36, -0.12), (0.0, -0.5), (0.36, -0.12))),
    "keep left": (((0.36, -0.36), (-0.36, 0.36)), ((-0.36, -0.12), (-0.36, 0.36), (0.12, 0.36))),
    "keep right": (((-0.36, -0.36), (0.36, 0.36)), ((0.36, -0.12), (0.36, 0.36), (-0.12, 0.36))),
    "turn left": (((0.3, 0.5), (0.3, -0.2), (-0.4, -0.2)), ((-0.12, -0.48), (-0.42, -0.2), (-0.12, 0.08))),
    "turn right": (((-0.3, 0.5), (-0.3, -0.2), (0.4, -0.2)), ((0.12, -0.48), (0.42, -0.2), (0.12, 0.08))),
    "ring": (((0.0, -0.44), (0.38, -0.22), (0.38, 0.22), (0.0, 0.44), (-0.38, 0.22), (-0.38, -0.22), (0.0, -0.44)),),
    "bar": (((-0.5, -0.05), (0.5, -0.05)), ((-0.5, 0.05), (0.5, 0.05))),
    "slash": (((-0.6, -0.6), (0.6, 0.6)),),
    "back slash": (((0.6, -0.6), (-0.6, 0.6)),),
    "cross": (((-0.6, -0.6), (0.6, 0.6)), ((0.6, -0.6), (-0.6, 0.6))),
    "!": (((0.0, -0.3), (0.0, 0.2)), ((0.0, 0.48), (0.0, 0.5))),
    "bend right": (((-0.12, 0.5), (-0.12, 0.24), (0.14, 0.06), (0.14, -0.22)),),
    "bend left": (((0.12, 0.5), (0.12, 0.24), (-0.14, 0.06), (-0.14, -0.22)),),
    "plus": (((0.0, -0.16), (0.0, 0.56)), ((-0.3, 0.2), (0.3, 0.2))),
    "bump": (((-0.42, 0.5), (-0.16, 0.22), (0.16, 0.22), (0.42, 0.5), (-0.42, 0.5)),),
    "narrow": (((-0.32, 0.54), (-0.1, 0.1), (-0.1, -0.2)), ((0.32, 0.54), (0.1, 0.1), (0.1, -0.2))),
    "dots": (((-0.3, 0.4), (-0.28, 0.4)), ((0.28, 0.4), (0.3, 0.4)), ((0.0, -0.06), (0.0, -0.04))),
    "P": (((-0.2, 0.5), (-0.2, -0.46), (0.12, -0.46), (0.26, -0.3), (0.26, -0.1), (0.12, 0.04), (-0.2, 0.04)),),
    "H": (((-0.26, -0.48), (-0.26, 0.48)), ((0.26, -0.48), (0.26, 0.48)), ((-0.26, 0.0), (0.26, 0.0))),
    "T": (((0.0, 0.5), (0.0, -0.4)), ((-0.4, -0.4), (0.4, -0.4))),
}  # fmt: skip
"""Strokes by name: polylines, drawn with a round pen."""


def _limit(digit: str) -> Design:
    return Design(f"limit {digit}", circle, WHITE, RED, digit)


def _warning(name: str, glyph: str) -> Design:
    return Design(f"warning: {name}", triangle, WHITE, RED, glyph)


def _order(glyph: str) -> Design:
    return Design(f"go {glyph}", circle, BLUE, WHITE, glyph, WHITE)


DESIGNS: tuple[Design, ...] = (
    _limit("2"), _limit("3"), _limit("5"), _limit("8"),
    _warning("danger", "!"), _warning("bend", "bend right"),
    _order("left"), _order("right"),
    Design("priority road", diamond, YELLOW, WHITE),
    Design("stop", octagon, RED, WHITE, "bar", WHITE),
    Design("no entry", circle, RED, RED, "bar", WHITE),
    Design("yield", yielding, WHITE, RED),
    _limit("1"), _limit("4"), _limit("6"), _limit("7"), _limit("9"),
    Design("no vehicles", circle, WHITE, RED),
    Design("no stopping", circle, BLUE, RED, "cross", RED),
    Design("no parking", circle, BLUE, RED, "slash", RED),
    Design("no left turn", circle, WHITE, RED, "turn left"),
    Design("no right turn", circle, WHITE, RED, "turn right"),
    Design("end of limits", circle, WHITE, BLACK, "back slash", GREY),
    _order("up"), _order("keep left"), _order("keep right"), _order("ring"), _order("turn left"), _order("turn right"),
    _warning("crossing", "plus"), _warning("bend to the left", "bend left"), _warning("bump", "bump"),
    _warning("narrow road", "narrow"), _warning("works", "dots"),
    Design("detour left", diamond, ORANGE, BLACK, "left"),
    Design("detour right", diamond, ORANGE, BLACK, "right"),
    Design("detour ahead", diamond, ORANGE, BLACK, "up"),
    Design("parking", square, BLUE, WHITE, "P", WHITE),
    Design("hospital", square, BLUE, WHITE, "H", WHITE),
    Design("dead end", square, BLUE, WHITE, "T", WHITE),
    Design("exit right", square, GREEN, WHITE, "keep right", WHITE),
    Design("exit left", square, GREEN, WHITE, "keep left", WHITE),
    Design("customs", octagon, WHITE, RED, "bar"),
)  # fmt: skip
"""Class k is design k: the first ten already mix easy pairs (shape, colour) with hard ones (digits,
directions).
"""


def stroke_distance(strokes: tuple[Stroke, ...], u: Plane, v: Plane) -> Plane:
    """Distance of every point (u, v) to the nearest stroke, in sign units."""
    nearest = np.full(u.shape, np.inf, np.float32)
    for stroke in strokes:
        for (au, av), (bu, bv) in pairwise(stroke):
            du, dv = np.float32(bu - au), np.float32(bv - av)
            pu, pv = u - np.float32(au), v - np.float32(av)
            along = np.clip((pu * du + pv * dv) / (du * du + dv * dv), np.float32(0), np.float32(1))
            pu -= along * du
            pv -= along * dv
            np.minimum(nearest, pu * pu + pv * pv, out=nearest)
    return np.sqrt(nearest)
