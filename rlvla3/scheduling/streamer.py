"""Trajectories become micro-batches (RL-VLA3 section 3.3), without changing what is learned.

An update is cut into `steps` optimizer steps by ticket number. So the decisions of a step never depend on timing. In the first epoch, the decisions of a step
are emitted as soon as there is a micro-batch of them (streaming), or when the whole update has arrived (not streaming). Later epochs come from memory, in a
permutation that is drawn from (seed, update, epoch).

Laws kept here:
- every decision of every ticket of an update is emitted exactly once in each epoch;
- the set of decisions of a step does not depend on the order of arrival or on the size of a micro-batch (for law 3, the learner divides once, by the count of
  the step);
- the tickets of a group are emitted together, when all of them have arrived, so that an advantage over the group can be computed;
- the micro-batches of an update depend only on the order in which its tickets are emitted, and not on when they arrived;
- a ticket that was set aside has no decisions. A step that has none is not made, and an epoch ends with an empty micro-batch where its last step has none.

Several ranks train together. Group g belongs to rank g mod ranks. Micro-batches come in rounds, one for each rank. A rank that has nothing left in a step gets
an empty one, so that all ranks make equally many. Each rank streams by itself. Rounds depend only on the order of arrival, and all ranks hear of arrivals in
the same order. So they agree on every round without exchanging messages.

Pure decisions: None means that nothing more can be emitted before another ticket arrives.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rlvla3.types import MicroBatch

Rows = tuple[NDArray[np.int64], NDArray[np.int64]]
TicketT = TypeVar("TicketT", int, NDArray[np.int64])


class Streamer:
    """Micro-batches of each update in turn.

    batch, group_size: tickets of an update and of a group. steps: optimizer steps of an epoch. micro_batch: decisions, for one rank. order: returns the tickets
    of an update in the order in which they are emitted, so that sums have a fixed order (None: as they arrive). rank: the rank, of `ranks`, whose micro-batches
    are emitted.

        streamer.arrived(ticket=3, decisions=14)
        for micro_batch in streamer.update(0):
            ...                                   # None: wait for the next arrival
    """

    def __init__(
        self,
        *,
        batch: int,
        group_size: int,
        steps: int,
        epochs: int,
        micro_batch: int,
        streaming: bool,
        seed: int,
        order: Callable[[int], Sequence[int]] | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.batch, self.group_size, self.steps, self.epochs = batch, group_size, steps, epochs
        self.micro_batch, self.streaming, self.seed, self.order = micro_batch, streaming, seed, order
        self.rank, self.ranks = rank, ranks
        self._decisions: dict[int, int] = {}
        self._members: Counter[int] = Counter()  # tickets that have arrived, by the first ticket of their group
        self._whole: defaultdict[tuple[int, int], list[int]] = defaultdict(list)  # first tickets of whole groups not looked at yet, by update and step
        self._arrived: Counter[int] = Counter()  # tickets that have arrived, by update
        self.emitted: dict[int, int] = {}
        """Of the present update: the number of decisions of each ticket, in the order in which they were emitted, for all ranks."""

    def arrived(self, ticket: int, decisions: int) -> None:
        """The trajectory of `ticket`, of this update or a later one, is in the data plane."""
        self._decisions[ticket] = decisions
        update, group = ticket // self.batch, ticket - ticket % self.group_size
        self._arrived[update] += 1
        self._members[group] += 1
        if self._members[group] == self.group_size:
            del self._members[group]
            self._whole[update, ticket % self.batch // self._width].append(group)

    def owner(self, ticket: TicketT) -> TicketT:
        """The rank that a ticket belongs to; of each one, for an array of tickets."""
        return ticket // self.group_size % self.ranks

    def tickets(self, update: int) -> range:
        return range(update * self.batch, (update + 1) * self.batch)

    def update(self, update: int) -> Iterator[MicroBatch | None]:
        """All micro-batches of one update, epoch after epoch. The last one of each optimizer step is marked. The caller may stop early: the update is then
        dropped."""
        self.emitted = {}
        try:
            for step in range(self.steps):
                yield from self._as_they_arrive(update, step)
            for epoch in range(1, self.epochs):
                yield from self._from_memory(update, epoch)
        finally:
            for ticket in self.tickets(update):
                self._decisions.pop(ticket, None)
                self._members.pop(ticket, None)
            for step in range(self.steps):
                self._whole.pop((update, step), None)
            del self._arrived[update]

    @property
    def _width(self) -> int:
        """Tickets of an optimizer step."""
        return self.batch // self.steps

    def _as_they_arrive(self, update: int, step: int) -> Iterator[MicroBatch | None]:
        groups = self._groups(update, step)
        order = None if self.order is None else deque(ticket for ticket in self.order(update) if ticket in groups)
        left = Counter(self.owner(group) for group in groups)
        waiting: list[int] = []  # groups that are whole, in the order in which they became so
        pending: list[list[Rows]] = [[] for _ in range(self.ranks)]
        begun = void = False
        while left.total():
            waiting += self._whole.pop((update, step), ())
            ready = self._ready(update, waiting, order)
            if not ready:
                yield None
                continue
            gone = set(ready)
            waiting = [group for group in waiting if group not in gone]
            for group in ready:
                emitted = {ticket: self._decisions[ticket] for ticket in range(group, group + self.group_size)}
                self.emitted |= emitted
                pending[self.owner(group)] += [_rows(ticket, decisions) for ticket, decisions in emitted.items()]
                left[self.owner(group)] -= 1
                void = not any(emitted.values())
            whole = [not left[rank] for rank in range(self.ranks)]
            pending, begun = yield from self._rounds(pending, whole, 0, step, last_step=step == self.steps - 1, begun=begun, void=void)

    def _groups(self, update: int, step: int) -> range:
        """The first tickets of a step's groups."""
        return self.tickets(update)[step * self._width : (step + 1) * self._width : self.group_size]

    def _ready(self, update: int, waiting: list[int], order: deque[int] | None) -> list[int]:
        """The groups that are whole and can be emitted now, in the order of emission."""
        if not self.streaming and self._arrived[update] < self.batch:
            return []
        if order is None:
            return list(waiting) if self.streaming else sorted(waiting)
        ready = []
        while order and order[0] in waiting:
            ready.append(order.popleft())
        return ready

    def _from_memory(self, update: int, epoch: int) -> Iterator[MicroBatch]:
        tickets, rows = _join([_rows(ticket, self._decisions[ticket]) for ticket in self.tickets(update)])
        if not len(tickets):
            return
        order = np.random.default_rng([self.seed, update, epoch]).permutation(len(tickets))
        parts = np.array_split(order, min(self.steps, len(order)))
        whole = [True] * self.ranks
        for step, part in enumerate(parts):
            owners = self.owner(tickets[part])
            pending = [[(tickets[part[owners == rank]], rows[part[owners == rank]])] for rank in range(self.ranks)]
            yield from self._rounds(pending, whole, epoch, step, last_step=step == len(parts) - 1)

    def _rounds(
        self, pending: list[list[Rows]], whole: list[bool], epoch: int, step: int, last_step: bool, begun: bool = False, void: bool = False
    ) -> Generator[MicroBatch, None, tuple[list[list[Rows]], bool]]:
        """Emit this rank's part of every round in which each rank has a full micro-batch, or the last one that it will have.

        whole: for each rank, whether `pending` is all that is left of the step. begun: whether the step has had a round. void: whether the group that came last
        has no decisions. Then a full micro-batch before it does not close the step, as it may have been emitted before that group came. Returns what is left
        over, and whether the step has begun and is not closed.
        """
        queues = [_join(parts) for parts in pending]
        size = self.micro_batch
        while any(len(tickets) for tickets, _ in queues) and all(done or len(tickets) >= size for (tickets, _), done in zip(queues, whole, strict=True)):
            closes = all(whole) and all(len(tickets) <= size for tickets, _ in queues) and not (void and any(len(tickets) == size for tickets, _ in queues))
            tickets, rows = queues[self.rank]
            yield MicroBatch(tickets[:size], rows[:size], epoch, step, closes_step=closes, closes_epoch=closes and last_step)
            queues = [(tickets[size:], rows[size:]) for tickets, rows in queues]
            begun = not closes
            if closes:
                return [[queue] for queue in queues], False
        if all(whole) and (begun or last_step):  # the tickets that came last have no decisions
            yield MicroBatch(*_rows(0, 0), epoch, step, closes_step=begun, closes_epoch=last_step)
            begun = False
        return [[queue] for queue in queues], begun


def _rows(ticket: int, decisions: int) -> Rows:
    return np.full(decisions, ticket, np.int64), np.arange(decisions, dtype=np.int64)


def _join(parts: list[Rows]) -> Rows:
    parts = parts or [_rows(0, 0)]
    return np.concatenate([tickets for tickets, _ in parts]), np.concatenate([rows for _, rows in parts])
