"""Components of a grid, validated: each is what a name and a table of parameters stand for.

The class is imported in a child; its answer is remembered under the digests of its sources. A
parameter that is itself a component is resolved like an entry of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.components.facts import FACTS_BY_KIND, read_facts
from harness.errors import BenchError
from harness.registry import behaviour, faults
from harness.registry.ask import TIMEOUT
from harness.registry.descriptions import Answer, Description, Descriptions
from harness.registry.memo import Memo
from harness.registry.names import Registered, Registry
from harness.registry.resolved import Fault, Request, Resolved
from harness.sources.digests import Sources

_DEEPEST = 8
"""Components that use each other in a row."""
_TEXTS = "source texts"
_MOST_TEXTS = 5000


class Resolver:
    """The resolver of requests against a registry: it asks children, and remembers their answers.

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
        self._descriptions = Descriptions(self.sources, self.memo, timeout)

    def resolve_all(self, requests: Sequence[Request]) -> list[Resolved | list[Fault]]:
        """Return each request resolved, or all that is wrong with it."""
        self._descriptions.look_again()
        results = self._resolve(requests, 0)
        if len(self._texts) != self._texts_kept:
            self.memo.put(_TEXTS, self._texts if len(self._texts) <= _MOST_TEXTS else {})
            self._texts_kept = len(self._texts)
        return results

    def compatible_all(
        self, pairs: Sequence[tuple[Resolved, Mapping[str, Any]]]
    ) -> list[str | None]:
        """Return for each component and context (`dataclasses.asdict` of a Context) the reason
        against it, or None.

        Raises PluginError where a component's `compatible` raises.
        """
        asked = []
        owners = []
        questions = []
        for number, (component, context) in enumerate(pairs):
            if not component.checks:
                continue
            question = _behaviour_question("compatible", component)
            question["context"] = dict(context)
            asked.append(number)
            owners.append(component)
            questions.append(question)
        answers = behaviour.answers("compatible", questions, owners, self.memo, self.timeout)
        reasons: list[str | None] = [None] * len(pairs)
        for number, reason in zip(asked, answers, strict=True):
            reasons[number] = reason
        return reasons

    def combine_all(
        self, groups: Sequence[tuple[Resolved, Sequence[float]]]
    ) -> list[dict[str, float]]:
        """Return what each metric that has its own `combine` makes of a group of values, by name.

        Raises PluginError where a metric's `combine` raises or gives no finite numbers.
        """
        owners = []
        questions = []
        for metric, values in groups:
            question = _behaviour_question("combine", metric)
            question["values"] = list(values)
            owners.append(metric)
            questions.append(question)
        return behaviour.answers("combine", questions, owners, self.memo, self.timeout)

    def _resolve(self, requests: Sequence[Request], depth: int) -> list[Resolved | list[Fault]]:
        """Resolve requests that stand `depth` components deep."""
        components = [self._find(request) for request in requests]
        answers = self._descriptions.of(requests, components)
        requests, answers = self._put_in_place(requests, components, answers, depth)
        used = self._resolve_inner(requests, answers, "references", depth)
        results: list[Resolved | list[Fault]] = []
        for number, request in enumerate(requests):
            component = components[number]
            answer = answers[number]
            if isinstance(component, list):
                results.append(component)
            elif isinstance(answer, list):
                results.append(answer)
            else:
                inner = used.get(number, {})
                results.append(self._assemble(component, answer, inner, request.in_place))
        return results

    def _find(self, request: Request) -> Registered | list[Fault]:
        preset: Any = request.preset  # of a component inside another, nobody has looked at it yet
        if preset is not None and not isinstance(preset, str):
            wrong = f"{preset!r} is not the name of a preset"
            return [(("preset",), wrong, "a string is expected")]
        try:
            return self.registry.find(request.kind, request.name)
        except BenchError as error:
            return [(("name",), str(error), "")]

    def _put_in_place(
        self,
        requests: Sequence[Request],
        components: Sequence[Registered | list[Fault]],
        answers: Sequence[Answer],
        depth: int,
    ) -> tuple[list[Request], list[Answer]]:
        """Return requests and answers again, with the attacks that fill parameters: their owner
        cannot be described without.
        """
        settled = list(requests)
        final = list(answers)
        again = []
        for number, inner in self._resolve_inner(requests, answers, "unplaced", depth).items():
            sound, wrong = _sort_out(inner)
            if wrong:
                final[number] = wrong
            else:
                settled[number] = replace(requests[number], in_place=sound)
                again.append(number)
        descriptions = self._descriptions.of(
            [settled[number] for number in again], [components[number] for number in again]
        )
        for number, answer in zip(again, descriptions, strict=True):
            final[number] = answer
        return settled, final

    def _resolve_inner(
        self,
        requests: Sequence[Request],
        answers: Sequence[Answer],
        entry: str,
        depth: int,
    ) -> dict[int, dict[str, Resolved | list[Fault]]]:
        """Resolve the components that descriptions name under `entry`, by number of the request and
        parameter.

        All of them at once: one more child at most for each level.
        """
        parameters = []
        inner_requests = []
        for number, answer in enumerate(answers):
            if isinstance(answer, list):
                continue
            for name, reference in answer.get(entry, {}).items():
                parameters.append((number, name))
                inner_requests.append(_inner_request(requests[number], name, reference))
        results: list[Resolved | list[Fault]] = []
        if inner_requests and depth < _DEEPEST:
            results = self._resolve(inner_requests, depth + 1)
        else:
            for request in inner_requests:
                wrong = (
                    f"{request.kind} {request.name!r} uses itself, "
                    f"or more than {_DEEPEST} components in a row"
                )
                results.append([((), wrong, "")])
        inner: dict[int, dict[str, Resolved | list[Fault]]] = {}
        for (number, name), result in zip(parameters, results, strict=True):
            inner.setdefault(number, {})[name] = result
        return inner

    def _assemble(
        self,
        component: Registered,
        description: Description,
        inner: Mapping[str, Resolved | list[Fault]],
        in_place: Mapping[str, Resolved],
    ) -> Resolved | list[Fault]:
        """Put together what a child said of a component and the components that fill its
        parameters.
        """
        uses, wrong = _sort_out(inner)
        for name, placed in in_place.items():
            shared = sorted(uses.keys() & placed.uses.keys())
            if shared:
                both = f"{faults.called(component)} and {placed.name!r}"
                wrong.append(((name,), f"{both} both have a parameter {shared[0]!r}", ""))
            uses.update(placed.uses)
        wrong += faults.ungranted_needs(component, description["needs"], uses)
        if wrong:
            return wrong
        identity = dict(description["identity"])
        changed = dict(description["changed"])
        needs = set(description["needs"])
        code = dict(self._descriptions.code(component))
        for name, placed in in_place.items():
            identity[name] = placed.key_entry
            changed[name] = placed.called
            needs.update(placed.needs)
            code.update(placed.code)
        return Resolved(
            kind=component.kind,
            name=component.name,
            target=component.target,
            distribution=component.distribution,
            dist_version=component.dist_version,
            version=description["version"],
            params=description["params"],
            identity=identity,
            changed=changed,
            uses=uses,
            code=code,
            needs=sorted(needs),
            seeded=description["seeded"],
            recipe=description["recipe"],
            facts=read_facts(FACTS_BY_KIND[component.kind], description["facts"]),
            checks=description["checks"],
            summary=description["summary"],
            citation=description["citation"],
            presets=description["presets"],
        )


def _behaviour_question(op: str, component: Resolved) -> dict[str, Any]:
    return {"op": op, "target": component.target, "params": component.params}


def _sort_out(
    inner: Mapping[str, Resolved | list[Fault]],
) -> tuple[dict[str, Resolved], list[Fault]]:
    """Return the components that fill parameters, and what is wrong with those that cannot."""
    sound: dict[str, Resolved] = {}
    wrong: list[Fault] = []
    for name, result in inner.items():
        if isinstance(result, list):
            wrong += faults.within(name, result)
        else:
            sound[name] = result
    return sound, wrong


def _inner_request(owner: Request, name: str, reference: Mapping[str, Any]) -> Request:
    """Return the request for the component that fills the parameter `name`."""
    base = owner.bases.get(name, owner.base)
    return Request(**reference, base=base, dataset=owner.dataset)
