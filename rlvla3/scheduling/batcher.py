"""Dynamic batching: when to infer, and for whom (RL-VLA3 section 3.2, equation 1).

    infer when  waiting >= B_max,  or the oldest request has waited T_max,  or everyone waits

The third condition makes the two limits safe: if no other request can come, waiting longer is idling. With no limit B_max and infinite T_max, this is the
synchronous lock-step.

Laws kept here (law 4): T_max counts from the oldest waiting request; the oldest requests are served first; a batch never exceeds B_max decisions.

Pure decisions: the caller brings the time. limits.py says what B_max and T_max are.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from rlvla3.scheduling.limits import FixedLimits

RequestT = TypeVar("RequestT")


class DynamicBatcher(Generic[RequestT]):
    """Requests waiting for inference, oldest first.

    limits: B_max and T_max, fixed or learned.

        batcher.add(request, shard=3, asked_at=now)
        batch = batcher.take(now, running=8)         # nothing is due: []
        batcher.answered(now)                        # when the inference has ended
    """

    def __init__(self, limits: FixedLimits) -> None:
        self.limits = limits
        self.largest: float = math.inf
        """The largest batch that the device can do."""
        self._waiting: deque[tuple[float, int, RequestT]] = deque()
        self._shards: Counter[int] = Counter()  # requests that wait, by shard
        self._under_way: deque[tuple[float, list[int]]] = deque()  # batches that are inferred: since when, and who asked
        self._running, self._ended = 0, -math.inf

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: RequestT, shard: int, asked_at: float, first: bool = False) -> None:
        """A request for one decision, asked by a shard at `asked_at` seconds.

        first: of its episode. The time before it may be one of waiting for a ticket, so it is no thinking time.
        """
        if not first:
            self.limits.asked(shard, asked_at, self._running)
        unordered = bool(self._waiting) and asked_at < self._waiting[-1][0]
        self._waiting.append((asked_at, shard, request))
        self._shards[shard] += 1
        if unordered:
            self._waiting = deque(sorted(self._waiting, key=lambda waiting: waiting[0]))

    def take(self, now: float, running: int) -> list[RequestT]:
        """The batch that is due now, or an empty list. running: how many shards have a ticket, and so have asked or will ask.

        A shard asks for all its slots at once and then waits. If `running` shards wait, no other request can come before one of these is answered.
        """
        self._running = running
        everyone_waits, largest = len(self._shards) >= running, min(self.limits.present.max_batch, self.largest)
        if not self._waiting or not (everyone_waits or len(self._waiting) >= largest or now >= self.deadline()):
            return []
        taken = [self._take_oldest() for _ in range(int(min(largest, len(self._waiting))))]
        self._under_way.append((now, [shard for shard, _ in taken]))
        return [request for _, request in taken]

    def answered(self, now: float) -> None:
        """The oldest batch that is under way has been answered."""
        taken_at, shards = self._under_way.popleft()
        began, self._ended = max(taken_at, self._ended), now  # a batch may be taken before the one before it is answered
        self.limits.answered(shards, now - began, now)

    def __iter__(self) -> Iterator[RequestT]:
        return (request for _, _, request in self._waiting)

    def deadline(self) -> float:
        """When the oldest request will have waited T_max. Infinite if no request waits."""
        return self._waiting[0][0] + self.limits.present.max_wait if self._waiting else math.inf

    def forget(self, shard: int) -> None:
        """Drop the requests of a lost shard."""
        self._waiting = deque(waiting for waiting in self._waiting if waiting[1] != shard)
        self._shards.pop(shard, None)
        self.limits.forget(shard)

    def abandon(self) -> None:
        """The batches that are under way will not be answered."""
        self._under_way.clear()

    def _take_oldest(self) -> tuple[int, RequestT]:
        _, shard, request = self._waiting.popleft()
        self._shards[shard] -= 1
        if not self._shards[shard]:
            del self._shards[shard]
        return shard, request
