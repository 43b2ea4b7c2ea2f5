"""Finding plugins by entry point and asking each, in a child of its own, what it registers.

No plugin module is imported here. What a plugin answered is remembered until one of its files, its
version or the installed packages change. A plugin that raises, hangs or kills its process is listed
as broken; the others go on.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import time
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from harness import environment
from harness.errors import PluginError
from harness.registry.ask import Trouble, ask_apart
from harness.registry.memo import Memo
from harness.registry.names import Broken, Origin, Recipe, Registered, Registry
from harness.sources import locate

GROUP = "bench.plugins"
"""The entry-point group, as in `harness.hookspecs`, which would import pluggy here."""

TIMEOUT = 20.0
"""Seconds that a plugin may take to import and register."""

SLOW = 0.3
"""Seconds beyond which a registering module is named: everybody waits for it after each change."""

_HANGS_AGAIN = 3600.0
"""Seconds for which a plugin that hung or died is not asked again, as long as its file stays as it
is.
"""

_log = logging.getLogger(__name__)


def discover(memo: Memo | None = None, timeout: float = TIMEOUT) -> Registry:
    """Everything that installed plugins register.

    Raises PluginError where the import name `plugins` does not lead to the package beside this one.
    """
    check_neighbour()
    memo = memo or Memo()
    found = {point: _origin(point) for point in importlib.metadata.entry_points(group=GROUP)}
    points = sorted(found, key=lambda point: (found[point].distribution, point.name, point.value))
    answers = _answers(points, found, memo, timeout)
    components: list[Registered] = []
    recipes: list[Recipe] = []
    broken: list[Broken] = []
    for point, answer in zip(points, answers, strict=True):
        origin = found[point]
        if isinstance(answer, Trouble):
            broken.append(Broken(origin, answer.reason, answer.traceback))
            continue
        recipes += [Recipe(entry["name"], entry["fields"], origin) for entry in answer["recipes"]]
        components += [
            Registered(
                **entry,
                distribution=origin.distribution,
                dist_version=origin.version,
                entry_point=origin.entry_point,
            )
            for entry in answer["components"]
        ]
    return Registry(components, recipes, broken)


def check_neighbour() -> None:
    """Refuse a package `plugins` that is not the one shipped beside `harness`.

    Another folder of that common name would be taken for the built-in methods. Raises PluginError
    naming both paths.
    """
    expected = Path(__file__).resolve().parents[2] / "plugins"
    # A top-level name is looked up without importing anything.
    spec = importlib.util.find_spec("plugins")
    places = (
        [Path(place).resolve() for place in (spec.submodule_search_locations or [])] if spec else []
    )
    if spec and not places and spec.origin:
        places = [Path(spec.origin).resolve()]
    if not places or places[0] != expected:
        found = str(places[0]) if places else "nothing"
        raise PluginError(
            f"`import plugins` finds {found}, where the built-in methods in {expected} are wanted; "
            "rename that folder, or take its parent off PYTHONPATH"
        )


def _answers(
    points: Sequence[EntryPoint], origins: dict[EntryPoint, Origin], memo: Memo, timeout: float
) -> list[dict[str, Any] | Trouble]:
    """One answer for each entry point, remembered or from a child of its own."""
    answers = {point: _remembered(point, origins[point], memo) for point in points}
    unknown = [point for point in points if answers[point] is None]
    questions = [
        {"op": "register", "module": point.module, "attribute": point.attr} for point in unknown
    ]
    for point, answer in zip(unknown, ask_apart(questions, timeout), strict=True):
        answers[point] = answer
        _remember(point, origins[point], answer, memo)
        if not isinstance(answer, Trouble) and answer["seconds"] > SLOW:
            _log.warning(
                "%s takes %.1f s to import %s and register; keep that module light (targets are strings)",
                origins[point],
                answer["seconds"],
                point.module,
            )
    return [answer for point in points if (answer := answers[point]) is not None]


def _origin(point: EntryPoint) -> Origin:
    if point.dist is None:
        return Origin("unknown", "0", point.name)
    return Origin(point.dist.name, point.dist.version, point.name)


def _question(point: EntryPoint, origin: Origin) -> list[str]:
    file = locate.find(point.module)
    return ["register", origin.distribution, origin.version, point.name, point.value, str(file)]


def _remembered(point: EntryPoint, origin: Origin, memo: Memo) -> dict[str, Any] | Trouble | None:
    answer = memo.get(_question(point, origin))
    if not isinstance(answer, dict):
        return None
    if "until" not in answer:
        return answer
    return Trouble(**answer["trouble"]) if answer["until"] > time.time() else None


def _remember(
    point: EntryPoint, origin: Origin, answer: dict[str, Any] | Trouble, memo: Memo
) -> None:
    if not isinstance(answer, Trouble):
        memo.put(_question(point, origin), answer, files=answer["files"])
    elif answer.silent and (file := locate.find(point.module)):
        # Each command would wait for it in vain. One that raised is asked again: the cause may lie
        # anywhere.
        kept = {"type": answer.type, "message": answer.message, "traceback": answer.traceback}
        again = {"trouble": kept, "until": time.time() + _HANGS_AGAIN}
        memo.put(_question(point, origin), again, files={str(file): environment.file_state(file)})
