"""`bench report`: a grid's tables from what is stored. Computes nothing."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from harness import report
from harness.api.planning import Planned
from harness.cli import planning
from harness.cli.limits import NO_ROOM
from harness.cli.streams import OutputLost
from harness.errors import BenchError
from harness.report import costs, long, results
from harness.report.results import Row

PIPED = 120
"""Characters of a line where there is no terminal to ask."""
NARROWEST = 80
"""Characters of a line at least."""


def run(args: argparse.Namespace) -> int:
    """Print or write the tables. Exit code 0: every compatible cell has its rows; 1: some are
    lacking.
    """
    planned = planning.load(args, make=False)
    write_asked = write_costs if args.costs else write_tables
    if args.output is None:
        rows = write_asked(planned, sys.stdout, args.format)
    else:
        text = io.StringIO()
        rows = write_asked(planned, text, args.format)
        put(args.output, text.getvalue().encode())
    return results.exit_code(rows)


def write_costs(planned: Planned, stream: TextIO, form: str = "terminal") -> list[Row]:
    """Write what the stages of a plan cost; return the rows, too, which tell whether all has been
    paid.
    """
    paid = costs.costs(planned.plan)
    stream.write(costs.text(paid, form))
    return results.rows(planned.plan, planned.store)


def write_tables(planned: Planned, stream: TextIO, form: str = "terminal") -> list[Row]:
    """Write the tables of a plan as its last `refresh` found the store; return the rows behind
    them.
    """
    rows = results.rows(planned.plan, planned.store)
    write(planned, rows, stream, form)
    return rows


def write(planned: Planned, rows: Sequence[Row], stream: TextIO, form: str = "terminal") -> None:
    """Write the tables of rows that were read already."""
    if form == "csv":
        long.write(rows, stream)
        return
    width = _width(stream)
    stream.write(report.text(planned.plan, rows, planned.resolver, form, width))


def put(path: Path, data: bytes) -> None:
    """Write all of a file or, where that cannot be, leave it as it was. Raises BenchError.

    A link stays one, and leads to the new file. A pipe or a device, such as /dev/stdout, is written
    to: another file in its place would be no answer.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            _replace(path.resolve(), data)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise OutputLost(f"{path}: {error.strerror}") from error
        raise BenchError(
            f"{path}: {error.strerror}. --output names a file in a folder that can be written"
        ) from error


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


def _width(stream: TextIO) -> int:
    if not stream.isatty():
        return PIPED
    return max(NARROWEST, shutil.get_terminal_size().columns)
