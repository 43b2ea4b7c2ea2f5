"""Which stages worked beside each other.

A stage that is caught in the scratch folder of others, or at killing their processes, may have
spoilt what ran beside it. So that can be made again.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(eq=False)
class Presence:
    """One attempt at a stage while it lasts. `beside`: keys of the stages that worked meanwhile."""

    key: str
    beside: set[str] = field(default_factory=set)
    suspect: bool = False
    """True once a stage beside it was caught."""


class Company:
    """The stages at work on one machine in one run. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._present: set[Presence] = set()

    def enter(self, key: str) -> Presence:
        """Take note that an attempt at a stage begins."""
        presence = Presence(key)
        with self._lock:
            for other in self._present:
                other.beside.add(key)
                presence.beside.add(other.key)
            self._present.add(presence)
        return presence

    def leave(self, presence: Presence) -> bool:
        """Take note that an attempt is over, with its result stored; return whether it is
        suspect.
        """
        with self._lock:
            self._present.discard(presence)
            return presence.suspect

    def catch(self, presence: Presence) -> tuple[str, ...]:
        """Suspect all that still works beside a stage that was caught; return the keys of what
        worked beside it and is over.
        """
        with self._lock:
            over = set(presence.beside)
            for other in self._present:
                if other is not presence and other.key in presence.beside:
                    other.suspect = True
                    over.discard(other.key)
        return tuple(sorted(over))
