"""Headers of files of tensors that a stage may have left: names, types and shapes, without a value.

They are read here rather than by the libraries of these formats: those map a file into memory, and
whoever cuts it off at that moment ends the process that reads it, here the command's own.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from harness.store import plain

_TYPES: Mapping[str, tuple[str, int]] = {
    "BOOL": ("bool", 8),
    "F4": ("float4_e2m1fn_x2", 4),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "I16": ("int16", 16),
    "U16": ("uint16", 16),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "I32": ("int32", 32),
    "U32": ("uint32", 32),
    "F32": ("float32", 32),
    "I64": ("int64", 64),
    "U64": ("uint64", 64),
    "F64": ("float64", 64),
    "C64": ("complex64", 64),
}
"""Types of safetensors: the name that torch has for each, and bits of a value."""

_METADATA = "__metadata__"

_NPY = b"\x93NUMPY\x01\x00"
_NPY_TYPES: Mapping[bytes, tuple[str, int]] = {b"|u1": ("uint8", 1), b"<f4": ("float32", 4)}
"""Types of .npy files: the name that torch has for each, and bytes of a value."""
_NPY_HEADER = re.compile(
    rb"\{'descr': '([^']*)', 'fortran_order': False, "
    rb"'shape': \(((?:\d{1,18}, ?)*\d{0,18})\), \} *\n"
)


@dataclass(frozen=True)
class Form:
    """The form of a tensor: its type, as torch names it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


@dataclass(frozen=True)
class Header:
    """What a file of safetensors tells: the forms of its tensors by name, and its metadata."""

    tensors: Mapping[str, Form]
    metadata: Mapping[str, Any]


def safetensors(path: Path) -> Header:
    """Return the header of a file of safetensors. Raises ValueError where a reader would not take
    the file, or where a name in it cannot be shown on a line, else OSError.
    """
    with os.fdopen(plain.opened(path), "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        length = int.from_bytes(_exactly(stream, 8), "little")
        if length > plain.LIMIT:
            raise ValueError(f"it is no safetensors file, or has a header of {length:,} bytes")
        data = _exactly(stream, length)
    # Python would also take UTF-16 and UTF-32, which readers do not.
    if not data.startswith(b"{") or b"\0" in data:
        raise ValueError("it is no safetensors file: its header is no JSON object")
    table = plain.table(data)
    metadata = table.pop(_METADATA, {})
    if not isinstance(metadata, dict):
        raise ValueError(f"its metadata is a {type(metadata).__name__}; a table is expected")
    ends = []
    forms = {}
    for name, entry in table.items():
        forms[name], begin, end = _entry(name, entry)
        ends.append((begin, end))
    _check_filled(ends, size - 8 - length)
    return Header(forms, metadata)


def _entry(name: str, entry: Any) -> tuple[Form, int, int]:
    """Return the form of a tensor, and where in the file its values begin and end."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"{name} has no type, no shape or no place in the file")
    kind = entry["dtype"]
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ValueError(f"{name} has the unknown type {str(kind)[:20]!r}")
    shape = _counts(entry["shape"])
    place = _counts(entry["data_offsets"])
    if shape is None or place is None or len(place) != 2:
        raise ValueError(f"the shape of {name}, or its place in the file, is no list of counts")
    dtype, bits = _TYPES[kind]
    begin, end = place
    if 8 * (end - begin) != math.prod(shape) * bits:
        raise ValueError(f"{name} is {dtype} {shape}, but has {end - begin:,} bytes")
    return Form(dtype, shape), begin, end


def _counts(values: Any) -> tuple[int, ...] | None:
    """Return a list of whole numbers, 0 or more; None for anything else."""
    if not isinstance(values, list):
        return None
    for value in values:
        if type(value) is not int or value < 0:
            return None
    return tuple(values)


def _check_filled(ends: list[tuple[int, int]], size: int) -> None:
    """Raise ValueError unless the tensors fill the `size` bytes behind the header, each once."""
    filled = 0
    for begin, end in sorted(ends):
        if begin != filled:
            raise ValueError("its tensors overlap, or leave gaps between them")
        filled = end
    if filled != size:
        raise ValueError(f"it has {size:,} bytes of values, where its tensors need {filled:,}")


def npy(path: Path) -> Form:
    """Return the form of the array in a .npy file, of uint8 or float32, as `stamp` writes it.
    Raises ValueError for any other file, else OSError.
    """
    with os.fdopen(plain.opened(path), "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if stream.read(len(_NPY)) != _NPY:
            raise ValueError("it is no .npy file of format 1.0")
        length = int.from_bytes(_exactly(stream, 2), "little")
        found = _NPY_HEADER.fullmatch(_exactly(stream, length))
        behind = size - stream.tell()
    if found is None:
        raise ValueError("its header is not as NumPy writes it for an array in C's order")
    kind, counts = found.groups()
    if kind not in _NPY_TYPES:
        named = kind.decode("latin-1")[:20]
        raise ValueError(f"it has the type {named!r}; '|u1' (uint8) or '<f4' (float32) is expected")
    dtype, width = _NPY_TYPES[kind]
    shape = tuple(int(count) for count in counts.split(b",") if count.strip())
    if behind != math.prod(shape) * width:
        raise ValueError(f"it is {dtype} {shape}, but has {behind:,} bytes of values")
    return Form(dtype, shape)


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise ValueError("it is cut off in its header")
    return data
