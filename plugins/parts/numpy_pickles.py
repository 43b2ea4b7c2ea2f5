"""NumPy's numbers in a torch checkpoint, read without NumPy's own unpickling.

Checkpoints hold them beside the weights: an accuracy, labels, a list of indices. Stand-ins take the
place of the functions that such a pickle names, keep what they are given, and run nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

PLAIN = "biuf"
"""NumPy's letters for truth values, whole and real numbers."""


class Kind:
    """Stands for `numpy.dtype`."""

    def __init__(self, name: object = "", *rest: object) -> None:
        self.name = str(name)
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])

    def plain(self) -> np.dtype[Any] | None:
        """Return the type if it is one of plain numbers."""
        try:
            kind = np.dtype(self.name)
        except TypeError:
            return None
        if kind.kind not in PLAIN:
            return None
        if self.order == "<":
            return kind.newbyteorder("<")
        if self.order == ">":
            return kind.newbyteorder(">")
        return kind.newbyteorder("=")


class Array:
    """Stands for `numpy.ndarray`, and for single numbers."""

    def __init__(self, *rest: object) -> None:
        self.shape: Any = ()
        self.kind: Any = None
        self.content: Any = b""
        self.by_columns = False

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.kind, self.by_columns, self.content = state

    def numbers(self) -> np.ndarray | None:
        """Return the array in the machine's byte order, writable; None if it is no array of plain
        numbers.
        """
        kind = self.kind.plain() if isinstance(self.kind, Kind) else None
        if kind is None or not isinstance(self.content, bytes):
            return None
        try:
            flat = np.frombuffer(self.content, kind)
            array = flat.reshape(self.shape, order="F" if self.by_columns else "C")
        except (TypeError, ValueError):
            return None
        return array.astype(kind.newbyteorder("="), order="C")


def _empty(*rest: object) -> Array:
    """Stand for the function that makes an array to be filled."""
    return Array()


def _number(kind: object = None, content: object = b"", *rest: object) -> Array:
    """Stand for the function that makes a single number."""
    array = Array()
    array.kind = kind
    array.content = content
    return array


def _no_bytes(*rest: object) -> bytes | None:
    """Stand for `bytes`, which old pickles call for the content of an empty array."""
    return None if rest else b""


STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (Array, "numpy.ndarray"),
    (Kind, "numpy.dtype"),
    (_empty, "numpy.core.multiarray._reconstruct"),
    (_empty, "numpy._core.multiarray._reconstruct"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
    (_no_bytes, "__builtin__.bytes"),
    (_no_bytes, "builtins.bytes"),
]
"""What torch's reader calls instead, by the name in the file."""
