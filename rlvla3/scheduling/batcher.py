"""Dynamic batching: when to infer, and for whom (RL-VLA3 section 3.2, equation 1).

    infer when  waiting >= B_max,  or the oldest request has waited T_max,  or everyone waits

The third condition makes the two limits safe: if no other request can come, waiting longer is idling. With no limit B_max and infinite T_max, this is the
synchronous lock-step.

Laws kept here (law 4): T_max counts from the oldest waiting request; the oldest requests are served first; a batch never exceeds B_max decisions.

Pure decisions: the caller brings the time.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from typing import Generic, Literal, TypeVar

from rlvla3.scheduling.learned_limits import LearnedLimits

RequestT = TypeVar("RequestT")


class DynamicBatcher(Generic[RequestT]):
    """Requests waiting for inference, oldest first.

    max_batch: B_max in decisions, None for no limit. max_wait: T_max in seconds, math.inf for no limit. Raises ValueError for a B_max below 1.

        batcher.add(request, shard=3, asked_at=now)
        batch = batcher.take(now, running=8)         # nothing is due: []
    """

    def __init__(self, max_batch: int | None | Literal["auto"], max_wait: float, neighbour=None) -> None:
        self.learned = LearnedLimits(max_wait, neighbour) if max_batch == "auto" else None
        if max_batch == "auto":
            max_batch, max_wait = None, 0.0
        if max_batch is not None and max_batch < 1:
            raise ValueError(f"max_batch={max_batch} would make empty batches for ever: give 1 or more, or None for no limit")
        self.max_batch = math.inf if max_batch is None else max_batch
        self.max_wait = max_wait
        self._waiting: deque[tuple[float, int, RequestT]] = deque()
        self._shards: Counter[int] = Counter()  # requests that wait, by shard

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: RequestT, shard: int, asked_at: float, first: bool = False) -> None:
        """A request for one decision, asked by a shard at `asked_at` seconds."""
        if self.learned and not first:
            self.learned.asked(shard, asked_at)
        unordered = bool(self._waiting) and asked_at < self._waiting[-1][0]
        self._waiting.append((asked_at, shard, request))
        self._shards[shard] += 1
        if unordered:
            self._waiting = deque(sorted(self._waiting, key=lambda waiting: waiting[0]))

    def take(self, now: float, running: int) -> list[RequestT]:
        """The batch that is due now, or an empty list. running: how many shards have a ticket, and so have asked or will ask.

        A shard asks for all its slots at once and then waits. If `running` shards wait, no other request can come before one of these is answered.
        """
        if self.learned:
            self.learned.running(running)
            self.max_batch, self.max_wait = self.learned.limits
        everyone_waits = len(self._shards) >= running
        if not self._waiting or not (everyone_waits or len(self._waiting) >= self.max_batch or now >= self.deadline()):
            return []
        self._taken_at = now
        self._taken = [self._waiting[i][1] for i in range(int(min(self.max_batch, len(self._waiting))))]
        return [self._take_oldest() for _ in range(int(min(self.max_batch, len(self._waiting))))]

    def answered(self, now: float) -> None:
        if self.learned:
            self.learned.answered(set(self._taken), len(self._taken), now - self._taken_at, now)

    def __iter__(self) -> Iterator[RequestT]:
        return (request for _, _, request in self._waiting)

    def deadline(self) -> float:
        """When the oldest request will have waited T_max. Infinite if no request waits."""
        return self._waiting[0][0] + self.max_wait if self._waiting else math.inf

    def forget(self, shard: int) -> None:
        """Drop the requests of a lost shard."""
        self._waiting = deque(waiting for waiting in self._waiting if waiting[1] != shard)
        self._shards.pop(shard, None)

    def _take_oldest(self) -> RequestT:
        _, shard, request = self._waiting.popleft()
        self._shards[shard] -= 1
        if not self._shards[shard]:
            del self._shards[shard]
        return request
