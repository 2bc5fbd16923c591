"""Scenes that stay built between episodes. Building a scene takes as long as some episodes do."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    def close(self) -> None: ...


CachedScene = TypeVar("CachedScene", bound=Closable)


class SceneCache(Generic[CachedScene]):
    """At most `limit` scenes, by the names of their tasks. `build` makes a scene. When there is no room, the least recently used scene is closed.

    Example:
        scenes = SceneCache(4, lambda task: MetaWorldScene(task, size=64, fast=True))
        scenes["reach-v3"].reset(seed=0)
    """

    def __init__(self, limit: int, build: Callable[[str], CachedScene]) -> None:
        self._limit, self._build = limit, build
        self._scenes: OrderedDict[str, CachedScene] = OrderedDict()  # the most recently used one is last

    def __getitem__(self, task: str) -> CachedScene:
        """The scene of `task`. It is built if it is not in the cache."""
        if task not in self._scenes:
            while len(self._scenes) >= self._limit:
                self._scenes.popitem(last=False)[1].close()
            self._scenes[task] = self._build(task)
        self._scenes.move_to_end(task)
        return self._scenes[task]

    def close(self) -> None:
        while self._scenes:
            self._scenes.popitem()[1].close()
