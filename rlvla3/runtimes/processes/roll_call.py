"""Waiting for an answer of each of several."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class RollCall:
    """Calls `then` once everybody in `names` has answered or is gone; at once where there is nobody.

    leaving = RollCall(["generator 0", "generator 1"], then=begin)
    leaving.answered("generator 1")                 # again, or by somebody who was not asked: nothing
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
