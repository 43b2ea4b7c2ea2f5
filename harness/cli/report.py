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
from harness.report import costs, results
from harness.report.long import LongForm
from harness.report.results import Row

PIPED = 120
"""Characters of a line where there is no terminal to ask."""
NARROWEST = 20
"""Characters of a line at least."""


def run(args: argparse.Namespace) -> int:
    """Print or write the tables. Exit code 0: every compatible cell has its rows; 1: some are
    lacking, or not judged.
    """
    _check(args)
    planned = planning.load(args, make=False)
    rows = results.rows(planned.plan, planned.store)
    if args.output is None:
        _write(planned, rows, sys.stdout, args)
    else:
        text = io.StringIO()
        _write(planned, rows, text, args)
        put(args.output, text.getvalue().encode())
    return results.exit_code(rows)


def _check(args: argparse.Namespace) -> None:
    """Raise BenchError for options that do nothing together."""
    is_long = args.format in report.LONG
    if args.columns and args.full:
        raise BenchError("--columns and --full: say which columns, or all of them")
    for option, given in (("--columns", args.columns), ("--full", args.full)):
        if given and (args.costs or not is_long):
            formats = " or ".join(report.LONG)
            raise BenchError(
                f"{option}: goes with --format {formats}, and not with --costs; what tables show, "
                "the [[table]] entries of the grid say"
            )
    if args.best and (args.costs or args.format not in report.RANKING):
        formats = " or ".join(report.RANKING)
        raise BenchError(f"--best: goes with --format {formats}, and not with --costs")


def _write(planned: Planned, rows: Sequence[Row], stream: TextIO, args: argparse.Namespace) -> None:
    """Write what the options ask for."""
    if args.costs:
        paid = costs.costs(planned.plan)
        if args.format in report.LONG:
            costs.write_long(paid, stream, args.format)
        else:
            stream.write(report.drawn(costs.tables(paid), args.format, _width(stream)))
    elif args.format in report.LONG:
        names = [] if args.columns is None else args.columns.split(",")
        LongForm(rows, names, full=args.full).write(stream, args.format)
    else:
        write(planned, rows, stream, args.format, best=args.best)


def write(
    planned: Planned,
    rows: Sequence[Row],
    stream: TextIO,
    form: str = "terminal",
    *,
    best: bool = False,
) -> None:
    """Write the tables of rows that were read."""
    tables = report.tables(planned.plan, rows, planned.resolver)
    stream.write(report.drawn(tables, form, _width(stream), best=best))


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
