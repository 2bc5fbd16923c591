"""A model of the queue before a generator: how fast it would answer with other limits.

    shards think -> ask -> wait for a batch -> are answered -> think ...

It plays this closed queue with the cost of inference and the thinking times that were measured, by the rule of the batcher (batcher.py). Equal inputs give
equal predictions: thinking times are drawn with a fixed seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from random import Random
from typing import NamedTuple

from rlvla3.scheduling.inference_cost import InferenceCost

ROUNDS = 12
"""So often each shard asks in a prediction, on average."""

FEWEST, MOST = 200, 2000
"""Asks in a prediction, at least and at most. There are always two of each shard: the first ones only settle the queue."""

SETTLING = 0.25
"""The share of a prediction that is not counted. The queue starts with shards anywhere in their round, and has to settle."""


CLOCK_S = 1e-9
"""What clocks can tell apart. A queue whose measured times are all nothing has an end of its rate."""


class Limits(NamedTuple):
    """B_max in decisions and T_max in seconds. math.inf means no limit."""

    max_batch: float
    max_wait: float


class Prediction(NamedTuple):
    """rate: decisions per second. batch: decisions in an inference, on average."""

    rate: float
    batch: float


def predict(limits: Limits, cost: InferenceCost, thinking: Sequence[float], shards: int, slots: float = 1.0) -> Prediction:
    """What `shards` shards would get that ask for `slots` decisions each. thinking: measured seconds from an answer to the next request of the shard."""
    draw, known = Random(0).random, len(thinking)
    everyone = cost.of(shards * slots)
    asks = [draw() * (everyone + thinking[int(draw() * known)]) for _ in range(shards)]
    heapify(asks)
    largest = max(int(min(limits.max_batch / slots, shards)), 1)
    asked, last = 0, max(min(max(ROUNDS * shards, FEWEST), MOST), 2 * shards)
    free, settled = 0.0, None
    settled_asks = inferences = 0
    while asked < last:
        oldest = newest = heappop(asks)
        begin, size = max(oldest + limits.max_wait, free), 1
        while asks and size < largest and asks[0] <= begin:
            newest, size = heappop(asks), size + 1
        if size == largest or not asks:
            begin = max(newest, free)
        free = begin + cost.of(size * slots)
        for _ in range(size):
            heappush(asks, free + thinking[int(draw() * known)])
        asked += size
        if settled is not None:
            inferences += 1
        elif asked >= SETTLING * last:
            settled, settled_asks = free, asked
    assert settled is not None, "it settles before the last ask"
    counted = (asked - settled_asks) * slots
    return Prediction(counted / max(free - settled, CLOCK_S), counted / inferences)
