"""`bench preview`: a picture of what attacks and parts do. Draws in a child; trains no victim."""

from __future__ import annotations

import argparse
import errno
import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import grid
from harness.api import planning
from harness.api.running import carry_out
from harness.cli.report import put
from harness.cli.run import choices
from harness.errors import BenchError, GridError, NothingSelected, Problem
from harness.outcomes import Outcome
from harness.plan.graph import Graph
from harness.plan.plan import Plan
from harness.preview.subjects import AnySubject, choose, lay_out, panel_of
from harness.registry.names import Registry
from harness.run.account import first_line
from harness.run.server_process import environment
from harness.run.state import Ended
from harness.stages.artefacts import PANEL_FACTS_FILE, PANEL_FILE
from harness.store.objects import Store
from harness.store.scratch import short_lived

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
    if args.images > MOST:
        raise BenchError(f"--images {args.images}: at most {MOST} stand in a row")
    _check_output(args.output)
    graph, subjects = _asked(args)
    store = planning.open_store(args.store, make=True)
    plan = lay_out(graph, subjects, store, args.images)
    summary = carry_out(plan, store, choices(args), shlex.join(["bench", *args.typed]))
    drawn = []
    for subject in subjects:
        reason = _reason_against(subject, plan, summary.ended)
        if reason:
            print(f"{subject.name}: {reason}")
        else:
            drawn.append(subject)
    if drawn:
        picture, words = _draw(drawn, store, args.amplify)
        put(args.output, picture)
        print(words, end="")
        print(f"{args.output}: {len(drawn)} of {len(subjects)} drawn")
    elif not summary.exit_code:
        raise NothingSelected(f"{args.what}: there is no trigger to draw")
    return summary.exit_code


# --- what is asked for ----------------------------------------------------------------------------


def _check_output(path: Path) -> None:
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
            fault = "exists and is no PNG picture, so it is left alone. Name another file"
            raise BenchError(f"--output {path}: {fault}")


def _asked(args: argparse.Namespace) -> tuple[Graph, list[AnySubject]]:
    """Resolve the attacks that are asked for. Raises BenchError."""
    resolver = planning.resolver()
    if args.what.endswith(".toml") or "/" in args.what or Path(args.what).is_file():
        for option, value in (("--set", args.set), ("--dataset", args.dataset)):
            if value:
                fault = f"goes with the name of an attack; what {args.what} shows is said in it"
                raise BenchError(f"{option} {fault}")
        read, cells = planning.selected(Path(args.what), args.select)
        return choose(read, cells, resolver)
    try:
        alone = _alone(args, resolver.registry)
        return choose(alone, alone.cells, resolver)
    except GridError as error:
        # There is one attack only, and no file with lines.
        problems = []
        for problem in error.problems:
            key = problem.key.removeprefix("attack[0]").removeprefix(".")
            problems.append(Problem(problem.file, None, key, problem.description, problem.hint))
        raise GridError(problems) from None


def _alone(args: argparse.Namespace, registry: Registry) -> grid.Grid:
    """Make the grid of an attack that is named. Raises BenchError."""
    if args.select:
        raise BenchError(
            f"-k chooses cells of a grid, and {args.what!r} names none; a grid's name ends in .toml"
        )
    registry.find("attack", args.what)
    table = {**ALONE, "attack": [{**_settings(args.set), "name": args.what}]}
    if args.dataset:
        registry.find("dataset", args.dataset)
        table["dataset"] = [{"name": args.dataset}]
    return grid.from_table(table, f"preview {args.what}")


def _settings(words: Sequence[str]) -> dict[str, Any]:
    """Return the table that `--set KEY=VALUE` options make: values as in TOML, and what is no TOML
    is a string.
    """
    lines = []
    for word in words:
        key, equals, value = word.partition("=")
        key = key.strip()
        if not key or not equals:
            raise BenchError(f"--set {word}: KEY=VALUE is expected, such as poison_rate=0.1")
        if key == "name":
            raise BenchError(f"--set {word}: the attack is named already")
        line = f"{key} = {value}"
        try:
            tomllib.loads(line)
        except ValueError:
            line = f"{key} = {json.dumps(value.strip())}"
        lines.append(line)
    try:
        return tomllib.loads("\n".join(lines))
    except ValueError as error:
        fault = f"cannot be read as keys of an [[attack]]: {error}: {'; '.join(lines)}"
        raise BenchError(f"--set {fault}") from error


# --- drawing --------------------------------------------------------------------------------------


def _reason_against(subject: AnySubject, plan: Plan, ended: Mapping[str, Ended]) -> str:
    """Say why nothing is drawn of a subject; "" if it can be drawn."""
    if subject.stage is None:
        return f"skipped: {subject.skipped}"
    key = subject.stage.key
    outcome = plan.outcome[key]
    message = plan.reason.get(key, "")
    if key in ended:
        outcome = ended[key].outcome
        message = ended[key].message
    if outcome in (Outcome.DONE, Outcome.CACHED):
        return ""
    return f"{outcome.value}: {first_line(message)}"


def _draw(subjects: Sequence[AnySubject], store: Store, amplify: float | None) -> tuple[bytes, str]:
    """Return the PNG file, drawn in a child from objects of the store, and lines that say what is
    on it. Raises BenchError where the child is killed or takes too long, OSError where its folder
    is full.
    """
    with short_lived("preview") as folder:
        panels = []
        for number, subject in enumerate(subjects):
            assert subject.stage is not None
            store.fetch(subject.stage.key, (PANEL_FILE,), folder / str(number))
            facts = store.read_json(subject.stage.key, PANEL_FACTS_FILE)
            panels.append(panel_of(subject, facts))
        task = {"amplify": amplify, "panels": panels}
        (folder / "task.json").write_text(json.dumps(task), "utf-8")
        words = _draw_in(folder)
        return (folder / "sheet.png").read_bytes(), words


def _draw_in(folder: Path) -> str:
    """Run the child that draws what `folder` holds; return what it printed."""
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "harness.preview.sheet", str(folder)],
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DRAWING,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(
            f"the picture was not drawn within {_DRAWING:g} s. Fewer --images take less"
        ) from error
    no_room = os.strerror(errno.ENOSPC)
    if child.returncode and no_room in child.stderr:
        raise OSError(errno.ENOSPC, no_room, str(folder))
    if child.returncode < 0:
        raise BenchError(
            f"the process that drew the picture was killed by signal {-child.returncode}: it may "
            "have run out of memory. Fewer --images take less"
        )
    if child.returncode:
        raise RuntimeError(f"the picture cannot be drawn:\n{child.stderr}")
    return child.stdout
