"""Waiting for an answer of each of several workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class RollCall:
    """Calls `then` once every worker in `names` has answered or is gone. Calls it at once if there are none.

    leaving = RollCall(["generator 0", "generator 1"], then=begin)
    leaving.answered("generator 1")                 # a second answer, or one of a worker that was not asked, does nothing
    leaving.answered("generator 0")                 # begin()
    """

    def __init__(self, names: Iterable[str], then: Callable[[], None]) -> None:
        self._missing, self._then = set(names), then
        if not self._missing:
            then()

    def answered(self, name: str) -> None:
        if name in self._missing:
            self._missing.remove(name)
            if not self._missing:
                self._then()
