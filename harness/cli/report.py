"""`bench report`: a grid's tables from what is stored. Computes nothing."""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from harness.cli import planning
from harness.errors import BenchError
from harness.outcomes import Outcome

if TYPE_CHECKING:
    from harness.report.results import Row

PIPED = 120
"""Characters of a line where there is no terminal to ask."""


def run(args: argparse.Namespace) -> int:
    """Print or write the tables. Exit code 0: every compatible cell has its rows; 1: some are
    lacking.
    """
    planned = planning.load(args, make=False)
    write_asked = write_costs if args.costs else write_tables
    if args.output is None:
        return code(write_asked(planned, sys.stdout, args.format))
    text = io.StringIO()
    found = write_asked(planned, text, args.format)
    put(args.output, text.getvalue().encode())
    return code(found)


def write_costs(planned: planning.Planned, stream: TextIO, form: str = "terminal") -> list[Row]:
    """Write what the stages of a plan cost; returns the rows, too, which tell whether all has been
    paid.
    """
    from harness.report import results
    from harness.report.costs import text
    from harness.report.stage_costs import costs

    stream.write(text(costs(planned.plan), form))
    return results.rows(planned.plan, planned.store)


def write_tables(planned: planning.Planned, stream: TextIO, form: str = "terminal") -> list[Row]:
    """Write the tables of a plan as its last `refresh` found the store; returns the rows behind
    them.
    """
    from harness.report import results

    rows = results.rows(planned.plan, planned.store)
    write(planned, rows, stream, form)
    return rows


def write(
    planned: planning.Planned, rows: Sequence[Row], stream: TextIO, form: str = "terminal"
) -> None:
    """Write the tables of rows that were read already."""
    from harness import report
    from harness.report import long

    if form == "csv":
        long.write(rows, stream)
        return
    stream.write(report.text(planned.plan, rows, planned.resolver, form, _width(stream)))


def code(rows: Sequence[Row]) -> int:
    """What rows amount to as an exit code."""
    return int(any(row.status not in (Outcome.DONE, Outcome.INCOMPATIBLE) for row in rows))


def _width(stream: TextIO) -> int:
    return max(80, shutil.get_terminal_size().columns) if stream.isatty() else PIPED


def put(path: Path, data: bytes) -> None:
    """Write all of a file or, where that cannot be, leave it as it was. Raises BenchError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise BenchError(
            f"{path}: {error.strerror}. --output names a file in a folder that can be written"
        ) from error
