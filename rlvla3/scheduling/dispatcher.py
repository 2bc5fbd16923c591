"""Who runs which ticket. All runtimes use this one dispatcher: for the shards of a host, for the hosts of a Ray cluster, and on the virtual clock.

A runner has slots, and runs one ticket on each slot. A ticket that the ledger has handed out is in one of three states here:

    RUNNING --end--> ENDED --hand_in--> (the ledger has its trajectory)
       |               |
       '----- lose ----+----> LOST --give_back--> (the ledger hands it out again)
                                |  '--give_back(alone)--> ALONE (its runner runs it again, with nothing beside it)
                                '--set_aside--> (the ledger has it without a trajectory)

Beside its ledger, it serves one of an evaluation beside training. Tickets of that one fill slots that training leaves idle:

    RUNNING --(its runner gets a ticket of training)--> WITHDRAWN --(that one ends)--> (its ledger hands it out again)

Laws kept here:
- a runner never runs more tickets of a simulator than it has slots for that simulator;
- the next ticket goes to the runner that runs the fewest tickets, so work is spread evenly;
- a trajectory is handed in once. A receipt of an earlier life of a runner is void;
- a lost ticket is handed out again only after `give_back`. Until then nobody else can run it;
- who gets which ticket of training, and when, does not depend on an evaluation beside it, unless training is held (`hold_training`);
- a runner with tickets of training runs none of the evaluation: its slots step together, so those would slow them down;
- a runner that has dropped tickets of an evaluation TRIES times in a row, and ended none, gets no more of that one until training is held: the time for which
  its slots are idle is too short for an episode;
- a withdrawn ticket is handed out again only when its runner has shown that it has dropped it: it has ended a ticket that came later;
- a runner that has tickets to run alone runs one of them at a time and nothing else, from when it joins again until it has ended all of them.

Pure decisions: no clock, no process, no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from rlvla3.scheduling.seating import Seating
from rlvla3.types import BESIDE, Finished, Ticket

TRIES = 2
"""A runner may drop the tickets of an evaluation beside training so many times in a row."""


class TicketSource(Protocol):
    """What a dispatcher asks of a ledger."""

    def take(self, simulator: int = 0) -> Ticket | None: ...

    def lost(self, index: int) -> None: ...

    def again(self, index: int) -> None: ...

    def hand_in(self, finished: Finished) -> None: ...


@dataclass(frozen=True, slots=True)
class Dispatched:
    """Tickets of one simulator that a runner is to begin now."""

    runner: int
    simulator: int
    tickets: Sequence[Ticket]


@dataclass(frozen=True, slots=True, eq=False)
class Receipt:
    """An episode has ended at a runner, and its trajectory is on its way to whoever needs it. Every receipt is different from every other one.

    simulator: that it ran on.
    """

    runner: int
    finished: Finished
    simulator: int


@dataclass(frozen=True, slots=True)
class _Held:
    """A ticket that was handed out for a simulator."""

    ticket: Ticket
    simulator: int


@dataclass(slots=True)
class _Runner:
    """running: the tickets that it runs, by number. withdrawn: those of them that it is to drop. in_vain: how often in a row it was to drop its tickets of the
    present evaluation, and had ended none. ended: receipts that were not handed in yet. lost: tickets that wait for `give_back`. alone: tickets that it is to
    run alone, one after another. slots: of each simulator, while it runs such tickets (None: it has a seat, or is not there)."""

    running: dict[int, _Held] = field(default_factory=dict)
    withdrawn: set[int] = field(default_factory=set)
    in_vain: int = 0
    ended: set[Receipt] = field(default_factory=set)
    lost: dict[int, _Held] = field(default_factory=dict)
    alone: list[_Held] = field(default_factory=list)
    slots: Mapping[int, int] | None = None

    @property
    def trains(self) -> bool:
        """Whether it runs a ticket of training, or has lost one."""
        return any(index < BESIDE for index in (*self.running, *self.lost))

    def beside(self) -> list[int]:
        """The tickets of an evaluation beside training that it runs."""
        return [index for index in self.running if index >= BESIDE]

    def withdraw(self) -> None:
        """It gets tickets of training, and is to drop those of the evaluation."""
        if not self.withdrawn:
            self.withdrawn.update(self.beside())
            self.in_vain += bool(self.withdrawn)


class Dispatcher:
    """Serves one ledger at a time. Runners have numbers; so have simulators, from 0 to `simulators` - 1.

    dispatcher = Dispatcher(simulators=1)
    dispatcher.serve(ledger)
    dispatcher.join(runner=3, slots={0: 4})              # runner 3 is there, with four free slots for simulator 0
    for dispatched in dispatcher.dispatch(): ...         # send each runner its tickets
    receipt = dispatcher.end(3, finished)                # the slot is free again
    dispatcher.hand_in(receipt)                          # the ledger has the trajectory
    lost = dispatcher.lose(3)                            # runner 3 is gone; it may join again
    dispatcher.give_back(3)                              # its tickets may be run again

    whole: whether a runner with tickets of training runs none of an evaluation beside it. A host, whose own dispatcher sees to that, may have both.
    """

    def __init__(self, simulators: int, whole: bool = True) -> None:
        self._whole, self._held_back = whole, False
        self._beside: TicketSource | None = None
        self._seatings = [Seating() for _ in range(simulators)]
        self._runners: dict[int, _Runner] = {}
        self._ledger: TicketSource | None = None

    @property
    def serving(self) -> bool:
        """Whether there is a ledger whose tickets are run."""
        return self._ledger is not None

    def serve(self, ledger: TicketSource) -> None:
        """Dispatch the tickets of `ledger` from now on."""
        self._ledger = ledger

    def serve_beside(self, ledger: TicketSource | None) -> None:
        """Let the tickets of `ledger`, of an evaluation beside training, fill the slots that are idle (None: there is none any more)."""
        self._beside = ledger
        for place in self._runners.values():
            place.in_vain = 0

    def hold_training(self, hold: bool) -> None:
        """Whether tickets of training wait. Those that run go on."""
        self._held_back = hold

    def withdraws(self, runner: int) -> bool:
        """Whether a runner is to drop its tickets of the evaluation beside training."""
        place = self._runners.get(runner)
        return place is not None and bool(place.withdrawn)

    def trains(self, runner: int) -> bool:
        """Whether a runner has a ticket of training that it runs, or that it has lost and not given back."""
        place = self._runners.get(runner)
        return place is not None and place.trains

    def join(self, runner: int, slots: Mapping[int, int]) -> None:
        """A runner is there and all its slots are free. slots: how many it has for each simulator that it runs."""
        place = self._runners.setdefault(runner, _Runner())
        if place.alone:
            place.slots = slots
        else:
            self._sit(runner, slots)

    def dispatch(self) -> list[Dispatched]:
        """Take every admissible ticket for which there is a free slot, and say who is to run it."""
        if self._ledger is None:
            return []
        dispatched = [self._next_alone(runner, place) for runner, place in self._runners.items() if place.slots is not None and not place.running]
        for simulator, seating in enumerate(self._seatings if not self._held_back else ()):
            for runner, tickets in seating.deal(partial(self._ledger.take, simulator)).items():
                place = self._runners[runner]
                if self._whole:
                    place.withdraw()
                dispatched.append(self._give(runner, simulator, tickets))
        return dispatched + self._dispatch_beside()

    def _dispatch_beside(self) -> list[Dispatched]:
        """Fill idle slots with tickets of the evaluation beside training."""
        if self._beside is None:
            return []
        dispatched = []
        for simulator, seating in enumerate(self._seatings):
            for runner, slots in seating.there():
                place = self._runners[runner]
                too_brief = place.in_vain >= TRIES and not self._held_back
                if self._whole and (place.trains or place.withdrawn or too_brief):
                    continue
                free = slots - sum(place.running[index].simulator == simulator for index in place.beside())
                tickets = [ticket for _ in range(free) if (ticket := self._beside.take(simulator)) is not None]
                if tickets:
                    dispatched.append(self._give(runner, simulator, tickets))
        return dispatched

    def _give(self, runner: int, simulator: int, tickets: Sequence[Ticket]) -> Dispatched:
        self._runners[runner].running |= {ticket.index: _Held(ticket, simulator) for ticket in tickets}
        return Dispatched(runner, simulator, tickets)

    def _ledger_of(self, index: int) -> TicketSource | None:
        return self._beside if index >= BESIDE else self._ledger

    def end(self, runner: int, finished: Finished) -> Receipt:
        """An episode has ended. Its slot is free. A runner that is lost may still report an episode that it ended before, until `give_back`."""
        place, index = self._runners[runner], finished.ticket.index
        if index in place.running:
            simulator = self._leave_slot(runner, index)
        elif index in place.lost:
            simulator = place.lost.pop(index).simulator
        else:
            raise AssertionError(f"runner {runner} ended ticket {index}, and it does not run it")
        receipt = Receipt(runner, finished, simulator)
        place.ended.add(receipt)
        if index < BESIDE:  # whatever it was to drop, it has dropped before it began this ticket
            self._return_withdrawn(place)
        else:
            place.in_vain = 0
        return receipt

    def is_valid(self, receipt: Receipt) -> bool:
        """Whether the runner of `receipt` has not been lost since the episode ended, and the trajectory was not handed in yet."""
        return receipt in self._runners[receipt.runner].ended

    def hand_in(self, receipt: Receipt) -> bool:
        """The trajectory has arrived. Returns False, and does nothing, where the receipt is not valid any more: the ticket is run again."""
        ledger = self._ledger_of(receipt.finished.ticket.index)
        if ledger is None or not self.is_valid(receipt):
            return False
        self._runners[receipt.runner].ended.remove(receipt)
        ledger.hand_in(receipt.finished)
        return True

    def lose(self, runner: int) -> list[int]:
        """A runner is gone, if it was there. Returns all its lost tickets, those that have ended and were not handed in among them. Those that wait to be run
        alone are not lost: they were not begun."""
        place = self._runners.setdefault(runner, _Runner())
        for seating in self._seatings:
            seating.leave(runner)
        ended = {receipt.finished.ticket.index: _Held(receipt.finished.ticket, receipt.simulator) for receipt in place.ended}
        place.lost = dict(sorted((place.lost | place.running | ended).items()))
        place.running, place.withdrawn, place.ended, place.slots = {}, set(), set(), None
        return list(place.lost)

    def lost(self, runner: int) -> list[int]:
        """The tickets that a lost runner has not given back."""
        return list(self._runners[runner].lost)

    def give_back(self, runner: int, alone: Collection[int] = ()) -> None:
        """The lost tickets of `runner` may be run again: nothing that the lost runner began can reach anybody any more.

        alone: those of them that the runner is to run again alone. The ledger hands out the others.
        """
        place = self._runners[runner]
        lost, place.lost = place.lost, {}
        for index, held in lost.items():
            if (ledger := self._ledger_of(index)) is None:
                continue
            if index in alone:
                ledger.again(index)
                place.alone.append(held)
            else:
                ledger.lost(index)

    def set_aside(self, runner: int, index: int) -> Finished:
        """A lost ticket is completed without an episode, in place of `give_back`. The ledger has it. Returns what it was told."""
        ledger = self._ledger_of(index)
        finished = Finished.without_episode(self._runners[runner].lost.pop(index).ticket)
        if ledger is not None:
            ledger.hand_in(finished)
        return finished

    def lose_ticket(self, runner: int, index: int) -> None:
        """A runner that is still there has lost one of its tickets. The ledger hands it out again."""
        self._leave_slot(runner, index)
        if (ledger := self._ledger_of(index)) is not None:
            ledger.lost(index)

    def again(self, index: int) -> None:
        """A runner that is still there has lost one of its tickets, and runs it again itself."""
        if (ledger := self._ledger_of(index)) is not None:
            ledger.again(index)

    def hold(self, runner: int) -> None:
        """Give a runner no more tickets until `release`."""
        for seating in self._seatings:
            seating.hold(runner)

    def release(self, runner: int) -> None:
        for seating in self._seatings:
            seating.release(runner)

    def is_busy(self, runner: int) -> bool:
        """Whether a runner has a ticket that it runs, or that it has lost and not given back."""
        place = self._runners.get(runner)
        return place is not None and bool(place.running or place.lost)

    def busy(self, runners: Iterable[int]) -> int:
        """How many of `runners` are busy."""
        return sum(map(self.is_busy, runners))

    def _return_withdrawn(self, place: _Runner) -> None:
        for index in sorted(place.withdrawn):
            del place.running[index]
            if self._beside is not None:
                self._beside.lost(index)
        place.withdrawn.clear()

    def _sit(self, runner: int, slots: Mapping[int, int]) -> None:
        for simulator, count in slots.items():
            self._seatings[simulator].sit(runner, count)

    def _next_alone(self, runner: int, place: _Runner) -> Dispatched:
        held = place.alone.pop(0)
        place.running[held.ticket.index] = held
        return Dispatched(runner, held.simulator, [held.ticket])

    def _leave_slot(self, runner: int, index: int) -> int:
        """A ticket no longer runs. Its slot is free; after the last ticket that ran alone, all slots are. Returns the simulator."""
        place = self._runners[runner]
        simulator = place.running.pop(index).simulator
        place.withdrawn.discard(index)
        if place.slots is None:
            if index < BESIDE:
                self._seatings[simulator].free(runner, index)
        elif not place.alone:
            slots, place.slots = place.slots, None
            self._sit(runner, slots)
        return simulator
