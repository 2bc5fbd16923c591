"""Tickets to the free slots of shards.

Laws kept here:
- a shard never has more tickets than slots, and none is dealt to a shard that is away;
- the shard that runs least gets the next ticket, the first of several: the work is even, and who gets what is settled by what is free, not by timing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from rlvla3.types import Ticket


class Seating:
    """Who runs what.

    seating.sit(shard)                       # it is there, with all its slots free
    dealt = seating.deal(ledger.take)        # {shard: tickets}
    seating.free(shard, ticket.index)        # it has ended
    lost = seating.leave(shard)              # it is gone; its tickets
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._running: dict[int, set[int]] = {}
        self._open: list[tuple[int, int]] = []

    def sit(self, shard: int) -> None:
        self._running[shard] = set()
        self._offer(shard)

    def leave(self, shard: int) -> list[int]:
        """Take a shard away, if it is there. Returns the tickets it was running."""
        return sorted(self._running.pop(shard, ()))

    def free(self, shard: int, index: int) -> None:
        self._running[shard].remove(index)
        self._offer(shard)

    def running(self, shard: int) -> int:
        """How many tickets a shard runs."""
        return len(self._running.get(shard, ()))

    def deal(self, take: Callable[[], Ticket | None]) -> dict[int, list[Ticket]]:
        """Deal out tickets, as `take` gives them, for as long as there are both tickets and free slots."""
        dealt: dict[int, list[Ticket]] = {}
        while (shard := self._emptiest()) is not None and (ticket := take()) is not None:
            self._running[shard].add(ticket.index)
            self._offer(shard)
            dealt.setdefault(shard, []).append(ticket)
        return dealt

    def _emptiest(self) -> int | None:
        """The shard that runs least, if any has a free slot. What stands in the heap of one that has been dealt to, has been freed or has left is void."""
        while self._open:
            count, shard = self._open[0]
            if shard in self._running and count == len(self._running[shard]):
                return shard
            heapq.heappop(self._open)
        return None

    def _offer(self, shard: int) -> None:
        if len(self._running[shard]) < self.slots:
            heapq.heappush(self._open, (len(self._running[shard]), shard))
