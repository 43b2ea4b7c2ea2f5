"""A model in a process of its own, which is shown a few images at a time and knows of no others.

The process is forked before there is anything to see, and builds the model there: code of plugins
runs in it and nowhere else. Images reach it through a pipe, and so do its answers come back, as
plain bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor, nn

from harness.errors import Incompatible, said

BEGIN = b"begin"
LONGEST = 4000
"""Characters of a message that are taken."""


class Apart(RuntimeError):
    """A model that failed in its own process; a note has its traceback there."""


class Asked:
    """The other end of the pipe."""

    def __init__(self, pipe: Connection, opened: list[str]) -> None:
        self._pipe = pipe
        self._opened = opened

    def begin(self) -> None:
        """Let the process build the model. Raises Incompatible or Apart where it could not."""
        self._send(BEGIN)
        self._answer()

    def about(self, images: np.ndarray) -> Tensor:
        """Return the model's logits, float32 (n, classes), for images (n, height, width, c) that
        it sees at once. Raises Incompatible or Apart where it gave none.
        """
        self._send(_described(images))
        self._send(np.ascontiguousarray(images).data.cast("B"))
        told = self._answer()
        content = np.frombuffer(self._pipe.recv_bytes(), np.float32)
        return torch.from_numpy(content.reshape(told["shape"]).copy())

    def _send(self, content: bytes | memoryview) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # what `_answer` finds says why
            self._pipe.send_bytes(content)

    def _answer(self) -> dict[str, Any]:
        try:
            told: dict[str, Any] = json.loads(self._pipe.recv_bytes())
        except (EOFError, ConnectionResetError) as error:
            raise Apart("the process of the model ended before it had answered") from error
        self._opened += map(str, told["opened"])
        if "failed" not in told:
            return told
        message = str(told["message"])[:LONGEST]
        if told["failed"] == Incompatible.__name__:
            raise Incompatible(message)
        failure = Apart(f"{told['failed']}: {message}")
        failure.add_note(str(told["traceback"]))
        raise failure


@dataclass(frozen=True)
class Served:
    """What the process of a model does: `prepare` before anything else, `build` when it is told to,
    and from then on `ask(model, images)` for each batch. `opened` gets the paths that it opens.
    """

    prepare: Callable[[], None]
    build: Callable[[], nn.Module]
    ask: Callable[[nn.Module, Tensor], Tensor]
    opened: list[str]


@contextmanager
def model_apart(served: Served) -> Iterator[Asked]:
    """Fork the process of a model; it ends with the block.

    The caller must not have run plugin code, nor have looked at what the model must not see.
    """
    here, there = Pipe()
    process = os.fork()
    if not process:
        here.close()
        try:
            _serve(there, served)
        finally:
            os._exit(0)
    there.close()
    try:
        yield Asked(here, served.opened)
    finally:
        here.close()
        os.waitpid(process, 0)


@contextmanager
def out_of_reach(path: Path) -> Iterator[np.ndarray]:
    """Map a `.npy` file that is nowhere to be found meanwhile; afterwards it is back."""
    with path.open("rb") as file:
        npy.read_magic(file)
        shape, _, dtype = npy.read_array_header_1_0(file)
        array = np.memmap(file, dtype, mode="c", offset=file.tell(), shape=shape)
        path.unlink()
        try:
            yield array
        finally:
            file.seek(0)
            with path.open("wb") as copy:
                shutil.copyfileobj(file, copy)


def _serve(pipe: Connection, served: Served) -> None:
    """Answer until the other end closes. What fails is told to it, and ends the process."""
    told = len(served.opened)

    def tell(**facts: Any) -> None:
        nonlocal told
        pipe.send_bytes(json.dumps({**facts, "opened": served.opened[told:]}).encode())
        told = len(served.opened)

    try:
        served.prepare()
        pipe.recv_bytes()
        model = served.build()
        tell()
        while True:
            shape, dtype = json.loads(pipe.recv_bytes())
            content = np.frombuffer(bytearray(pipe.recv_bytes()), dtype)
            logits = served.ask(model, torch.from_numpy(content.reshape(shape))).numpy()
            tell(shape=logits.shape)
            pipe.send_bytes(np.ascontiguousarray(logits).data.cast("B"))
    except EOFError:
        return
    except BaseException as error:
        lines = "".join(traceback.format_exception(error))
        tell(failed=type(error).__name__, message=said(error), traceback=lines)


def _described(images: np.ndarray) -> bytes:
    return json.dumps([images.shape, images.dtype.str]).encode()
