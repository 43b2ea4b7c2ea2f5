"""Components of a grid, validated: what a name and a table of parameters stand for.

The class is imported in a child; its answer is remembered under the digests of its sources. A
parameter that is itself a component is resolved like an entry of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.errors import BenchError, PluginError
from harness.registry.ask import TIMEOUT, Trouble, ask
from harness.registry.memo import Memo
from harness.registry.names import Registered, Registry
from harness.registry.resolved import Fault, Request, Resolved
from harness.sources import locate
from harness.sources.digests import Sources

_DEEPEST = 8
_TEXTS = "source texts"
_MOST_TEXTS = 5000


class Resolver:
    """Resolves requests against a registry, asking children and remembering what they said.

    `timeout` is in seconds, for one child.
    """

    def __init__(
        self,
        registry: Registry,
        sources: Sources | None = None,
        memo: Memo | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.registry = registry
        self.memo = memo or Memo()
        self.timeout = timeout
        # Reading sources is most of a command that has nothing to do, so what was learnt of a text
        # is kept, too.
        self._texts: dict[str, Any] = dict(self.memo.get(_TEXTS) or {})
        self._texts_kept = len(self._texts)
        self.sources = sources or Sources(self._texts)
        self._packages: dict[str, tuple[str, ...]] = {}
        self._codes: dict[tuple[str, str], dict[str, str]] = {}

    def resolve_all(self, requests: Sequence[Request]) -> list[Resolved | list[Fault]]:
        """Each request resolved, or all that is wrong with it."""
        self._codes.clear()  # a file may have changed since the last time
        results = self._resolve(requests, 0)
        if len(self._texts) != self._texts_kept:
            self.memo.put(_TEXTS, self._texts if len(self._texts) <= _MOST_TEXTS else {})
            self._texts_kept = len(self._texts)
        return results

    def compatible_all(
        self, pairs: Sequence[tuple[Resolved, Mapping[str, Any]]]
    ) -> list[str | None]:
        """For each component and context (`dataclasses.asdict` of a Context) the reason against it,
        or None.

        Raises PluginError where a component's `compatible` raises.
        """
        asked = {number: pair for number, pair in enumerate(pairs) if pair[0].checks}
        questions = [
            {
                "op": "compatible",
                "target": one.target,
                "params": one.params,
                "context": dict(context),
            }
            for one, context in asked.values()
        ]
        answers = self._ask_behaviour("compatible", questions, [one for one, _ in asked.values()])
        reasons = dict(zip(asked, answers, strict=True))
        return [reasons.get(number) for number in range(len(pairs))]

    def compatible(self, resolved: Resolved, context: Mapping[str, Any]) -> str | None:
        """The reason why a component cannot work in a context, or None. Raises as `compatible_all`."""
        return self.compatible_all([(resolved, context)])[0]

    def combine_all(
        self, groups: Sequence[tuple[Resolved, Sequence[float]]]
    ) -> list[dict[str, float]]:
        """What each metric that has its own `combine` makes of a group of values, by name.

        Raises PluginError where a metric's `combine` raises or gives no finite numbers.
        """
        questions = [
            {"op": "combine", "target": one.target, "params": one.params, "values": list(values)}
            for one, values in groups
        ]
        return self._ask_behaviour("combine", questions, [one for one, _ in groups])

    def combine(self, resolved: Resolved, values: Sequence[float]) -> dict[str, float]:
        """As `combine_all`, of one group."""
        return self.combine_all([(resolved, values)])[0]

    def _ask_behaviour(
        self, op: str, questions: list[dict[str, Any]], behind: Sequence[Resolved]
    ) -> list[Any]:
        """Answers of a component's own methods: one batch, remembered as one, since a grid asks
        hundreds at a time.
        """
        unique = {_digest(question): number for number, question in enumerate(questions)}
        question = [op, _digest(sorted(unique))]
        stamp = _digest(sorted({one.target: one.code for one in behind}.items()))
        known = self.memo.get(question, stamp)
        if known is None:
            answers = ask([questions[number] for number in unique.values()], self.timeout)
            known = dict(zip(unique, answers, strict=True))
            troubles = {key: answer for key, answer in known.items() if isinstance(answer, Trouble)}
            if troubles:
                raise PluginError(
                    "\n".join(
                        _complaint(op, behind[unique[key]], one) for key, one in troubles.items()
                    )
                )
            self.memo.put(question, known, stamp)
        return [known[_digest(question)] for question in questions]

    def _resolve(self, requests: Sequence[Request], depth: int) -> list[Resolved | list[Fault]]:
        found = [self._find(request) for request in requests]
        requests, answers = self._put_in_place(
            requests, found, self._answers(requests, found), depth
        )
        inner = self._used(requests, answers, "references", depth)
        results: list[Resolved | list[Fault]] = []
        for number, (one, answer) in enumerate(zip(found, answers, strict=True)):
            if isinstance(one, list):
                results.append(one)
            elif isinstance(answer, list):
                results.append(answer)
            else:
                results.append(
                    self._assemble(one, answer, inner.get(number, {}), requests[number].in_place)
                )
        return results

    def _used(
        self,
        requests: Sequence[Request],
        answers: Sequence[dict[str, Any] | list[Fault]],
        what: str,
        depth: int,
    ) -> dict[int, dict[str, Resolved | list[Fault]]]:
        """The components that they name under `what`, of all of them at once: one more child at
        most for each level.
        """
        wanted = [
            (number, name, _inner(requests[number], name, reference))
            for number, answer in enumerate(answers)
            if isinstance(answer, dict)
            for name, reference in answer.get(what, {}).items()
        ]
        inner: dict[int, dict[str, Resolved | list[Fault]]] = {}
        if wanted and depth < _DEEPEST:
            used = self._resolve([request for _, _, request in wanted], depth + 1)
            for (number, name, _), result in zip(wanted, used, strict=True):
                inner.setdefault(number, {})[name] = result
        elif wanted:
            for number, name, request in wanted:
                what = f"{request.kind} {request.name!r} uses itself, or more than {_DEEPEST} components in a row"
                inner.setdefault(number, {})[name] = [((), what, "")]
        return inner

    def _put_in_place(
        self,
        requests: Sequence[Request],
        found: Sequence[Registered | list[Fault]],
        answers: Sequence[dict[str, Any] | list[Fault]],
        depth: int,
    ) -> tuple[list[Request], list[dict[str, Any] | list[Fault]]]:
        """Requests and answers again, with the attacks that fill parameters: their owner cannot be
        asked without.
        """
        settled, final = list(requests), list(answers)
        for number, inside in self._used(requests, answers, "wanted", depth).items():
            faults = [
                fault
                for name, one in inside.items()
                if isinstance(one, list)
                for fault in _within(name, one)
            ]
            if faults:
                final[number] = faults
            else:
                in_place = {name: one for name, one in inside.items() if isinstance(one, Resolved)}
                settled[number] = replace(requests[number], in_place=in_place)
        again = [number for number, request in enumerate(settled) if request.in_place]
        asked = self._answers(
            [settled[number] for number in again], [found[number] for number in again]
        )
        for number, answer in zip(again, asked, strict=True):
            final[number] = answer
        return settled, final

    def _find(self, request: Request) -> Registered | list[Fault]:
        preset: Any = request.preset  # of a component inside another, nobody has looked at it yet
        if preset is not None and not isinstance(preset, str):
            return [(("preset",), f"{preset!r} is not the name of a preset", "a string is wanted")]
        try:
            return self.registry.find(request.kind, request.name)
        except BenchError as error:
            return [(("name",), str(error), "")]

    def _answers(
        self, requests: Sequence[Request], found: Sequence[Registered | list[Fault]]
    ) -> list[dict[str, Any] | list[Fault]]:
        """A child's description of each, remembered or asked for; equal requests are asked once."""
        known: dict[str, dict[str, Any] | list[Fault]] = {}
        unasked: dict[str, tuple[dict[str, Any], Registered, Any]] = {}
        keys: list[str | list[Fault]] = []
        for request, one in zip(requests, found, strict=True):
            if isinstance(one, list) or (faults := _not_json(request)):
                keys.append(one if isinstance(one, list) else faults)
                continue
            question = _question(request, one)
            keys.append(key := _digest(question))
            if key not in known and key not in unasked:
                stamp = self._stamp(one, request.in_place.values())
                if self._code(one) and (answer := self.memo.get(["resolve", key], stamp)):
                    known[key] = answer
                else:
                    unasked[key] = (question, one, stamp)
        known |= self._ask_components(unasked)
        return [known[key] if isinstance(key, str) else key for key in keys]

    def _ask_components(
        self, unasked: Mapping[str, tuple[dict[str, Any], Registered, Any]]
    ) -> dict[str, dict[str, Any] | list[Fault]]:
        answers = ask([question for question, _, _ in unasked.values()], self.timeout)
        known: dict[str, dict[str, Any] | list[Fault]] = {}
        for (key, (_, one, stamp)), answer in zip(unasked.items(), answers, strict=True):
            if isinstance(answer, Trouble):
                known[key] = _faults(one, answer)
            else:
                known[key] = answer["component"]
                self.memo.put(["resolve", key], answer["component"], stamp, files=answer["files"])
        return known

    def _stamp(self, one: Registered, in_place: Iterable[Resolved]) -> Any:
        return [one.dist_version, self._code(one), *(placed.code for placed in in_place)]

    def _code(self, one: Registered) -> dict[str, str]:
        # Following imports takes milliseconds, and entries share components.
        name = one.module, one.distribution
        if name not in self._codes:
            if one.distribution not in self._packages:
                self._packages[one.distribution] = locate.top_levels(one.distribution)
            self._codes[name] = self.sources.of(one.module, self._packages[one.distribution])
        return self._codes[name]

    def _assemble(
        self,
        one: Registered,
        answer: dict[str, Any],
        inner: Mapping[str, Resolved | list[Fault]],
        in_place: Mapping[str, Resolved],
    ) -> Resolved | list[Fault]:
        faults = [
            fault
            for name, used in inner.items()
            if isinstance(used, list)
            for fault in _within(name, used)
        ]
        uses = {name: result for name, result in inner.items() if isinstance(result, Resolved)}
        for name, placed in in_place.items():
            if twice := sorted(uses.keys() & placed.uses.keys()):
                faults.append(
                    (
                        (name,),
                        f"{_called(one)} and {placed.name!r} both have a parameter {twice[0]!r}",
                        "",
                    )
                )
            uses |= placed.uses
        faults += _greed(one, answer["needs"], uses)
        if faults:
            return faults
        rest = {name: value for name, value in answer.items() if name != "references"}
        rest["identity"] = answer["identity"] | {
            name: placed.key_entry for name, placed in in_place.items()
        }
        rest["changed"] = answer["changed"] | {
            name: placed.called for name, placed in in_place.items()
        }
        rest["needs"] = sorted(
            {*answer["needs"], *(need for placed in in_place.values() for need in placed.needs)}
        )
        code = dict(self._code(one))
        for placed in in_place.values():
            code |= placed.code
        return Resolved(
            kind=one.kind,
            name=one.name,
            target=one.target,
            distribution=one.distribution,
            dist_version=one.dist_version,
            uses=uses,
            code=code,
            **rest,
        )


def _within(name: str, faults: Sequence[Fault]) -> list[Fault]:
    """Faults of the component that fills a parameter, as those of its owner."""
    return [((name, *path), what, hint) for path, what, hint in faults]


def _inner(owner: Request, name: str, reference: Mapping[str, Any]) -> Request:
    """The request for the component that fills the parameter `name`."""
    return Request(**reference, base=owner.bases.get(name, owner.base), dataset=owner.dataset)


def _not_json(request: Request) -> list[Fault]:
    """Parameters that are nothing a component could have declared: TOML has dates and times."""
    faults: list[Fault] = []
    for name, value in request.params.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            faults.append(
                (
                    (name,),
                    f"{value} is a {type(value).__name__}",
                    "no parameter takes that; quote it?",
                )
            )
    return faults


def _question(request: Request, one: Registered) -> dict[str, Any]:
    in_place = {"in_place": {name: placed.body for name, placed in request.in_place.items()}}
    return {
        **(in_place if request.in_place else {}),
        "op": "resolve",
        "kind": one.kind,
        "target": one.target,
        "argument": one.argument,
        "argument_value": one.argument_value,
        "preset": request.preset,
        "params": dict(request.params),
        "base": str(request.base.absolute()),
        "bases": {name: str(folder.absolute()) for name, folder in request.bases.items()},
        "dataset": request.dataset if request.preset else None,
    }


def _greed(one: Registered, needs: Sequence[str], uses: Mapping[str, Resolved]) -> list[Fault]:
    """A used component has its owner's grant, and may need no more; a `model` is the cell's and no
    grant.

    Attacks are granted everything there is.
    """
    if one.kind not in ("defense", "part"):
        return []
    return [
        (
            (name,),
            f"{used.kind} {used.name!r} needs {', '.join(more)}, which {_called(one)} is not granted",
            "",
        )
        for name, used in uses.items()
        if used.kind in ("defense", "part")
        and (more := sorted(set(used.needs) - {*needs, "model"}))
    ]


def _faults(one: Registered, trouble: Trouble) -> list[Fault]:
    if trouble.type == "problems":
        return list(trouble.problems)
    return [(("name",), f"{_called(one)}: {trouble.reason}", trouble.place)]


def _complaint(op: str, one: Resolved, trouble: Trouble) -> str:
    return (
        f"{one.kind} {one.name!r} of {one.distribution} {one.dist_version}: {op}: {trouble.reason}"
        + (f"\n    {trouble.place}" if trouble.place else "")
    )


def _called(one: Registered) -> str:
    return f"{one.kind} {one.name!r} of {one.distribution} {one.dist_version}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
