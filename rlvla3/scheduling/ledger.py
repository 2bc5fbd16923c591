"""The ledger hands tickets out and takes trajectories in. It decides which tickets may run, and when.

A run is a numbered list of tickets. Ticket i belongs to update i // batch, always. Its life:

    WAITING -> RUNNING -> FINISHED -> TRAINED
       ^----------'   (its simulator was lost: it waits again)

A ticket that is set aside is FINISHED without an episode.

Laws kept here:
- ADMISSION: ticket i is handed out only while its update is at most `max_staleness` ahead of the current version. Every decision of the ticket is then made
  by a version no older than update - max_staleness. So staleness is bounded exactly, and nothing is ever discarded (law 2);
- if there are several simulators, each takes its own tickets in order, and none waits behind the tickets of another one;
- every ticket is handed in once, and an update is done only when all its tickets are handed in (law 1);
- at most capacity = (max_staleness + 1) * batch tickets are running or finished. So ticket i can live in block i mod capacity of the data plane.

Pure decisions: no clock, no process, no I/O. Docs and proof: docs/engine.md.
"""

from __future__ import annotations

import heapq
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from rlvla3.scheduling.mix import Mix
from rlvla3.types import Finished, Purpose, Ticket, TicketCounts, Version

SEED_BITS = 29
"""Bits of a seed for one purpose. Two more bits say which purpose it is. So no evaluation and no demonstration has a seed that is trained on."""


@dataclass(frozen=True, slots=True)
class TicketBook:
    """Ticket i, for any i. It is the same in every mode, on every machine and in every rerun.

    `group_size` consecutive tickets form a group: they share task, seed and initial state. Tasks alternate from group to group.

    states: {task: the numbers of the initial states that its tickets begin from}, for tasks with a fixed set. The groups of a task go through its states in
    rounds: each state comes once in a round, in an order that is drawn anew. So all states of a task come equally often, to within one group.
    in_order: whether every round goes through the states in the order in which they stand in `states`.
    """

    mix: Mix
    seed: int
    group_size: int = 1
    purpose: Purpose = Purpose.TRAIN
    states: Mapping[str, Sequence[int]] = field(default_factory=dict)
    in_order: bool = False

    def ticket(self, index: int) -> Ticket:
        group = index // self.group_size
        task, turn = self.mix.turn(group)
        number = int(np.random.SeedSequence([self.seed, group]).generate_state(1)[0]) % (1 << SEED_BITS)
        return Ticket(
            index=index,
            task=task,
            seed=self._purpose << SEED_BITS | number,
            group=group,
            purpose=self.purpose,
            initial_state=self._initial_state(task, turn),
        )

    def simulator(self, index: int) -> int:
        """The number of the simulator that runs a ticket."""
        return self.mix.simulator(index // self.group_size)

    @property
    def _purpose(self) -> int:
        """The number of its purpose."""
        return list(Purpose).index(self.purpose)

    def _initial_state(self, task: str, turn: int) -> int | None:
        """The initial state of a task's group number `turn`. None where the task has no fixed set."""
        if (states := self.states.get(task)) is None:
            return None
        number, place = divmod(turn, len(states))
        if self.in_order:
            return states[place]
        order = _round(len(states), self.seed, self._purpose, number)
        return states[int(order[place])]


@lru_cache(maxsize=256)
def _round(states: int, *seeds: int) -> NDArray[np.int64]:
    """The order in which a round goes through so many states."""
    return np.random.default_rng(seeds).permutation(states)


def capacity(batch: int, max_staleness: int) -> int:
    """How many episodes the data plane must hold for updates of `batch` tickets."""
    return (max_staleness + 1) * batch


class Ledger:
    """Hands tickets out and takes trajectories in.

    total: how many tickets there are (None: no end). version: the version that the run starts from; tickets of earlier updates count as trained.
    order: all other tickets in the order in which they are handed out (None: by their numbers). before: the counts of what the run had done by `version`.

        ledger = Ledger(book, batch=64, max_staleness=1)
        ticket = ledger.take()           # None: nothing is admissible now
        ledger.hand_in(finished)         # or ledger.lost(ticket.index)
        ledger.advance(version=1)        # update 0 is done
    """

    def __init__(
        self,
        book: TicketBook,
        batch: int,
        max_staleness: int,
        total: int | None = None,
        version: Version = 0,
        order: Sequence[int] | None = None,
        before: TicketCounts | None = None,
    ) -> None:
        self.book, self.batch, self.max_staleness, self.total, self.version = book, batch, max_staleness, total, version
        self._first, self._before = version * batch, before or TicketCounts()
        self._order = range(self._first, sys.maxsize) if order is None else order
        self._admitted = 0
        """How many tickets of the order were looked at. They were handed out, or wait for their simulator."""
        self.issued = 0
        """Tickets handed out at least once in this run."""
        self._waiting: defaultdict[int, deque[int]] = defaultdict(deque)
        self._returned: defaultdict[int, list[int]] = defaultdict(list)
        self._running: set[int] = set()
        self._finished: dict[int, Finished] = {}
        self.rerun = self.set_aside = 0
        self.staleness: Counter[int] = Counter()

    @property
    def capacity(self) -> int:
        """The most tickets that are running or finished at any time."""
        return capacity(self.batch, self.max_staleness)

    @property
    def trained(self) -> int:
        """Tickets whose update is done in this run."""
        return self.version * self.batch - self._first

    @property
    def tickets(self) -> TicketCounts:
        """The counts of the whole run. Tickets that ran when the run was stopped are handed out again. So of the time before, only trained ones are issued."""
        before = self._before
        return TicketCounts(before.trained + self.issued, before.trained + self.trained, before.rerun + self.rerun, before.set_aside + self.set_aside)

    @property
    def running(self) -> frozenset[int]:
        return frozenset(self._running)

    def update_of(self, index: int) -> int:
        return index // self.batch

    def take(self, simulator: int = 0) -> Ticket | None:
        """The next ticket for a simulator to run, reruns first. None if none is admissible now."""
        returned, waiting = self._returned[simulator], self._waiting[simulator]
        if returned and self._exists(returned[0]):
            index = heapq.heappop(returned)
        else:
            self._admit(simulator)
            if not waiting or not self._exists(waiting[0]):
                return None
            index = waiting.popleft()
            self.issued += 1
        self._running.add(index)
        return self.book.ticket(index)

    def lost(self, index: int) -> None:
        """The simulator that ran this ticket is lost: the ticket waits again."""
        self._leave(index)
        self.rerun += 1
        heapq.heappush(self._returned[self.book.simulator(index)], index)

    def again(self, index: int) -> None:
        """The simulator that ran this ticket is lost, and the ticket is run again by whoever has it."""
        self.rerun += 1

    def hand_in(self, finished: Finished) -> None:
        """An episode has ended and its trajectory is in the data plane. Or a ticket is set aside; in a replay it was never handed out."""
        index = finished.ticket.index
        if finished.set_aside:
            self._running.discard(index)
            self._finished[index] = finished
            self.set_aside += 1
            return
        self._leave(index)
        self._finished[index] = finished
        if finished.ticket.purpose is Purpose.TRAIN:
            staleness = self.update_of(index) - finished.oldest
            if staleness > self.max_staleness:
                raise AssertionError(
                    f"ticket {index} of update {self.update_of(index)} used version {finished.oldest}: staleness {staleness} exceeds {self.max_staleness}"
                )
            self.staleness[staleness] += 1

    def finished(self, update: int) -> list[Finished]:
        """The episodes of one update that have been handed in, in ticket order."""
        return [self._finished[index] for index in self._indices(update) if index in self._finished]

    def advance(self, version: Version) -> list[Finished]:
        """Update version - 1 is done. Returns its episodes in ticket order, and drops them here."""
        update = version - 1
        if update != self.version:
            raise AssertionError(f"version {version} cannot follow version {self.version}")
        missing = [index for index in self._indices(update) if index not in self._finished]
        if missing:
            raise AssertionError(f"update {update} is said to be done without tickets {missing}")
        self.version = version
        return [self._finished.pop(index) for index in self._indices(update)]

    def close(self, after_update: int | None = None) -> None:
        """Hand out no new ticket any more. With `after_update`: no ticket of a later update, new or rerun. Running tickets may still be handed in."""
        if after_update is None:
            self._order = self._order[: self._admitted]
            self._waiting.clear()
        else:
            end = (after_update + 1) * self.batch
            self.total = end if self.total is None else min(end, self.total)

    def _indices(self, update: int) -> range:
        end = (update + 1) * self.batch
        return range(update * self.batch, end if self.total is None else min(end, self.total))

    def _admit(self, simulator: int) -> None:
        """Find the next admissible ticket of a simulator. Tickets of other simulators that are found on the way wait for theirs."""
        while not self._waiting[simulator] and self._admitted < len(self._order) and self._admissible(self._order[self._admitted]):
            index = self._order[self._admitted]
            self._waiting[self.book.simulator(index)].append(index)
            self._admitted += 1

    def _admissible(self, index: int) -> bool:
        return self.update_of(index) <= self.version + self.max_staleness and self._exists(index)

    def _exists(self, index: int) -> bool:
        return self.total is None or index < self.total

    def _leave(self, index: int) -> None:
        if index not in self._running:
            raise AssertionError(f"ticket {index} is not running: it was handed in twice, or never handed out")
        self._running.remove(index)
