"""The wall, from outside: folders that a guarded stage must not open, and a look at what it opened.

This finds mistakes and convenience. A plugin that sets out to cheat gets around it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.stages.stage import Stage
from harness.store import plain


@dataclass(frozen=True)
class _Barred:
    """A place that is closed to guarded stages: all paths that begin with `prefix`.

    `may_be_named`: it is open to a stage for the files that are among the stage's parameters.
    """

    description: str
    prefix: str
    may_be_named: bool = False


class Trespass(ValueError):
    """Raised for a stage that was among the scratch folders of others, or sent signals to them:
    what ran beside it cannot be trusted.
    """


class Wall:
    """The places that are closed to guarded stages: the store, data, the scratch of other stages.

    `scratch` is the scratch folder of the run.
    """

    def __init__(self, store: Path, data_roots: Iterable[Path], scratch: Path) -> None:
        self._barred = [_Barred("the store", _real(store) + os.sep)]
        for root in data_roots:
            # A file that is a parameter may lie in a data folder; nothing in the store is ever a
            # parameter.
            self._barred.append(
                _Barred(f"the data at {root}", _real(root) + os.sep, may_be_named=True)
            )
        others = str(scratch.parent / f"doorbench-{os.getuid()}-")
        self._others = _Barred("the scratch of another stage", others)

    def check(self, stage: Stage, folder: Path, opened: Iterable[str]) -> None:
        """Raise ValueError where one of the paths that a stage opened lies behind the wall.

        `folder` is the stage's own scratch folder.
        """
        named = _named(stage)
        for path in opened:
            real = _real(path)
            if _is_below(real, folder):
                continue
            for place in self._barred:
                if not f"{real}{os.sep}".startswith(place.prefix):
                    continue
                if place.may_be_named and real in named:
                    continue
                raise ValueError(_too_far(path, place))

    def check_neighbours(self, folder: Path, opened: Iterable[str], told: Iterable[str]) -> None:
        """Raise Trespass where a stage touched other stages at work.

        `opened` as for `check`; `told`: what the stage's own process noted at once, paths among
        others' folders and sentences.
        """
        for path in (*opened, *told):
            if not path.startswith(os.sep):
                raise Trespass(path)
            real = _real(path)
            if real.startswith(self._others.prefix) and not _is_below(real, folder):
                raise Trespass(_too_far(path, self._others))


def _is_below(real: str, folder: Path) -> bool:
    return f"{real}{os.sep}".startswith(f"{folder}{os.sep}")


def _too_far(path: str, place: _Barred) -> str:
    return (
        f"opened {plain.clean(path)}, which lies in {place.description}: "
        "a stage may read what it was granted only"
    )


def _named(stage: Stage) -> set[str]:
    """Return the files that are parameters of a stage."""
    files = set()
    for text in _strings(stage.payload.to_json()):
        if text.startswith(os.sep):
            files.add(_real(text))
    return files


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _real(path: str | Path) -> str:
    return os.path.realpath(path)
