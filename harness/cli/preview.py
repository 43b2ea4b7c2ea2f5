"""`bench preview`: a picture of what attacks do to images. Draws in a child; trains no victim."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import grid
from harness.cli import planning
from harness.cli.report import put
from harness.errors import BenchError, GridError, NothingSelected, Problem
from harness.outcomes import Outcome

if TYPE_CHECKING:
    from harness.grid import Grid
    from harness.plan.graph import Graph
    from harness.plan.plan import Plan
    from harness.preview.panels import Shown
    from harness.preview.sheet import Panel
    from harness.registry.names import Registry
    from harness.registry.resolve import Resolver
    from harness.run.execute import Ended
    from harness.store.objects import Store

MOST = 100
"""Images of a row at most."""

ALONE: Mapping[str, Any] = {
    "dataset": [{"name": "signs"}],
    "model": [{"name": "small-cnn"}],
    "defense": [{"name": "none"}],
    "metric": [{"name": "acc"}],
    "training": {"recipe": "signs"},
}
"""The grid that an attack stands in when it is named alone. Model and recipe matter only to
triggers that are crafted against a network.
"""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DRAWING = 600.0
"""Seconds that drawing may take."""


def run(args: argparse.Namespace) -> int:
    """Make what is needed, draw it, say what is drawn. Exit code 1: something failed; 5: there is
    nothing to draw.
    """
    from harness.preview import panels
    from harness.registry.discovery import discover
    from harness.registry.memo import Memo
    from harness.registry.resolve import Resolver

    if args.images > MOST:
        raise BenchError(f"--images {args.images}: at most {MOST} stand in a row")
    _check(args.output)
    memo = Memo()
    graph, found = _chosen(args, Resolver(discover(memo), memo=memo))
    store = planning.open_store(args, make=True)
    plan, found = panels.lay_out(graph, found, store, args.images)
    ended, code = _make(plan, store, args)
    pictures: list[tuple[str, Panel]] = []
    for shown in found:
        drawn = _drawn(shown, plan, store, ended, args.amplify)
        print("\n".join(_told(shown, drawn)))
        if shown.stage and not isinstance(drawn, str):
            pictures.append((shown.stage.key, drawn))
    if pictures:
        put(args.output, _picture(store, pictures))
        print(f"{args.output}: {len(pictures)} of {len(found)} drawn")
    elif not code:
        raise NothingSelected(f"{args.what}: there is no trigger to draw")
    return code


# --- what is asked for ----------------------------------------------------------------------------


def _check(path: Path) -> None:
    """Refuse a name that would cost a file of another kind, before any work is done."""
    if path.suffix.lower() != ".png":
        raise BenchError(
            f"--output {path}: a PNG picture is written; give it a name that ends in .png"
        )
    if not path.parent.is_dir():
        raise BenchError(f"--output {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise BenchError(f"--output {path}: is a folder; name a file in it")
    if path.exists():
        with path.open("rb") as file:
            start = file.read(len(_SIGNATURE))
        if start not in (_SIGNATURE, b""):
            raise BenchError(
                f"--output {path}: exists and is no PNG picture, so it is left alone. Name another file"
            )


def _chosen(args: argparse.Namespace, resolver: Resolver) -> tuple[Graph, list[Shown]]:
    """The attacks that are asked for, resolved. Raises BenchError."""
    from harness.preview import panels

    if not _is_grid(args.what):
        try:
            read = _alone(args, resolver.registry)
            return panels.chosen(read, read.cells, resolver)
        except GridError as error:
            raise _in_words(error) from None
    for option, value in (("--set", args.set), ("--dataset", args.dataset)):
        if value:
            raise BenchError(
                f"{option} goes with the name of an attack; what {args.what} shows is said in it"
            )
    return panels.chosen(*planning.selected(Path(args.what), args.select), resolver)


def _is_grid(what: str) -> bool:
    return what.endswith(".toml") or "/" in what or Path(what).is_file()


def _alone(args: argparse.Namespace, registry: Registry) -> Grid:
    """The grid of an attack that is named. Raises BenchError."""
    if args.select:
        raise BenchError(
            f"-k chooses cells of a grid, and {args.what!r} names none; a grid's name ends in .toml"
        )
    registry.find("attack", args.what)
    table = {**ALONE, "attack": [{**_settings(args.set), "name": args.what}]}
    if args.dataset:
        registry.find("dataset", args.dataset)
        table["dataset"] = [{"name": args.dataset}]
    return grid.described(table, f"preview {args.what}")


def _settings(words: Sequence[str]) -> dict[str, Any]:
    """The table that `--set KEY=VALUE` options make: values as in TOML, and what is no TOML is a
    string.
    """
    lines = []
    for word in words:
        key, equals, value = (part.strip() for part in word.partition("="))
        if not (key and equals):
            raise BenchError(f"--set {word}: KEY=VALUE is wanted, such as poison_rate=0.1")
        if key == "name":
            raise BenchError(f"--set {word}: the attack is named already")
        lines.append(f"{key} = {value}")
        try:
            tomllib.loads(lines[-1])
        except ValueError:
            lines[-1] = f"{key} = {json.dumps(value)}"
    try:
        return tomllib.loads("\n".join(lines))
    except ValueError as error:
        raise BenchError(
            f"--set cannot be read as keys of an [[attack]]: {error}: {'; '.join(lines)}"
        ) from error


def _in_words(error: GridError) -> GridError:
    """Problems of an attack that was named alone: there is one attack only, and no file with lines."""
    own = [(one, one.key.removeprefix("attack[0]").removeprefix(".")) for one in error.problems]
    return GridError([Problem(one.file, None, key, one.what, one.hint) for one, key in own])


# --- making and drawing ---------------------------------------------------------------------------


def _make(plan: Plan, store: Store, args: argparse.Namespace) -> tuple[Mapping[str, Ended], int]:
    """Run what the store lacks; how it ended by key, and the exit code that it amounts to."""
    from harness.cli.run import options
    from harness.run import observers, progress
    from harness.run.execute import execute

    if Outcome.TO_RUN not in plan.outcome.values():
        return {}, 0
    summary = execute(
        plan, store, options(args, plan), [progress.watcher(sys.stderr), *observers.outside()]
    )
    if summary.failures:
        print(progress.failures(summary, _command(args)), file=sys.stderr)
    return summary.ended, summary.exit_code


def _command(args: argparse.Namespace) -> str:
    """The command line again."""
    words = ["bench", "preview", args.what]
    words += ["-k", args.select] if args.select else []
    words += [word for setting in args.set for word in ("--set", setting)]
    for name in (
        "dataset",
        "output",
        "images",
        "amplify",
        "store",
        "jobs",
        "threads",
        "device",
        "timeout",
    ):
        if getattr(args, name) is not None:
            words += [f"--{name}", str(getattr(args, name))]
    return shlex.join(words)


def _drawn(
    shown: Shown, plan: Plan, store: Store, ended: Mapping[str, Ended], amplify: float | None
) -> Panel | str:
    """What is drawn of an attack, or why nothing is."""
    from harness.preview import panels
    from harness.stages.preview import FACTS

    if shown.stage is None:
        return f"skipped: {shown.reason}"
    key = shown.stage.key
    if plan.outcome[key] is Outcome.INCOMPATIBLE:
        return f"{Outcome.INCOMPATIBLE.value}: {_first_line(plan.reason[key])}"
    if key in ended and ended[key].outcome not in (Outcome.DONE, Outcome.CACHED):
        return f"{ended[key].outcome.value}: {_first_line(ended[key].message)}"
    return panels.panel(shown, store.read_json(key, FACTS), amplify)


def _told(shown: Shown, drawn: Panel | str) -> Iterator[str]:
    """The same in words."""
    if isinstance(drawn, str):
        yield f"{shown.name}: {drawn}"
        return
    yield shown.name
    yield from (f"  {note}" for note in drawn.notes)
    rows = [row for section in drawn.sections for row in section.rows if row.less]
    yield from (f"  {row.images}: {', '.join(row.caption.splitlines())}" for row in rows)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _picture(store: Store, drawn: Sequence[tuple[str, Panel]]) -> bytes:
    """The PNG file, drawn in a child from objects of the store."""
    from harness.preview import sheet
    from harness.run.children import Children
    from harness.run.scratch import Scratch
    from harness.stages.preview import PANEL

    scratch = Scratch()
    children = Children(scratch.base, entry=sheet.ENTRY, preload=sheet.PRELOAD)
    try:
        with scratch.folder("sheet") as folder:
            for number, (key, _) in enumerate(drawn):
                store.fetch(key, (PANEL,), folder / "inputs" / str(number))
            task = {"scratch": str(folder), "panels": [asdict(panel) for _, panel in drawn]}
            record = children.run(task, folder, _DRAWING)
            if record["status"] != "ok":
                log = folder / "log.txt"
                said = log.read_text("utf-8", "replace") if log.is_file() else ""
                raise RuntimeError(f"the picture cannot be drawn: {record['message']}\n{said}")
            return (folder / sheet.PICTURE).read_bytes()
    finally:
        children.stop()
        scratch.close()
