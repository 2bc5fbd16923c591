"""Scenes that are kept ready between episodes, because building one takes as long as many an episode."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    def close(self) -> None: ...


Kept = TypeVar("Kept", bound=Closable)


class SceneCache(Generic[Kept]):
    """At most `limit` scenes by their task's name, made by `build`; the one unused for longest makes room.

    Example:
        live = SceneCache(4, lambda task: Scene(task))
        live["reach-v3"].reset(seed=0)
    """

    def __init__(self, limit: int, build: Callable[[str], Kept]) -> None:
        self._limit, self._build = limit, build
        self._scenes: OrderedDict[str, Kept] = OrderedDict()  # the most recently used last

    def __getitem__(self, task: str) -> Kept:
        """The live scene of `task`, built where it is not there."""
        if task not in self._scenes:
            while len(self._scenes) >= self._limit:
                self._scenes.popitem(last=False)[1].close()
            self._scenes[task] = self._build(task)
        self._scenes.move_to_end(task)
        return self._scenes[task]

    def close(self) -> None:
        while self._scenes:
            self._scenes.popitem()[1].close()
