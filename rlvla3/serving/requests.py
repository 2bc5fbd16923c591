"""The clients that wait for actions: the requests of the generate loop (loops.py).

Invariants:
- a client has at most one request at a time, and every request is answered once: with actions, or with an error;
- a batch is due by the rules of DynamicBatcher. A client that has not asked for IDLE_S counts as gone until it asks again, so nobody waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rlvla3.scheduling.batcher import DynamicBatcher
from rlvla3.scheduling.limits import FixedLimits
from rlvla3.types import Observation, Version

IDLE_S = 2.0
"""A robot that has not asked for so long has paused. The pause is no thinking time either."""


@dataclass(frozen=True, slots=True)
class Decided:
    """What a request is answered with.

    actions: float32 [C, A]. waiting, inferring: seconds until its batch was begun, and from there until the decisions were there. batch: its size.
    """

    actions: NDArray[np.float32]
    waiting: float
    inferring: float
    batch: int


@dataclass(eq=False, slots=True)
class Request:
    """An observation that waits. decision: (ticket, number), from which its noise is drawn. began: when its batch was begun."""

    observation: Observation
    decision: tuple[int, int]
    at: float
    answer: asyncio.Future[Decided]
    began: float = field(default=0.0)

    def settle(self, actions: NDArray[np.float32], batch: int, now: float) -> None:
        if not self.answer.done():  # a client may have left meanwhile
            self.answer.set_result(Decided(actions, self.began - self.at, now - self.began, batch))

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


Batch = Sequence[Request]


class OneVersion:
    """The weights of a server, for the generate loop: they do not change."""

    def wanted(self, batch: Batch) -> Version:
        return 0


class ServedRequests:
    """Where clients ask, and where the generate loop finds what is due. limits: B_max and T_max. largest: the largest batch that the device can do."""

    def __init__(self, limits: FixedLimits, largest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._batcher: DynamicBatcher[Request] = DynamicBatcher(limits)
        self._batcher.largest = largest
        self._clock, self._news = clock, asyncio.Event()
        self._heard_of: dict[int, float] = {}  # by client: when it asked, or was answered

    async def decide(self, client: int, observation: Observation, decision: tuple[int, int]) -> Decided:
        """The actions for what a client observes. Waits for: the generate loop. Raises what the policy raised."""
        now = self._clock()
        paused = now - self._heard_of.get(client, -np.inf) > IDLE_S
        request = Request(observation, decision, now, asyncio.get_running_loop().create_future())
        self._batcher.add(request, client, now, first=paused)
        self._heard_of[client] = now
        self._news.set()
        try:
            return await request.answer
        finally:
            if client in self._heard_of:
                self._heard_of[client] = self._clock()

    def forget(self, client: int) -> None:
        """A client has left. Its request, if it waits, is dropped."""
        self._heard_of.pop(client, None)
        self._batcher.forget(client)
        self._news.set()  # others may be due, as nobody waits for this client any more

    async def batch(self) -> Batch:
        """The next batch, as soon as it is due. Waits for: a client that asks, one that leaves, T_max."""
        while not (batch := self.due()):
            self._news.clear()
            left = self._batcher.deadline() - self._clock()
            try:
                async with asyncio.timeout(left if left < np.inf else None):
                    await self._news.wait()
            except TimeoutError:
                continue
        return batch

    def due(self, like: Batch | None = None) -> Batch | None:
        """The batch that is due now, or None. like: a batch of the same version, as all batches here are."""
        now = self._clock()
        running = sum(now - heard <= IDLE_S for heard in self._heard_of.values())
        taken = self._batcher.take(now, running)
        for request in taken:
            request.began = now
        return taken or None

    def answer(self, batch: Batch) -> None:
        """The oldest batch that was taken and not answered has been answered."""
        self._batcher.answered(self._clock())

    def measured(self, size: int, seconds: float) -> None:
        """An inference of `size` decisions was tried, and took `seconds`."""
        self._batcher.limits.measured(size, seconds)
