"""Asking components' own methods: the parent's side of `harness.introspect.behaviour`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.errors import PluginError
from harness.registry import ask
from harness.registry.faults import called
from harness.registry.memo import Memo, digest
from harness.registry.resolved import Resolved


def answers(
    op: str,
    questions: Sequence[dict[str, Any]],
    owners: Sequence[Resolved],
    memo: Memo,
    timeout: float,
) -> list[Any]:
    """Return the answer to each question, which is about the component of `owners` beside it.

    They are one batch and remembered as one, since a grid asks hundreds at a time. Raises
    PluginError where a component's method raises or breaks the contract.
    """
    digests = [digest(question) for question in questions]
    numbers = {name: number for number, name in enumerate(digests)}
    codes = {owner.target: owner.code for owner in owners}
    # The questions name files by their paths, and the answers may rest on what is in them.
    contents = {digest(owner.body.files) for owner in owners if owner.body.files}
    batch = [op, digest(sorted(numbers))]
    valid_for = digest([sorted(codes.items()), sorted(contents)])
    known = memo.get(batch, valid_for)
    if known is None:
        asked = ask.ask([questions[number] for number in numbers.values()], timeout)
        known = dict(zip(numbers, asked, strict=True))
        complaints = []
        for name, answer in known.items():
            if isinstance(answer, ask.Trouble):
                complaints.append(_complaint(op, owners[numbers[name]], answer))
        if complaints:
            raise PluginError("\n".join(complaints))
        memo.put(batch, known, valid_for)
    return [known[name] for name in digests]


def _complaint(op: str, owner: Resolved, trouble: ask.Trouble) -> str:
    complaint = f"{called(owner)}: {op}: {trouble.reason}"
    if trouble.place:
        complaint += f"\n    {trouble.place}"
    return complaint
