"""The dispatcher with a real ledger, against a table of who has which ticket that is kept by hand, over random schedules of runners that come, work and go."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rlvla3.scheduling.dispatcher import Dispatcher, Receipt
from rlvla3.scheduling.ledger import Ledger, TicketBook
from rlvla3.scheduling.mix import Mix, SimulatorShare
from rlvla3.types import Finished, Ticket

SIMULATORS, RUNNERS = 2, 4
BOOK = TicketBook(Mix((SimulatorShare(("reach",), (1,), 2), SimulatorShare(("push",), (1,), 1))), seed=0, group_size=2)

runners = st.integers(0, RUNNERS - 1)
slots_of_a_runner = st.dictionaries(st.integers(0, SIMULATORS - 1), st.integers(1, 3), min_size=1)


def finished(index: int, version: int = 0) -> Finished:
    return Finished(BOOK.ticket(index), decisions=1, steps=2, success=True, return_=1.0, oldest=version, newest=version)


class AnySchedule(RuleBasedStateMachine):
    """What each runner runs, has ended and has lost, by ticket numbers. All other tickets wait, or were handed in."""

    @initialize(batch=st.integers(1, 4), updates=st.integers(1, 5), max_staleness=st.integers(0, 2))
    def start(self, batch: int, updates: int, max_staleness: int) -> None:
        self.batch, self.updates, self.max_staleness, self.version = batch, updates, max_staleness, 0
        self.total = batch * updates
        self.ledger = Ledger(BOOK, batch, max_staleness, total=self.total)
        self.dispatcher = Dispatcher(SIMULATORS)
        self.dispatcher.serve(self.ledger)
        self.slots: dict[int, dict[int, int]] = {}  # of the runners that are there
        self.running: dict[int, set[int]] = {runner: set() for runner in range(RUNNERS)}
        self.ended: dict[int, list[Receipt]] = {runner: [] for runner in range(RUNNERS)}
        self.lost: dict[int, set[int]] = {runner: set() for runner in range(RUNNERS)}
        self.alone: dict[int, list[int]] = {runner: [] for runner in range(RUNNERS)}  # to be run alone, in this order
        self.exclusive: set[int] = set()  # runners that run such tickets now
        self.known: set[int] = set()  # runners that have joined or were lost
        self.held: set[int] = set()
        self.void: list[Receipt] = []  # handed in, or of a runner that was lost afterwards
        self.handed_in: set[int] = set()

    # What runners do

    @precondition(lambda self: len(self.slots) < RUNNERS)
    @rule(data=st.data(), slots=slots_of_a_runner)
    def join(self, data: st.DataObject, slots: dict[int, int]) -> None:
        self._join(data.draw(st.sampled_from([runner for runner in range(RUNNERS) if runner not in self.slots])), slots)

    @rule()
    def dispatch(self) -> None:
        expected = self._expected()
        dispatched = self.dispatcher.dispatch()
        assert {(each.runner, each.simulator): list(each.tickets) for each in dispatched} == expected
        assert len(dispatched) == len(expected)
        for (runner, _), tickets in expected.items():
            self.running[runner] |= {ticket.index for ticket in tickets}
            self.alone[runner] = [index for index in self.alone[runner] if index not in self.running[runner]]

    @precondition(lambda self: self._of_any(self.running))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self._end(*data.draw(st.sampled_from(self._of_any(self.running))))

    @precondition(lambda self: self._of_any(self.lost))
    @rule(data=st.data())
    def tell_late_of_an_episode_that_ended_before_the_loss(self, data: st.DataObject) -> None:
        self._end(*data.draw(st.sampled_from(self._of_any(self.lost))))

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def end_what_it_does_not_run(self, data: st.DataObject) -> None:
        runner, index = data.draw(st.sampled_from(sorted(self.known))), data.draw(st.integers(0, self.total - 1))
        if index not in self.running[runner] | self.lost[runner]:
            with pytest.raises(AssertionError, match=f"runner {runner} ended ticket {index}, and it does not run it"):
                self.dispatcher.end(runner, finished(index))

    @precondition(lambda self: any(self.ended.values()))
    @rule(data=st.data())
    def hand_in(self, data: st.DataObject) -> None:
        self._hand_in(data.draw(st.sampled_from([receipt for receipts in self.ended.values() for receipt in receipts])))

    @precondition(lambda self: self.void)
    @rule(data=st.data())
    def hand_in_what_is_void(self, data: st.DataObject) -> None:
        receipt = data.draw(st.sampled_from(self.void))
        assert not self.dispatcher.is_valid(receipt)
        assert not self.dispatcher.hand_in(receipt)

    @rule(runner=runners)
    def lose(self, runner: int) -> None:
        ended = self.ended[runner]
        self.lost[runner] |= self.running[runner] | {receipt.finished.ticket.index for receipt in ended}
        assert self.dispatcher.lose(runner) == sorted(self.lost[runner])
        self.void += ended
        self.running[runner], self.ended[runner] = set(), []
        self.slots.pop(runner, None)
        self.exclusive.discard(runner)
        self.known.add(runner)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        runner = data.draw(st.sampled_from(sorted(self.known)))
        of_it = sorted(self.lost[runner])
        self._give_back(runner, data.draw(st.lists(st.sampled_from(of_it), unique=True)) if of_it and runner not in self.slots else ())

    @precondition(lambda self: self._of_any(self.lost))
    @rule(data=st.data())
    def set_aside(self, data: st.DataObject) -> None:
        runner, index = data.draw(st.sampled_from(self._of_any(self.lost)))
        told = self.dispatcher.set_aside(runner, index)
        assert told.set_aside and told.ticket.index == index and not told.decisions
        self.lost[runner].remove(index)
        self.handed_in.add(index)

    @precondition(lambda self: self._of_any(self.running))
    @rule(data=st.data())
    def lose_ticket(self, data: st.DataObject) -> None:
        runner, index = data.draw(st.sampled_from(self._of_any(self.running)))
        self.dispatcher.lose_ticket(runner, index)
        self.running[runner].remove(index)
        self._end_exclusive(runner)

    @rule(runner=runners)
    def hold(self, runner: int) -> None:
        self.dispatcher.hold(runner)
        self.held.add(runner)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self._release(data.draw(st.sampled_from(sorted(self.held))))

    @precondition(lambda self: self._update_is_whole())
    @rule()
    def advance(self) -> None:
        self.version += 1
        assert [episode.ticket.index for episode in self.ledger.advance(self.version)] == list(self._update(self.version - 1))

    # What holds at every moment

    @invariant()
    def every_ticket_waits_or_is_with_one_runner_or_was_handed_in_once(self) -> None:
        taken = [index for runner in range(RUNNERS) for index in self._taken_by(runner)]
        assert len(taken) == len(set(taken)) and not set(taken) & self.handed_in
        assert self.ledger.running == set(taken)
        for update in range(self.version, self.updates):
            assert {episode.ticket.index for episode in self.ledger.finished(update)} == self.handed_in & set(self._update(update))

    @invariant()
    def no_runner_exceeds_its_slots(self) -> None:
        for runner, slots in self.slots.items():
            if runner in self.exclusive:
                assert len(self.running[runner]) <= 1
                continue
            for simulator in range(SIMULATORS):
                assert self._load(runner, simulator) <= slots.get(simulator, 0)

    @invariant()
    def it_says_who_is_busy_and_what_is_lost(self) -> None:
        busy = [bool(self.running[runner] or self.lost[runner]) for runner in range(RUNNERS)]
        assert [self.dispatcher.is_busy(runner) for runner in range(RUNNERS)] == busy
        assert self.dispatcher.busy(range(RUNNERS)) == sum(busy)
        for runner in self.known:
            assert set(self.dispatcher.lost(runner)) == self.lost[runner]

    @invariant()
    def receipts_are_valid_until_they_are_handed_in_or_their_runner_is_lost(self) -> None:
        assert all(self.dispatcher.is_valid(receipt) for receipts in self.ended.values() for receipt in receipts)
        assert not any(map(self.dispatcher.is_valid, self.void))

    def teardown(self) -> None:
        """From any moment on, a run whose runners work comes to its end."""
        for runner in sorted(self.known):
            self._give_back(runner)
        for runner in sorted(self.held):
            self._release(runner)
        for runner in set(range(RUNNERS)) - set(self.slots):
            self._join(runner, dict.fromkeys(range(SIMULATORS), 1))
        before = -1
        while before < len(self.handed_in):
            before = len(self.handed_in)
            while self._update_is_whole():
                self.advance()
            self.dispatch()
            for runner, index in self._of_any(self.running):
                self._end(runner, index)
            for receipt in [receipt for receipts in self.ended.values() for receipt in receipts]:
                self._hand_in(receipt)
        # A runner may have joined with slots for one simulator alone, and nobody else for the other.
        able = {simulator for slots in self.slots.values() for simulator in slots}
        if able == set(range(SIMULATORS)):
            assert self.version == self.updates and len(self.handed_in) == self.total

    # The table

    def _join(self, runner: int, slots: dict[int, int]) -> None:
        self.dispatcher.join(runner, slots)
        self.slots[runner] = slots
        self.known.add(runner)
        if self.alone[runner]:
            self.exclusive.add(runner)

    def _end(self, runner: int, index: int) -> None:
        receipt = self.dispatcher.end(runner, finished(index, self.version))
        assert receipt.runner == runner and receipt.finished.ticket.index == index
        self.running[runner].discard(index)
        self._end_exclusive(runner)
        self.lost[runner].discard(index)
        self.ended[runner].append(receipt)

    def _hand_in(self, receipt: Receipt) -> None:
        assert self.dispatcher.hand_in(receipt)
        self.ended[receipt.runner].remove(receipt)
        self.void.append(receipt)
        self.handed_in.add(receipt.finished.ticket.index)

    def _end_exclusive(self, runner: int) -> None:
        if not self.running[runner] and not self.alone[runner]:
            self.exclusive.discard(runner)

    def _give_back(self, runner: int, alone: Sequence[int] = ()) -> None:
        before = self.ledger.rerun
        self.dispatcher.give_back(runner, alone)
        assert self.ledger.rerun == before + len(self.lost[runner])
        self.alone[runner] += sorted(alone)
        self.lost[runner] = set()

    def _release(self, runner: int) -> None:
        self.dispatcher.release(runner)
        self.held.remove(runner)

    def _expected(self) -> dict[tuple[int, int], list[Ticket]]:
        """A runner that runs tickets alone gets its next one when it runs none. Then, one simulator after the other: the first ticket that waits goes to the
        runner that runs the fewest of them, if it has a free slot and is not held."""
        idle = [runner for runner in self.exclusive if not self.running[runner]]
        alone = {runner: self.alone[runner][0] for runner in idle}
        dealt = {(runner, BOOK.simulator(index)): [BOOK.ticket(index)] for runner, index in alone.items()}
        taken = {index for runner in range(RUNNERS) for index in self._taken_by(runner)}
        admissible = range(min(self.total, (self.version + self.max_staleness + 1) * self.batch))
        for simulator in range(SIMULATORS):
            there = [runner for runner, slots in self.slots.items() if simulator in slots and runner not in self.held | self.exclusive]
            load = {runner: self._load(runner, simulator) for runner in there}
            for index in admissible:
                if index in taken | self.handed_in or BOOK.simulator(index) != simulator:
                    continue
                free = [(count, runner) for runner, count in load.items() if count < self.slots[runner][simulator]]
                if not free:
                    break
                runner = min(free)[1]
                load[runner] += 1
                dealt.setdefault((runner, simulator), []).append(BOOK.ticket(index))
        return dealt

    def _load(self, runner: int, simulator: int) -> int:
        return sum(BOOK.simulator(index) == simulator for index in self.running[runner])

    def _taken_by(self, runner: int) -> list[int]:
        return [*self.running[runner], *self.lost[runner], *self.alone[runner], *(receipt.finished.ticket.index for receipt in self.ended[runner])]

    def _of_any(self, tickets: dict[int, set[int]]) -> list[tuple[int, int]]:
        return [(runner, index) for runner in range(RUNNERS) for index in sorted(tickets[runner])]

    def _update(self, update: int) -> range:
        return range(update * self.batch, (update + 1) * self.batch)

    def _update_is_whole(self) -> bool:
        return self.version < self.updates and set(self._update(self.version)) <= self.handed_in


TestAnySchedule = AnySchedule.TestCase
TestAnySchedule.settings = settings(max_examples=200, stateful_step_count=40)


def test_nothing_is_dispatched_or_handed_in_without_a_ledger():
    dispatcher = Dispatcher(SIMULATORS)
    served_before = dispatcher.serving
    dispatcher.join(0, {0: 2})
    assert dispatcher.dispatch() == [] and not dispatcher.is_busy(0)
    assert dispatcher.lose(0) == [] and dispatcher.lose(1) == []
    dispatcher.give_back(0)
    dispatcher.serve(Ledger(BOOK, batch=4, max_staleness=0))
    assert (served_before, dispatcher.serving) == (False, True)
    assert dispatcher.dispatch() == []
    dispatcher.join(0, {0: 2})
    assert [ticket.index for dispatched in dispatcher.dispatch() for ticket in dispatched.tickets] == [0, 1]


def test_the_next_ledger_is_served_by_the_runners_that_are_there():
    dispatcher = Dispatcher(SIMULATORS)
    dispatcher.join(0, {0: 1})
    first, second = Ledger(BOOK, batch=1, max_staleness=0, total=1), Ledger(BOOK, batch=1, max_staleness=0, total=1)
    for ledger in (first, second):
        dispatcher.serve(ledger)
        ((dispatched,),) = [dispatcher.dispatch()]
        assert dispatched.runner == 0 and [ticket.index for ticket in dispatched.tickets] == [0]
        assert dispatcher.hand_in(dispatcher.end(0, finished(0)))
        assert [episode.ticket.index for episode in ledger.finished(0)] == [0]


def test_two_receipts_of_the_same_ticket_are_different():
    """The ticket was run twice: what the first run left is void, though both say the same."""
    dispatcher, ledger = Dispatcher(1), Ledger(TicketBook(Mix.of("reach"), seed=0), batch=1, max_staleness=0)
    dispatcher.serve(ledger)
    receipts = []
    for _ in range(2):
        dispatcher.join(0, {0: 1})
        ((dispatched,),) = [dispatcher.dispatch()]
        receipts.append(dispatcher.end(0, Finished(dispatched.tickets[0], 1, 2, True, 1.0, 0, 0)))
        if len(receipts) == 1:
            dispatcher.lose(0)
            dispatcher.give_back(0)
    assert receipts[0].finished == receipts[1].finished
    assert [dispatcher.hand_in(receipt) for receipt in receipts] == [False, True]
    assert len(ledger.finished(0)) == 1
