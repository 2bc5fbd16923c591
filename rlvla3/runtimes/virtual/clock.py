"""Virtual time: coroutines wait for it instead of for the machine's time.

There is one thread, and one heap of calls to come. Invariants:
- calls of the same instant happen in the order in which they were asked for, so a run is a function of its inputs;
- time moves only when no coroutine can go on: a computation costs no virtual time unless it says so;
- if no coroutine can go on and no call is to come, the run has ended or is stuck, and `run` returns. So no wait is endless.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Promise:
    """One coroutine awaits it, and another one will `resolve` it. Resolving it again does nothing."""

    __slots__ = ("_clock", "_waiter", "done")

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._waiter: Callable[[], None] | None = None
        self.done = False

    def resolve(self) -> None:
        if not self.done:
            self.done = True
            if self._waiter is not None:
                self._clock.soon(self._waiter)

    def then(self, call: Callable[[], None]) -> None:
        """Call `call` when it is resolved. It must not be resolved yet."""
        self._waiter = call

    def __await__(self) -> Generator[Promise, None, None]:
        if not self.done:
            yield self


class VirtualTask:
    """A coroutine that runs on the virtual clock."""

    __slots__ = ("_coroutine", "ended")

    def __init__(self, coroutine: Coroutine[Promise, None, Any]) -> None:
        self._coroutine = coroutine
        self.ended = False

    def go_on(self) -> None:
        if self.ended:
            return
        try:
            self._coroutine.send(None).then(self.go_on)
        except StopIteration:
            self.ended = True

    def cancel(self) -> None:
        """End it at the place where it waits."""
        self.ended = True
        self._coroutine.close()


class VirtualClock:
    """`now` in seconds since the run began.

    clock.start(simulate(...))
    clock.run(until=3600)
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._ready: deque[Callable[[], None]] = deque()
        self._coming: list[tuple[float, int, Callable[[], object]]] = []
        self._asked = 0

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> VirtualTask:
        task = VirtualTask(coroutine)
        self.soon(task.go_on)
        return task

    def soon(self, call: Callable[[], None]) -> None:
        """Call at this instant, after all calls that were asked for before."""
        self._ready.append(call)

    def at(self, time: float, call: Callable[[], object]) -> None:
        """Call at `time`, or at once if that time has passed."""
        self._asked += 1
        heapq.heappush(self._coming, (max(time, self.now), self._asked, call))

    def promise(self) -> Promise:
        return Promise(self)

    def sleep(self, seconds: float) -> Promise:
        """To be awaited: done `seconds` from now."""
        promise = Promise(self)
        self.at(self.now + seconds, promise.resolve)
        return promise

    def run(self, until: float = float("inf"), while_: Callable[[], bool] = lambda: True) -> None:
        """Let time pass until `until`, while `while_` holds and calls are to come. Ends at the instant at which `while_` no longer holds."""
        ready, coming = self._ready, self._coming
        while True:
            while ready:
                ready.popleft()()
            if not while_() or not coming or coming[0][0] > until:
                return
            self.now, _, call = heapq.heappop(coming)
            call()


class Signal:
    """Wakes the coroutine that waits for it, each time it is given. A signal that is given while nobody waits is remembered."""

    __slots__ = ("_clock", "_given", "_waiting")

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._given = False
        self._waiting: Promise | None = None

    def give(self) -> None:
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.resolve()
        else:
            self._given = True

    async def wait(self, deadline: float = float("inf")) -> None:
        """Wait until it is given, or until `deadline`."""
        if self._given:
            self._given = False
            return
        waiting = self._waiting = self._clock.promise()
        if deadline < float("inf"):
            self._clock.at(deadline, lambda: self._expire(waiting))
        await waiting

    def _expire(self, waiting: Promise) -> None:
        if self._waiting is waiting:
            self._waiting = None
            waiting.resolve()
