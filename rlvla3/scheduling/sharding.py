"""Flexible environment sharding (RL-VLA3, section 3): what each shard is, who serves it and what it runs on; and tickets to the free slots of shards.

Laws kept here:
- a shard never has more tickets than slots, and none is dealt to a shard that is away or held;
- the shard that runs least gets the next ticket, the first of several: the work is even, and who gets what is settled by what is free, not by timing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Literal

from rlvla3.scheduling.placement import PlacementError
from rlvla3.types import Ticket

Serving = Literal["round_robin", "least_loaded"]


@dataclass(frozen=True, slots=True)
class Sharding:
    """How one simulator is cut into shards. cores: that each is bound to (0: it may use any). devices: shards go round them (empty: the default one)."""

    shards: int
    slots: int
    cores: int = 0
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShardSpec:
    """One shard, by its number in the run. simulator: the number of its simulator. slots: its own, of all that are numbered through the run's shards.

    generator: the number of the one that serves it, its home where that may change (elastic.py). cores: those it is bound to, () for any. device: "" for the
    default one.
    """

    number: int
    simulator: int
    slots: range
    generator: int
    cores: tuple[int, ...] = ()
    device: str = ""


def lay_out(simulators: Sequence[Sharding], generators: int, serving: Serving = "round_robin", cores: Sequence[int] = ()) -> list[ShardSpec]:
    """All shards of a run. cores: those of the host, dealt in turn to the shards that are bound. Raises PlacementError where a shard is to have more.

    serving: `round_robin`, generators take turns; `least_loaded`, whoever serves the fewest slots takes the next shard, large shards first.
    """
    turn = cycle(cores)
    shards: list[ShardSpec] = []
    first = 0
    for simulator, sharding in enumerate(simulators):
        if sharding.cores > len(cores):
            raise PlacementError(
                f"a shard is to be bound to cores={sharding.cores}, and this host has {len(cores)}: set it to {len(cores)} or less, or 0 for any"
            )
        for number in range(sharding.shards):
            bound = tuple(islice(turn, sharding.cores))
            device = sharding.devices[number % len(sharding.devices)] if sharding.devices else ""
            shards.append(ShardSpec(len(shards), simulator, range(first, first + sharding.slots), len(shards) % generators, bound, device))
            first += sharding.slots
    return shards if serving == "round_robin" else _balanced(shards, generators)


def _balanced(shards: Sequence[ShardSpec], generators: int) -> list[ShardSpec]:
    """The longest-processing-time rule: Graham, "Bounds on multiprocessing timing anomalies" (1969)."""
    load = [0] * generators
    serves: dict[int, int] = {}
    for shard in sorted(shards, key=lambda shard: -len(shard.slots)):
        serves[shard.number] = load.index(min(load))
        load[serves[shard.number]] += len(shard.slots)
    return [replace(shard, generator=serves[shard.number]) for shard in shards]


class Seating:
    """Who runs what.

    seating.sit(shard, slots)                # it is there, with all its slots free
    dealt = seating.deal(ledger.take)        # {shard: tickets}
    seating.free(shard, ticket.index)        # it has ended
    seating.hold(shard)                      # it gets no more tickets until seating.release(shard)
    lost = seating.leave(shard)              # it is gone; its tickets
    """

    def __init__(self) -> None:
        self._slots: dict[int, int] = {}
        self._running: dict[int, set[int]] = {}
        self._open: list[tuple[int, int]] = []
        self._listed: set[tuple[int, int]] = set()
        """What stands in the heap: once each, so it holds no more than there are slots."""
        self._held: set[int] = set()

    def sit(self, shard: int, slots: int) -> None:
        self._slots[shard], self._running[shard] = slots, set()
        self._offer(shard)

    def leave(self, shard: int) -> list[int]:
        """Take a shard away, if it is there. Returns the tickets it was running."""
        return sorted(self._running.pop(shard, ()))

    def free(self, shard: int, index: int) -> None:
        self._running[shard].remove(index)
        self._offer(shard)

    def hold(self, shard: int) -> None:
        self._held.add(shard)

    def release(self, shard: int) -> None:
        self._held.remove(shard)
        if shard in self._running:
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
        """The shard that runs least, if any has a free slot. What stands in the heap of one that has been dealt to, has been freed, has left or is held is
        void."""
        while self._open:
            count, shard = self._open[0]
            if shard in self._running and shard not in self._held and count == len(self._running[shard]):
                return shard
            self._listed.remove(heapq.heappop(self._open))
        return None

    def _offer(self, shard: int) -> None:
        offer = len(self._running[shard]), shard
        if offer[0] < self._slots[shard] and offer not in self._listed:
            heapq.heappush(self._open, offer)
            self._listed.add(offer)
