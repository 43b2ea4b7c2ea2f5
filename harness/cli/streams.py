"""The standard streams of a command: closed, full, without a reader, or in a narrow encoding.

Nothing of that is a bug of ours, and none of it may cost work. A stream that is closed is as good
as the null device: whoever closes it wants to see nothing. What cannot be told on stderr is not
told, and the work goes on. Output that cannot be written is said on stderr, and by the exit code.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from harness.errors import BenchError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

OUTPUT_LOST = 74
PIPE_CLOSED = 141


class OutputLost(BenchError):
    """Raised where output cannot be written, because a disk is full, for example."""

    exit_code = OUTPUT_LOST


class ReaderLeft(OutputLost):
    """Raised where whoever read the output, such as `head`, has closed it."""

    exit_code = PIPE_CLOSED


class Output:
    """The standard output of a command, whatever it is at the moment."""

    def __init__(self, raw: _Stream | None) -> None:
        self._raw = raw

    def finish(self) -> None:
        """Write what is left in buffers. Raises OutputLost where that or anything before failed."""
        sys.stdout.flush()
        # The error may have come up where a plugin printed, which must not end a run.
        if self._raw is not None and self._raw.error is not None:
            raise _lost(self._raw.error)


@contextmanager
def guarded() -> Iterator[Output]:
    """Replace the process's own streams by such as do not fail, until the end of the command.

    Streams that somebody else has put in their place, as tests do, are left alone.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    raw = None
    if before[0] is sys.__stdout__:
        raw = _Stream(1, raises=True)
        sys.stdout = _text(raw, before[0])
    if before[1] is sys.__stderr__:
        sys.stderr = _text(_Stream(2, raises=False), before[1])
    try:
        yield Output(raw)
    finally:
        with suppress(OutputLost):
            sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _open_closed() -> None:
    """Open the null device as each of the descriptors 0 to 2 that is closed: the next file that is
    opened would get its number, and be written to by whoever means the stream.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)


class _Stream(io.FileIO):
    """One of the descriptors 1 and 2. From its first error on, it swallows what is written; with
    `raises`, that error is raised, as OutputLost.
    """

    def __init__(self, descriptor: int, *, raises: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.raises = raises
        self.error: OSError | None = None

    def write(self, data: ReadableBuffer) -> int:
        size = memoryview(data).nbytes
        if self.error is not None:
            return size
        try:
            return self._written(data)
        except OSError as error:
            self.error = error
            if self.raises:
                raise _lost(error) from error
            return size

    def _written(self, data: ReadableBuffer) -> int:
        while True:
            written: int | None = super().write(data)
            if written is not None:
                return written
            # Whoever shares the descriptor with us has told it not to wait.
            select.select([], [self], [])


def _lost(error: OSError) -> OutputLost:
    if isinstance(error, BrokenPipeError):
        return ReaderLeft("whoever read the output has closed it")
    return OutputLost(f"the output cannot be written: {error.strerror or error}")


def _text(raw: _Stream, before: TextIO | None) -> TextIO:
    """Return a text stream on `raw` that is set up like the one before it, but replaces characters
    that its encoding does not have.
    """
    if not isinstance(before, io.TextIOWrapper):  # it was closed
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "replace")
    errors = before.errors
    if errors is None or errors == "strict":
        errors = "replace"
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        before.encoding,
        errors,
        line_buffering=before.line_buffering,
        write_through=before.write_through,
    )
