"""Which runner gets the next ticket: the one that runs the fewest. Each decision takes time that grows with the logarithm of the number of runners.

Laws kept here:
- a runner never has more tickets than slots, and a runner that is away or held gets none;
- the runner that runs the fewest tickets gets the next one; of several, the one with the lowest number. So who gets what depends on what is free and not on
  timing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

from rlvla3.types import Ticket


class Seating:
    """The slots of runners for the tickets of one simulator.

    seating.sit(runner, slots)               # it is there, with all its slots free
    dealt = seating.deal(ledger.take)        # {runner: tickets}
    seating.free(runner, ticket.index)       # the episode has ended
    seating.hold(runner)                     # it gets no more tickets until seating.release(runner)
    lost = seating.leave(runner)             # it is gone; its tickets
    """

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._running: dict[int, set[int]] = {}
        self._open: list[tuple[int, int]] = []
        """A heap of (running tickets, runner). Entries that are out of date are removed when they come to the top."""
        self._listed: set[tuple[int, int]] = set()
        """What stands in the heap: once each, so it holds no more than there are slots."""
        self._held: set[int] = set()

    def sit(self, runner: int, slots: int) -> None:
        self._slots[runner], self._running[runner] = slots, set()
        self._offer(runner)

    def leave(self, runner: int) -> list[int]:
        """Take a runner away, if it is there. Returns the tickets that it was running."""
        return sorted(self._running.pop(runner, ()))

    def free(self, runner: int, index: int) -> None:
        self._running[runner].remove(index)
        self._offer(runner)

    def hold(self, runner: int) -> None:
        self._held.add(runner)

    def release(self, runner: int) -> None:
        self._held.remove(runner)
        if runner in self._running:
            self._offer(runner)

    def there(self) -> Iterator[tuple[int, int]]:
        """The runners that are not held, each with the slots on which it runs nothing."""
        return ((runner, self._slots[runner] - len(running)) for runner, running in self._running.items() if runner not in self._held)

    def running(self, runner: int) -> int:
        """How many tickets a runner runs."""
        return len(self._running.get(runner, ()))

    def deal(self, take: Callable[[], Ticket | None]) -> dict[int, list[Ticket]]:
        """Deal out tickets, as `take` gives them, for as long as there are both tickets and free slots."""
        dealt: dict[int, list[Ticket]] = {}
        while (runner := self._emptiest()) is not None and (ticket := take()) is not None:
            self._running[runner].add(ticket.index)
            self._offer(runner)
            dealt.setdefault(runner, []).append(ticket)
        return dealt

    def _emptiest(self) -> int | None:
        """The runner that runs the fewest tickets, if any has a free slot."""
        while self._open:
            count, runner = self._open[0]
            if runner in self._running and runner not in self._held and count == len(self._running[runner]) < self._slots[runner]:
                return runner
            self._listed.remove(heapq.heappop(self._open))
        return None

    def _offer(self, runner: int) -> None:
        offer = len(self._running[runner]), runner
        if offer[0] < self._slots[runner] and offer not in self._listed:
            heapq.heappush(self._open, offer)
            self._listed.add(offer)
