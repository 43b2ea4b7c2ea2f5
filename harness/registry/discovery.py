"""Finding plugins by entry point and asking each, in a child of its own, what it registers.

No plugin module is imported here. A plugin's answer is remembered until one of its files, its
version or the installed packages change. A plugin that raises, hangs or kills its process is listed
as broken; the others go on. That it is broken is never remembered: the machine may be to blame.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from harness.errors import PluginError
from harness.registry.ask import Trouble, ask_apart
from harness.registry.memo import Memo
from harness.registry.names import Broken, NamedRecipe, Origin, Registered, Registry
from harness.sources import locate
from harness.vocabulary import PLUGINS

TIMEOUT = 20.0
"""Seconds that a plugin may take to import and register."""

SLOW = 0.3
"""Seconds beyond which a registering module is named: everybody waits for it after each change."""

_Answer = dict[str, Any] | Trouble
"""The table that `harness.introspect.register.register` returns, or why it did not."""

_log = logging.getLogger(__name__)


def discover(memo: Memo | None = None, timeout: float = TIMEOUT) -> Registry:
    """Return everything that installed plugins register.

    Raises PluginError where the import name `plugins` does not lead to the package beside this one.
    """
    check_neighbour()
    origins: dict[EntryPoint, Origin] = {}
    for point in importlib.metadata.entry_points(group=PLUGINS):
        origins[point] = _origin(point)
    points = sorted(
        origins, key=lambda point: (origins[point].distribution, point.name, point.value)
    )
    answers = _answers(points, origins, memo or Memo(), timeout)
    components: list[Registered] = []
    recipes: list[NamedRecipe] = []
    broken: list[Broken] = []
    for point in points:
        origin = origins[point]
        answer = answers[point]
        if isinstance(answer, Trouble):
            broken.append(Broken(origin, answer.reason, answer.traceback))
            continue
        recipes += [NamedRecipe(**recipe, origin=origin) for recipe in answer["recipes"]]
        components += [_registered(component, origin) for component in answer["components"]]
    return Registry(components, recipes, broken)


def check_neighbour() -> None:
    """Refuse a package `plugins` that is not the one shipped beside `harness`.

    Another folder of that common name would be taken for the built-in methods. Raises PluginError
    naming both paths.
    """
    expected = Path(__file__).resolve().parents[2] / "plugins"
    place = _place_of_plugins()
    if place != expected:
        raise PluginError(
            f"`import plugins` finds {place or 'nothing'}, where the built-in methods in "
            f"{expected} are expected; rename that folder, or take its parent off PYTHONPATH"
        )


def _place_of_plugins() -> Path | None:
    # A top-level name is looked up without importing anything.
    spec = importlib.util.find_spec("plugins")
    if spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    if folders:
        return Path(folders[0]).resolve()
    if spec.origin:
        return Path(spec.origin).resolve()
    return None


def _answers(
    points: Sequence[EntryPoint],
    origins: Mapping[EntryPoint, Origin],
    memo: Memo,
    timeout: float,
) -> dict[EntryPoint, _Answer]:
    """Return the answer of each entry point, remembered or from a child of its own."""
    answers: dict[EntryPoint, _Answer] = {}
    unknown = []
    for point in points:
        remembered = _remembered(point, origins[point], memo)
        if remembered is None:
            unknown.append(point)
        else:
            answers[point] = remembered
    questions = [
        {"op": "register", "module": point.module, "attribute": point.attr} for point in unknown
    ]
    for point, answer in zip(unknown, ask_apart(questions, timeout), strict=True):
        answers[point] = _readable(answer, origins[point])
        if isinstance(answers[point], Trouble):
            continue
        memo.put(_question(point, origins[point]), answer, files=answer["files"])
        if answer["seconds"] > SLOW:
            _log.warning(
                "%s takes %.1f s to import %s and register; "
                "keep that module light (targets are strings)",
                origins[point],
                answer["seconds"],
                point.module,
            )
    return answers


def _origin(point: EntryPoint) -> Origin:
    if point.dist is None:
        return Origin("unknown", "0", point.name)
    return Origin(point.dist.name, point.dist.version, point.name)


def _registered(component: Mapping[str, Any], origin: Origin) -> Registered:
    return Registered(
        **component,
        distribution=origin.distribution,
        dist_version=origin.version,
        entry_point=origin.entry_point,
    )


def _question(point: EntryPoint, origin: Origin) -> list[str]:
    """Return what the answer of an entry point is remembered under."""
    file = locate.find(point.module)
    return ["register", origin.distribution, origin.version, point.name, point.value, str(file)]


def _remembered(point: EntryPoint, origin: Origin, memo: Memo) -> dict[str, Any] | None:
    answer = _readable(memo.get(_question(point, origin)), origin)
    return None if isinstance(answer, Trouble) else answer


def _readable(answer: Any, origin: Origin) -> _Answer:
    """Return an answer if it is one of `register`, else what is wrong with it: a plugin runs where
    it is written.
    """
    if isinstance(answer, Trouble):
        return answer
    try:
        for recipe in answer["recipes"]:
            NamedRecipe(**recipe, origin=origin)
        for component in answer["components"]:
            _registered(component, origin)
        float(answer["seconds"])
        dict(answer["files"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Trouble(type(error).__name__, f"what it answered cannot be read: {error}")
    table: dict[str, Any] = answer
    return table
