"""A model of the queue before a generator: how fast it would answer with other limits.

    shards think -> ask -> wait for a batch -> are answered -> think ...

It plays the closed queue with the cost of inference and the thinking times that were measured, and with the rule of the batcher. Equal inputs give equal
predictions: thinking times are drawn with a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from random import Random
from typing import NamedTuple

ROUNDS = 12
"""So often each shard asks in a prediction, on average."""

FEWEST, MOST = 200, 4000
"""Asks in a prediction, at least and at most."""

SETTLING = 0.25
"""The share of a prediction that is not counted: the queue starts with all shards thinking."""


class Limits(NamedTuple):
    """B_max in decisions and T_max in seconds. math.inf means no limit."""

    max_batch: float
    max_wait: float


class InferenceCost(NamedTuple):
    """Seconds of an inference of B decisions: fixed + each B."""

    fixed: float
    each: float

    def of(self, size: float) -> float:
        return self.fixed + self.each * size


class Prediction(NamedTuple):
    """rate: decisions per second. batch: decisions in an inference, on average. longest_wait: of a request for its batch to begin, in seconds."""

    rate: float
    batch: float
    longest_wait: float


def predict(limits: Limits, cost: InferenceCost, thinking: Sequence[float], shards: int, slots: float = 1) -> Prediction:
    """What `shards` shards would get that ask for `slots` decisions each. thinking: measured seconds from an answer to the next request of the shard."""
    draw, known = Random(0).random, len(thinking)
    phase = cost.of(shards * slots)
    asks = [draw() * (phase + thinking[int(draw() * known)]) for _ in range(shards)]
    heapify(asks)
    largest = max(int(min(limits.max_batch / slots, shards)), 1)
    asked, last = 0, min(max(ROUNDS * shards, FEWEST), MOST)
    settled_at = settled_asks = free = longest = 0.0
    inferences = 0
    while asked < last:
        ready = heappop(asks)
        begin = max(ready + limits.max_wait, free)
        size, newest = 1, ready
        while asks and size < largest and asks[0] <= begin:
            newest = heappop(asks)
            size += 1
        if size == largest or not asks:
            begin = max(newest, free)
        if settled_at:
            longest = max(longest, begin - ready)
        free = begin + cost.of(size * slots)
        for _ in range(size):
            heappush(asks, free + thinking[int(draw() * known)])
        asked += size
        if settled_at:
            inferences += 1
        elif asked >= SETTLING * last:
            settled_at, settled_asks = free, asked
    counted = (asked - settled_asks) * slots
    return Prediction(counted / (free - settled_at), counted / inferences, longest)
