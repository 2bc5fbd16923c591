"""`max_batch: auto`: B_max and T_max from what the generator has measured.

The generator measures three things as it runs: the time of an inference by its size, the time from an answer to the next request of the same shard, and how
many shards run. From these, a model of its queue (queue_model.py) predicts how fast it would be with other limits. The limits with the best prediction are
used. They are chosen anew when the measurements have changed.

Until enough is known, the limits are "all that wait go together, at once".

Invariants:
- the same requests at the same times give the same limits;
- T_max never exceeds what the recipe says (law 4).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from rlvla3.scheduling.queue_model import InferenceCost, Limits, Prediction, predict

KNOWN_TIMES = 512
"""Thinking times that are remembered: the newest ones."""

MEMORY = 0.95
"""The weight of an inference is so many times smaller after each later one. So about the last 20 inferences count."""

GAIN = 0.02
"""A change must promise so much more decisions per second."""

CHANGE = 0.1
"""Measurements that have changed by less than this share are the same."""


FORGET = 0.9
P = 4

class CostCurve:
    """The time of an inference by its size, as a line that is fitted to the last inferences."""

    def __init__(self) -> None:
        self._weight = self._size = self._seconds = self._size_size = self._size_seconds = 0.0
        self._share = 0.0  # of the time of the mean inference, what is not fixed

    def observe(self, size: int, seconds: float) -> None:
        self._weight = self._weight * MEMORY + 1
        self._size = self._size * MEMORY + size
        self._seconds = self._seconds * MEMORY + seconds
        self._size_size = self._size_size * MEMORY + size * size
        self._size_seconds = self._size_seconds * MEMORY + size * seconds

    def line(self) -> InferenceCost:
        """The fitted line. If all sizes were about the same, it has the slope that was found before, or none."""
        size, seconds = self._size / self._weight, self._seconds / self._weight
        variance = self._size_size / self._weight - size * size
        if variance > (0.05 * size) ** 2:
            slope = (self._size_seconds / self._weight - size * seconds) / variance
            self._slope_share = min(max(slope * size / seconds, 0.0), 1.0)
            self._at = size
            self._share = self._slope_share / size / (1 - self._slope_share) if self._slope_share < 1 else math.inf
        # fixed (1 + share size) = seconds
        if self._share == math.inf:
            return InferenceCost(0.0, seconds / size)
        fixed = seconds / (1 + self._share * size)
        return InferenceCost(fixed, self._share * fixed)


class LearnedLimits:
    """The limits of one generator, as it learns them. longest_wait: the recipe's T_max in seconds."""

    def __init__(self, longest_wait: float, neighbour=None) -> None:
        self.longest_wait, self.neighbour = longest_wait, neighbour
        self._clock = self._busy = self._answered = self._inferring = 0.0
        self._last = (0.0, 0.0)
        self.limits = Limits(math.inf, 0.0)
        self.cost = CostCurve()
        self._thinking: deque[float] = deque(maxlen=KNOWN_TIMES)
        self._since: dict[int, float] = {}
        self._decisions = self._asks = 0
        self._shards = 0
        self._due = 0
        self._learned_from: tuple[float, ...] = ()
        self.prediction: Prediction | None = None
        self.choices = 0

    def asked(self, shard: int, at: float) -> None:
        since = self._since.pop(shard, None)
        if since is not None:
            self._thinking.append(max(at - since, 0.0))

    def running(self, shards: int) -> None:
        self._shards = max(self._shards, shards)

    def answered(self, shards: set[int], decisions: int, seconds: float, now: float) -> None:
        self.cost.observe(decisions, seconds)
        for shard in shards:
            self._since[shard] = now
        self._asks += len(shards)
        self._decisions += decisions
        self._inferring += seconds
        if self._asks >= max(4 * self._shards, 64):
            self._choose(now)

    def _device(self, now: float) -> tuple[float, float]:
        """training share of the device, and its work per decision."""
        if self.neighbour is None:
            return 0.0, 0.0
        busy = self.neighbour()
        self._clock = self._clock * FORGET + now - self._last[0]
        self._busy = self._busy * FORGET + busy - self._last[1]
        self._last = now, busy
        u, g = self._busy / self._clock, min(self._inferring / self._clock, 1)
        t = self._busy * (1 - g / 2) / (self._answered + self._decisions)
        self._answered = (self._answered + self._decisions) * FORGET
        self._inferring *= FORGET
        return u, t

    def _choose(self, now: float) -> None:
        used, training = self._device(now)
        shards, slots = self._shards, self._decisions / self._asks
        cost, thinking = self.cost.line(), sorted(self._thinking)
        n = len(thinking)
        now = (cost.fixed, cost.each * shards, shards, sum(thinking) / n, thinking[n // 2], thinking[n * 9 // 10], training)
        wait = max(4 * shards, 64)
        self._due, self._asks, self._decisions, self._shards = wait, 0, 0, 0
        if self._learned_from and all(abs(x - y) <= CHANGE * y for x, y in zip(now, self._learned_from)):
            return
        self._learned_from = now
        self.choices += 1
        found = {limits: predict(limits, cost, thinking, shards, slots) for limits in self._candidates(shards * slots, cost)}
        def time(limits):
            x = found[limits]
            device = used * (training + cost.of(x.batch) / x.batch / (1 + used)) if self.neighbour else 0.0
            return ((1 / x.rate) ** P + device ** P) ** (1 / P)
        best = min(found, key=time)
        simple = Limits(math.inf, 0.0)
        self.scores = "best %.6f simple %.6f; 1/x %.6f, simple 1/x %.6f batch %.1f used %.2f" % (time(best), time(simple), 1/found[best].rate, 1/found[simple].rate, found[simple].batch, used)
        if time(best) * (1 + GAIN) > time(simple):
            best = simple
        self.prediction = found[best]
        wait = best.max_wait if best.max_wait < math.inf else 1.5 * found[best].longest_wait
        wait = min(wait, self.longest_wait)
        self.limits = Limits(best.max_batch, wait)

    def _candidates(self, decisions: float, cost: InferenceCost) -> Iterator[Limits]:
        waits = [0.0, *(share * cost.of(1) for share in (0.5, 1.0, 2.0)), math.inf]
        for wait in waits:
            yield Limits(math.inf, wait)
        for part in (2, 3, 4, 6, 8, 12, 16, 32):
            if decisions / part >= 1:
                for wait in (0.0, math.inf):
                    yield Limits(math.ceil(decisions / part), wait)
