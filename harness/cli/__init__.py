"""The command line: `bench VERB ...`.

Each verb is a module of this package, imported when it is asked for: `bench --help` must be quick.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from harness.cli import limits, streams
from harness.errors import BenchError

# Exit codes that belong to no verb, as do those of `limits` and `streams`. All of them are in
# docs/commands.md.
USAGE = 2
BUG = 70
INTERRUPTED = 130
TERMINATED = 143

_EPILOG = "`bench VERB --help` says more. The store is --store, else $BENCH_STORE, else ./.bench."


class _Terminated(BaseException):
    """SIGTERM arrived: the stack unwinds, so that children are ended and files closed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing but usage messages and errors goes to
    stderr.
    """
    with streams.guarded() as output:
        return _main(argv, output)


def _main(argv: Sequence[str] | None, output: streams.Output) -> int:
    try:
        with _terminable():
            code = _run(argv)
            output.finish()
            return code
    except streams.ReaderLeft as error:
        return error.exit_code
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return INTERRUPTED
    except _Terminated:
        print("bench: terminated", file=sys.stderr)
        return TERMINATED
    except Exception as error:
        limit = limits.told(error)
        if limit:
            print(f"bench: {limit}", file=sys.stderr)
            return limits.AT_LIMIT
        traceback.print_exc()
        print("bench: this is a bug in bench itself, not in your grid", file=sys.stderr)
        return BUG


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    top = argparse.ArgumentParser(
        prog="bench",
        description="Benchmark backdoor attacks and defenses.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    verbs = top.add_subparsers(metavar="VERB", dest="verb", required=True)
    for name, (module, summary, add_arguments) in _VERBS.items():
        description = f"{summary[0].upper()}{summary[1:]}."
        verb = verbs.add_parser(name, help=summary, description=description, allow_abbrev=False)
        verb.set_defaults(module=module)
        add_arguments(verb)
    return top


def _run(argv: Sequence[str] | None) -> int:
    """Read the command line, import the verb that it asks for, and run it."""
    try:
        arguments = parser().parse_args(argv)
    except SystemExit as leave:  # --help, --version and mistakes in usage
        return leave.code if isinstance(leave.code, int) else USAGE
    arguments.typed = sys.argv[1:] if argv is None else list(argv)
    module = importlib.import_module(f"harness.cli.{arguments.module}")
    code: int = module.run(arguments)
    return code


def _add_run(verb: argparse.ArgumentParser) -> None:
    _add_grid(verb)
    _add_store(verb)
    _add_selection(verb)
    _add_execution(verb)
    verb.add_argument("--strict", action="store_true", help="exit with 3 if any plugin is broken")


def _add_plan(verb: argparse.ArgumentParser) -> None:
    _add_grid(verb)
    _add_store(verb)
    _add_selection(verb)
    verb.add_argument("--explain", action="store_true", help="say of each stage why it would run")


def _add_status(verb: argparse.ArgumentParser) -> None:
    _add_grid(verb, nargs="?")
    _add_store(verb)
    verb.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="keys of the stages and, of a grid's, their settings",
    )
    verb.add_argument(
        "--forget",
        action="store_true",
        help="first forget failures whose sources have changed, or whose grid is gone",
    )


def _add_logs(verb: argparse.ArgumentParser) -> None:
    _add_grid(verb)
    _add_store(verb)
    _add_selection(verb)


def _add_report(verb: argparse.ArgumentParser) -> None:
    _add_grid(verb)
    _add_store(verb)
    formats = ("terminal", "markdown", "latex", "csv", "json")
    verb.add_argument(
        "--format",
        choices=formats,
        default="terminal",
        help="of the tables (default: terminal); csv and json have a line for each number",
    )
    verb.add_argument(
        "--best",
        action="store_true",
        help="the best number of each comparison in bold, in markdown and latex",
    )
    verb.add_argument(
        "--columns",
        metavar="NAMES",
        help="of csv and json, such as attack,defense,metric,value,recipe.epochs",
    )
    verb.add_argument(
        "--full",
        action="store_true",
        help="all columns of csv and json: settings, versions, sources, keys, environment",
    )
    verb.add_argument(
        "--output", type=Path, metavar="FILE", help="write there instead of to the terminal"
    )
    verb.add_argument(
        "--costs",
        action="store_true",
        help="time, images and memory of the stages instead of results",
    )


def _add_list(verb: argparse.ArgumentParser) -> None:
    kinds = ("attacks", "defenses", "models", "datasets", "metrics", "parts", "recipes")
    verb.add_argument(
        "kind", nargs="?", choices=kinds, metavar="KIND", help=f"{', '.join(kinds)} (default: all)"
    )
    verb.add_argument("--json", action="store_true", help="print a JSON list")


def _add_show(verb: argparse.ArgumentParser) -> None:
    verb.usage = "bench show [-h] [KIND] NAME"
    verb.add_argument(
        "words", nargs="+", metavar="[KIND] NAME", help="a component, a recipe or a broken plugin"
    )


def _add_preview(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "what",
        metavar="GRID|ATTACK",
        help="a grid file, such as grid.toml, or the name of an attack",
    )
    _add_selection(verb)
    verb.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of the attack's entry, such as poison_rate=0.1, where an attack is named; "
        "may be repeated",
    )
    verb.add_argument(
        "--dataset", metavar="NAME", help="what a named attack is shown on (default: signs)"
    )
    verb.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("preview.png"),
        metavar="FILE",
        help="the picture (default: preview.png)",
    )
    verb.add_argument(
        "--images", type=_positive(int), default=8, metavar="N", help="images of a row (default: 8)"
    )
    verb.add_argument(
        "--amplify",
        type=_positive(float),
        metavar="X",
        help="factor on differences (default: for each row the largest that cuts nothing off)",
    )
    _add_store(verb)
    _add_execution(verb)


def _add_pack(verb: argparse.ArgumentParser) -> None:
    _add_grid(verb)
    verb.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the pack, a zip file"
    )
    _add_store(verb)
    _add_selection(verb)
    more = verb.add_mutually_exclusive_group()
    more.add_argument(
        "--weights", action="store_true", help="also weights and triggers, which may be large"
    )
    more.add_argument(
        "--all", action="store_true", help="also images, of the datasets too, and models' answers"
    )


def _add_unpack(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("file", type=Path, metavar="FILE", help="a file that `bench pack` made")
    _add_store(verb)


def _add_cache(verb: argparse.ArgumentParser) -> None:
    verb.usage = "bench cache [-h] [--store FOLDER] [--yes] [prune | verify] [GRID ...]"
    verb.add_argument(
        "words",
        nargs="*",
        metavar="[prune | verify] [GRID ...]",
        help="delete what none of the grids needs; or compare all that is stored with its "
        "checksums; else show sizes, also by grid",
    )
    verb.add_argument("--yes", action="store_true", help="delete without asking")
    _add_store(verb)


def _add_execution(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--jobs", type=_positive(int), metavar="N", help="stages at once (default: as many as fit)"
    )
    verb.add_argument(
        "--threads", type=_positive(int), metavar="N", help="threads of each stage (default: 1)"
    )
    verb.add_argument(
        "--device",
        metavar="NAME",
        help="cpu, cuda or cuda:<number> (default: GPUs if there are any)",
    )
    verb.add_argument(
        "--timeout", type=_positive(float), metavar="SECONDS", help="longest time of a stage"
    )
    verb.add_argument(
        "--on-timeout",
        choices=("fail", "pause"),
        default="fail",
        help="what then happens to a stage that keeps its state (default: fail)",
    )
    verb.add_argument(
        "--checkpoint",
        type=_not_negative,
        metavar="SECONDS",
        help="how often the state of long stages is kept; 0: never (default: 300)",
    )
    verb.add_argument(
        "--engine", default="local", metavar="NAME", help="where stages run (default: local)"
    )


def _add_grid(verb: argparse.ArgumentParser, nargs: str | None = None) -> None:
    verb.add_argument(
        "grid", type=Path, nargs=nargs, metavar="GRID", help="the grid file, such as grid.toml"
    )


def _add_store(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--store", type=Path, metavar="FOLDER", help="where results are kept")


def _add_selection(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "-k",
        dest="select",
        metavar="EXPR",
        help='only cells that match, such as "badnets and not (ft or nad)"',
    )


def _positive(number: Callable[[str], float]) -> Callable[[str], float]:
    """Return a type for options that reads a number above 0."""

    def read(text: str) -> float:
        try:
            value = number(text)
        except ValueError:
            value = 0
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
        return value

    return read


def _not_negative(text: str) -> float:
    """Read a number, 0 or above."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, 0 or above")
    return value


_VERBS: dict[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]] = {
    "run": ("run", "run what a grid still lacks and print its tables", _add_run),
    "plan": ("plan", "show what would run, what is cached, and why", _add_plan),
    "status": ("status", "show what is running, done and failed", _add_status),
    "logs": ("logs", "print what the stages of cells printed", _add_logs),
    "report": ("report", "print a grid's tables from stored results", _add_report),
    "preview": ("preview", "draw what attacks do to images", _add_preview),
    "pack": ("pack", "write what is stored of a grid into one file to share", _add_pack),
    "unpack": ("unpack", "merge such a file into a store", _add_unpack),
    "cache": ("cache", "show, prune or verify what is stored", _add_cache),
    "list": ("list_", "list what can be named in a grid", _add_list),
    "show": ("show", "show a component's parameters and where it comes from", _add_show),
}


class _Version(argparse.Action):
    """An option that looks the version up only when it is given."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        import harness  # whose front door need not be open for every `--help`

        print(f"bench {harness.__version__}")
        parser.exit()


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, instead of ending the process on the spot."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # not the main thread: whoever called us decides
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
