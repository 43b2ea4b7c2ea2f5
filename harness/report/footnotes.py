"""Footnotes and warnings of a table: everything that its numbers do not say themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.outcomes import Outcome
from harness.report.provenance import Place
from harness.report.results import NOT_JUDGED, Row
from harness.vocabulary import STAND_IN

SIGNS = {
    "not established": (
        "†",
        "not established: the undefended victim misses the bounds that its attack entry sets",
    ),
    NOT_JUDGED: (
        "‖",
        "not judged: no number of the undefended victim tells whether it is established",
    ),
    "collapsed": ("¶", "collapsed: the model gives one label to nearly all clean test images"),
    "oracle": ("‡", "oracle: the defense was given the trigger and test data"),
    "static": ("§", "static: the training set was stamped after the attack had trained"),
    STAND_IN: ("◊", "stand-in: rests on what was trained here in place of published weights"),
}
"""Sign and footnote of each mark that a row may have."""

UNRANKED = frozenset({"not established", NOT_JUDGED, "collapsed", "oracle"})
"""Marks of numbers that are not compared with others: nothing was beaten, or by a leak."""

_FACTS = {
    "torch": "version of torch",
    "device": "device",
    "processor": "processor",
    "instructions": "instruction set",
    "threads": "number of threads",
}
"""What the members of a place are called."""


class Footnotes:
    """The numbered footnotes of one table."""

    def __init__(self) -> None:
        self._signs: dict[str, str] = {}
        """Signs by text, in the order of their numbers."""
        self._logs: dict[str, str] = {}

    def add(self, text: str, log: str = "") -> str:
        """Return the sign of the footnote with this text, a new one if there is none yet: one
        footnote a reason, with the first `log` that tells more.
        """
        if text not in self._signs:
            self._signs[text] = f"[{len(self._signs) + 1}]"
            self._logs[text] = log
        return self._signs[text]

    def add_failures(self, group: Sequence[Row]) -> list[str]:
        """Return the signs of the footnotes on the replicates without a number, each sign once.
        Where nothing has run at all the text of the cell says enough.
        """
        lacking: Counter[tuple[Outcome, str]] = Counter()
        logs: dict[tuple[Outcome, str], str] = {}
        for row in group:
            if row.status is not Outcome.DONE:
                why = (row.status, _first_line(row.reason))
                lacking[why] += 1
                logs.setdefault(why, row.log)
        signs: dict[str, None] = {}
        for (status, reason), count in lacking.items():
            all_of_them = count == len(group)
            if status is Outcome.TO_RUN and all_of_them:
                continue
            text = "not run yet" if status is Outcome.TO_RUN else f"{status.value}: {reason}"
            if not all_of_them:
                text = f"{count} of {len(group)} {text}"
            signs[self.add(text, logs[status, reason])] = None
        return list(signs)

    def listed(self, rows: Sequence[Row]) -> list[tuple[str, str]]:
        """Return sign and text of all footnotes: first those of the marks of `rows`, then the
        numbered ones.
        """
        done = [row for row in rows if row.status is Outcome.DONE]
        notes = [SIGNS[mark] for mark in _marks(done)]
        for text, sign in self._signs.items():
            log = self._logs[text]
            notes.append((sign, f"{text} (log: {log})" if log else text))
        return notes


def signs_of_marks(rows: Sequence[Row]) -> list[str]:
    """Return the signs of the marks that any of `rows` has."""
    signs = []
    for mark in _marks(rows):
        sign, _ = SIGNS[mark]
        signs.append(sign)
    return signs


def warnings(rows: Sequence[Row]) -> list[str]:
    """Return a line if the numbers of one table were not all made with the same torch, on the same
    device, processor and instruction set, with the same number of threads: what differs, and how
    many numbers have which.
    """
    different = _differing(rows)
    if not different:
        return []
    counted: Counter[str] = Counter()
    for row in rows:
        counted.update({_described(place, different) for place in row.places})
    del counted[""]
    counts = []
    for text, count in sorted(counted.items()):
        counts.append(f"{text} ({count} of {len(rows)} values)")
    names = [_FACTS[name] for name in different]
    return [
        f"these numbers were made in different environments, which differ in {', '.join(names)}: "
        f"{'; '.join(counts)}"
    ]


def _differing(rows: Sequence[Row]) -> list[str]:
    """Return the facts of places of which rows have several. What nobody knows is no other one."""
    known: dict[str, set[str]] = {name: set() for name in _FACTS}
    for places in {row.places for row in rows}:
        for place in places:
            for name, text in place._asdict().items():
                if text:
                    known[name].add(text)
    return [name for name, texts in known.items() if len(texts) > 1]


def _described(place: Place, facts: Sequence[str]) -> str:
    texts = [getattr(place, name) for name in facts]
    return ", ".join(text for text in texts if text)


def _marks(rows: Sequence[Row]) -> list[str]:
    """Return the marks that any of `rows` has, in the order of `SIGNS`."""
    present: set[str] = set()
    for row in rows:
        present.update(row.marks)
    return [mark for mark in SIGNS if mark in present]


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
