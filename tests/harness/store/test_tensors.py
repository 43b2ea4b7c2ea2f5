"""Headers of files of tensors: what is accepted a library reads, to the same names, types and
shapes.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save, save_file

from harness.store import plain, tensors
from harness.store.tensors import Form

TYPES = (
    torch.bool,
    torch.uint8,
    torch.int16,
    torch.int64,
    torch.float8_e4m3fn,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
)


def form(tensor: torch.Tensor) -> Form:
    return Form(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def test_what_the_library_wrote(tmp_path: Path) -> None:
    written = {str(kind): torch.zeros(number, 3).to(kind) for number, kind in enumerate(TYPES)}
    written["one"] = torch.tensor(1.5)
    path = tmp_path / "a.safetensors"
    save_file(written, path, metadata={"add": "True"})
    header = tensors.safetensors(path)
    assert header.tensors == {name: form(tensor) for name, tensor in written.items()}
    assert header.metadata == {"add": "True"}
    save_file({}, path)
    assert tensors.safetensors(path).tensors == {}


GOOD = save({"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.int64)})


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, 3))
def test_what_the_library_would_not_read_is_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int, cut: int
) -> None:
    """One byte is another, and up to three are lacking at the end."""
    data = bytearray(GOOD)
    data[at] = value
    del data[len(data) - cut :]
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(data)
    try:
        header = tensors.safetensors(path)
    except ValueError:
        return
    found = load(bytes(data))
    assert header.tensors == {name: form(tensor) for name, tensor in found.items()}


def with_header(table: Any, values: int = 0) -> bytes:
    told = table if isinstance(table, bytes) else json.dumps(table).encode()
    return len(told).to_bytes(8, "little") + told + bytes(values)


def entry(dtype: Any = "U8", shape: Any = (2,), place: Any = (0, 2)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": place}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cut off in its header"),
        (b"\x08\0\0\0\0\0\0\0{}", "cut off in its header"),
        (b"a torch pickle, say", "no safetensors file, or has a header of"),
        (with_header(b"[1]"), "no safetensors file: its header is no JSON object"),
        (with_header("{}".encode("utf-16-le")), "no JSON object"),
        (with_header(b'{"a": '), "Expecting value"),
        (with_header({"__metadata__": [1]}), "its metadata is a list; a table is expected"),
        (with_header({"a": 7}), "a has no type, no shape or no place"),
        (with_header({"a": entry("O")}, 2), "a has the unknown type 'O'"),
        (with_header({"a": entry(["U8"])}, 2), "unknown type"),
        (with_header({"a": entry(shape=[-2])}, 2), "no list of counts"),
        (with_header({"a": entry(shape=[True])}, 2), "no list of counts"),
        (with_header({"a": entry(place=[0])}, 2), "no list of counts"),
        (with_header({"a": entry("F32")}, 2), r"a is float32 \(2,\), but has 2 bytes"),
        (with_header({"a": entry(place=[2, 0])}, 2), "but has -2 bytes"),
        (with_header({"a": entry(), "b": entry()}, 4), "overlap, or leave gaps"),
        (with_header({"a": entry(place=[1, 3])}, 3), "overlap, or leave gaps"),
        (with_header({"a": entry()}, 1), "has 1 bytes of values, where its tensors need 2"),
        (with_header({"a": entry()}, 3), "has 3 bytes of values, where its tensors need 2"),
        (with_header({"a\x1b[2J": entry()}, 2), "control characters"),
    ],
)
def test_no_safetensors(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=said):
        tensors.safetensors(path)
    if "control" not in said:
        with pytest.raises(Exception, match=r"deserializing|must be"), safe_open(path, "np"):
            pass


def test_a_header_is_read_from_a_plain_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    os.mkfifo(path)
    for read in (tensors.safetensors, tensors.npy):
        with pytest.raises(plain.NotPlain):
            read(path)  # type: ignore[operator]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 1), (0, 3, 4, 1), (5,), ()])
def test_arrays_that_numpy_wrote(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(shape, dtype))
    assert tensors.npy(path) == Form(dtype, shape)


def saved(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


ZEROS = saved(np.zeros((2, 3), np.uint8))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no .npy file"),
        (b"PK\x03\x04 a .npz", "no .npy file"),
        (ZEROS[:40], "cut off in its header"),
        (ZEROS[:-1], r"it is uint8 \(2, 3\), but has 5 bytes"),
        (ZEROS + b"x", "has 7 bytes"),
        (saved(np.zeros(2, np.int64)), "it has the type '<i8'"),
        (saved(np.array([None, 1], object)), r"it has the type '\|O'"),
        (saved(np.zeros(2, [("a", "u1")])), "not as NumPy writes it"),
        (saved(np.asfortranarray(np.zeros((2, 3), np.uint8))), "not as NumPy writes it"),
        (ZEROS.replace(b"(2, 3)", b"(2,-3)"), "not as NumPy writes it"),
    ],
)
def test_no_array(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=said):
        tensors.npy(path)
