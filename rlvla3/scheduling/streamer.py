"""Trajectories into micro-batches (RL-VLA3 section 3.3), without changing what is learned.

An update is cut into `steps` optimizer steps by ticket number, so what a step is made of never depends on timing. In the first epoch the decisions of a step
are emitted as soon as a micro-batch of them has arrived (streaming) or once the whole update has (not streaming); later epochs come from memory, over a
permutation drawn from (seed, update, epoch).

Laws kept here:
- every decision of every ticket of an update is emitted exactly once an epoch;
- a step's decisions are the same set whatever the order of arrival and the size of a micro-batch (law 3 does the rest: the learner divides once, by the
  step's count);
- the tickets of a group are emitted together, when all of the group has arrived, so an advantage over the group can be formed;
- the micro-batches of an update are a function of the order in which its tickets are emitted, whenever they arrived.

Pure decisions: a None says that nothing more can be emitted before another ticket arrives.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from rlvla3.types import MicroBatch

Rows = tuple[NDArray[np.int64], NDArray[np.int64]]


class Streamer:
    """Micro-batches of each update in turn.

    batch, group_size: tickets an update and a group. steps: optimizer steps an epoch. order: of an update, its tickets in the order in which they are to be
    emitted, so that sums are made in one fixed order (None: as they arrive).

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
    ) -> None:
        self.batch, self.group_size, self.steps, self.epochs = batch, group_size, steps, epochs
        self.micro_batch, self.streaming, self.seed, self.order = micro_batch, streaming, seed, order
        self._decisions: dict[int, int] = {}
        self._members: Counter[int] = Counter()  # tickets that have arrived, by the first ticket of their group
        self._whole: defaultdict[tuple[int, int], list[int]] = defaultdict(list)  # first tickets of whole groups not looked at yet, by update and step
        self._arrived: Counter[int] = Counter()  # tickets that have arrived, by update
        self.emitted: dict[int, int] = {}
        """Of the present update: each ticket's number of decisions, in the order in which they were emitted."""

    def arrived(self, ticket: int, decisions: int) -> None:
        """The trajectory of `ticket`, of this update or a later one, is in the data plane."""
        self._decisions[ticket] = decisions
        update, group = ticket // self.batch, ticket - ticket % self.group_size
        self._arrived[update] += 1
        self._members[group] += 1
        if self._members[group] == self.group_size:
            del self._members[group]
            self._whole[update, ticket % self.batch // self._width].append(group)

    def tickets(self, update: int) -> range:
        return range(update * self.batch, (update + 1) * self.batch)

    def update(self, update: int) -> Iterator[MicroBatch | None]:
        """All micro-batches of one update, epoch after epoch. The last of each optimizer step says so. May be left early; the update is forgotten then."""
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
        left = self._width // self.group_size
        order = None if self.order is None else self._groups_in_order(update, step)
        whole: set[int] = set()
        pending: list[Rows] = []
        while left:
            whole.update(self._whole.pop((update, step), ()))
            ready = self._ready(update, whole, order)
            if not ready:
                yield None
                continue
            left -= len(ready)
            whole.difference_update(ready)
            emitted = {ticket: self._decisions[ticket] for group in ready for ticket in range(group, group + self.group_size)}
            self.emitted |= emitted
            pending += [_rows(ticket, decisions) for ticket, decisions in emitted.items()]
            pending = yield from self._cut(pending, 0, step, last_step=step == self.steps - 1, whole=not left)

    def _groups_in_order(self, update: int, step: int) -> deque[int]:
        """The first tickets of a step's groups, in the order in which they are to be emitted."""
        assert self.order is not None
        of_step = self.tickets(update)[step * self._width : (step + 1) * self._width]
        return deque(ticket for ticket in self.order(update) if ticket in of_step and ticket % self.group_size == 0)

    def _ready(self, update: int, whole: set[int], order: deque[int] | None) -> list[int]:
        """Which of the groups that are whole can be emitted now, in the order of emission."""
        if not self.streaming and self._arrived[update] < self.batch:
            return []
        if order is None:
            return sorted(whole)
        ready = []
        while order and order[0] in whole:
            ready.append(order.popleft())
        return ready

    def _from_memory(self, update: int, epoch: int) -> Iterator[MicroBatch]:
        tickets, rows = _join([_rows(ticket, self._decisions[ticket]) for ticket in self.tickets(update)])
        order = np.random.default_rng([self.seed, update, epoch]).permutation(len(tickets))
        parts = np.array_split(order, min(self.steps, len(order)))
        for step, part in enumerate(parts):
            yield from self._cut([(tickets[part], rows[part])], epoch, step, last_step=step == len(parts) - 1, whole=True)

    def _cut(self, pending: list[Rows], epoch: int, step: int, last_step: bool, whole: bool) -> Generator[MicroBatch, None, list[Rows]]:
        """Emit micro-batches that are full and, where `pending` is the whole rest of the step, the last one as well. Returns what is left over."""
        tickets, rows = _join(pending)
        size = self.micro_batch
        while len(tickets) >= size or (whole and len(tickets)):
            closes = whole and len(tickets) <= size
            yield MicroBatch(tickets[:size], rows[:size], epoch, step, closes_step=closes, closes_epoch=closes and last_step)
            tickets, rows = tickets[size:], rows[size:]
        return [(tickets, rows)]


def _rows(ticket: int, decisions: int) -> Rows:
    return np.full(decisions, ticket, np.int64), np.arange(decisions, dtype=np.int64)


def _join(parts: list[Rows]) -> Rows:
    return np.concatenate([tickets for tickets, _ in parts]), np.concatenate([rows for _, rows in parts])
