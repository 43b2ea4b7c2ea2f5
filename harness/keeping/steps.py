"""The steps of a method's own loop, which goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.keeping.loops import KeptLoop


class Steps:
    """The numbers 0 to `count` - 1, from the first one that is not done yet.

    `begin` opens the loop whose state is kept, `check` raises when time is up, `progress` takes
    steps done, steps in all, and None.
    """

    def __init__(
        self,
        count: int,
        begin: Callable[[], KeptLoop],
        check: Callable[[], None],
        progress: Callable[[int, int, float | None], None],
    ) -> None:
        self.count = count
        self._begin = begin
        self._check = check
        self._progress = progress
        self._ended = False

    def end(self) -> None:
        """Make this step the last one."""
        self._ended = True

    def __iter__(self) -> Iterator[int]:
        loop = self._begin()
        try:
            loop.restore()
            if not loop.finished:
                yield from self._left(loop)
            loop.finish(_nothing)
        finally:
            loop.abandon()  # unless it is finished

    def _left(self, loop: KeptLoop) -> Iterator[int]:
        for step in range(loop.done, self.count):
            loop.boundary(step, f"step {step + 1:,} of {self.count:,}", _nothing)
            self._check()
            yield step
            self._progress(step + 1, self.count, None)
            if self._ended:
                return


def _nothing() -> None:
    """There is no state beside what is kept by name."""
