"""What virtual work is done on: the cores of a host, the compute of a device, its simulators, a link. Jobs that run at the same time share it."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

from rlvla3.runtimes.virtual.clock import Promise, VirtualClock

LOW_WEIGHT = 110 / 1024
"""The weight in Linux's scheduler of a process with niceness 10 (simulators), against one with niceness 0 (generators and trainer)."""


class Jobs:
    """Jobs that all progress at one rate.

    Let V(t) be the work that a job would have done by time t if it had been there from the start. A job that begins at V ends when V has grown by its work. A
    change of the rate changes only how fast V grows, so every event costs O(log jobs).
    """

    __slots__ = ("_arrivals", "_done", "_heap", "rate")

    def __init__(self) -> None:
        self.rate = 0.0
        self._done = 0.0
        self._heap: list[tuple[float, int, Promise]] = []
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, work: float, promise: Promise) -> None:
        self._arrivals += 1
        heapq.heappush(self._heap, (self._done + work, self._arrivals, promise))

    def progress(self, seconds: float) -> None:
        self._done += seconds * self.rate

    def left(self) -> float:
        """Seconds until the next job ends, at the present rate."""
        return max(self._heap[0][0] - self._done, 0.0) / self.rate if self._heap else float("inf")

    def end_next(self) -> None:
        """End the next job, and all jobs that end at the same instant."""
        ending = self._done = max(self._done, self._heap[0][0])  # the sum of many small steps may be too small by a rounding error
        while self._heap and self._heap[0][0] <= ending:
            heapq.heappop(self._heap)[2].resolve()


class Resource:
    """Something that does work. Jobs that use it at the same time share it, and none is faster than a job alone.

    speeds: work done in a second with 1, 2, ... jobs at once. If there are more jobs than entries, they take turns. [1] is a device, [1, 2, 3, 4] are four
    cores, [1, 1.3] is one core with two hardware threads. Jobs of low priority have the weight LOW_WEIGHT, other jobs 1.
    """

    def __init__(self, clock: VirtualClock, speeds: Sequence[float] = (1.0,)) -> None:
        self._clock, self._speeds = clock, tuple(speeds)
        self._high, self._low = Jobs(), Jobs()
        self._since = clock.now
        self._timer = 0
        self._used = 0.0

    def work(self, seconds: float, low: bool = False) -> Promise:
        """To be awaited: done when a job is done that takes `seconds` alone."""
        promise = self._clock.promise()
        if seconds <= 0:
            promise.resolve()
            return promise
        self._progress()
        (self._low if low else self._high).add(seconds, promise)
        self._share()
        return promise

    def used(self) -> float:
        """Seconds until now in which any job was running on it."""
        self._progress()
        return self._used

    def _progress(self) -> None:
        passed = self._clock.now - self._since
        self._since = self._clock.now
        if passed and (self._high or self._low):
            self._used += passed
            self._high.progress(passed)
            self._low.progress(passed)

    def _share(self) -> None:
        """Compute the rates of all jobs anew, and set the timer to the next end. An earlier timer is void."""
        high, low = len(self._high), len(self._low)
        self._timer += 1
        if high + low == 0:
            return
        at_once = min(high + low, len(self._speeds))
        speed = self._speeds[at_once - 1]
        fastest = speed / at_once
        self._high.rate = min(fastest, speed / (high + low * LOW_WEIGHT)) if high else 0.0
        self._low.rate = min(fastest, (speed - high * self._high.rate) / low) if low else 0.0
        if high and low:
            self._high.rate = min(fastest, (speed - low * self._low.rate) / high)
        which = min((self._high, self._low), key=Jobs.left)
        self._clock.at(self._clock.now + which.left(), self._ends(which, self._timer))

    def _ends(self, which: Jobs, timer: int) -> Callable[[], None]:
        def end() -> None:
            if timer == self._timer:
                self._progress()
                which.end_next()
                self._share()

        return end
