"""The ledger against a table of every ticket's life that is kept by hand, over random schedules of taking, losing, finishing and advancing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rlvla3.scheduling.ledger import Ledger, TicketBook
from rlvla3.scheduling.mix import Mix
from rlvla3.types import Finished, Purpose, Ticket

BOOK = TicketBook(Mix.of("reach", "push"), seed=3)


def finished(ticket: Ticket, oldest: int = 0) -> Finished:
    return Finished(ticket, decisions=2, steps=8, success=True, return_=1.0, oldest=oldest, newest=oldest)


class AnySchedule(RuleBasedStateMachine):
    """Simulators take tickets, lose them or finish them, and the trainer advances, in any order."""

    @initialize(
        batch=st.integers(1, 4),
        max_staleness=st.integers(0, 3),
        version=st.sampled_from([0, 0, 5]),
        updates=st.one_of(st.none(), st.integers(1, 6)),
    )
    def start(self, batch: int, max_staleness: int, version: int, updates: int | None) -> None:
        self.batch, self.max_staleness, self.version = batch, max_staleness, version
        self.first = self.next = version * batch
        self.end = None if updates is None else self.first + updates * batch
        self.ledger = Ledger(BOOK, batch, max_staleness, total=self.end, version=version)
        self.running: dict[int, int] = {}  # ticket: the version it was handed out at
        self.lost: list[int] = []
        self.untrained: set[int] = set()  # finished
        self.trained: list[int] = []
        self.reruns = 0
        self.staleness: Counter[int] = Counter()

    @rule()
    def take(self) -> None:
        expected = self._next_ticket()
        ticket = self.ledger.take()
        assert ticket == (None if expected is None else BOOK.ticket(expected))
        if expected is not None:
            self.running[expected] = self.version
            if expected in self.lost:
                self.lost.remove(expected)
            else:
                self.next += 1

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.running)))
        self._finish(index, oldest=data.draw(st.integers(self.running[index], self.version)))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[index]
        self.lost.append(index)
        self.reruns += 1
        self.ledger.lost(index)

    @precondition(lambda self: self._present())
    @rule()
    def advance(self) -> None:
        tickets = self._present()
        if missing := [index for index in tickets if index not in self.untrained]:
            with pytest.raises(AssertionError, match=rf"update {self.version} is said to be done without tickets \[{missing[0]}"):
                self.ledger.advance(self.version + 1)
            return
        assert [episode.ticket.index for episode in self.ledger.advance(self.version + 1)] == tickets
        self.version += 1
        self.untrained -= set(tickets)
        self.trained += tickets

    @precondition(lambda self: self.end is None)
    @rule(updates_more=st.integers(0, 4))
    def close(self, updates_more: int) -> None:
        self.end = (self.version + updates_more + 1) * self.batch
        self.ledger.close(after_update=self.version + updates_more)

    @invariant()
    def the_counters_are_right(self) -> None:
        assert self.ledger.running == set(self.running)
        assert self.ledger.version == self.version
        assert self.ledger.issued == self.next - self.first
        assert self.ledger.trained == len(self.trained)
        assert self.ledger.rerun == self.reruns
        assert self.ledger.staleness == self.staleness
        assert [episode.ticket.index for episode in self.ledger.finished(self.version)] == [i for i in self._present() if i in self.untrained]

    @invariant()
    def no_two_live_tickets_share_a_block(self) -> None:
        live = [*self.running, *self.lost, *self.untrained]
        for capacity in (self.ledger.capacity, self.ledger.capacity + 3):  # a data plane may be larger than it need be
            assert len({index % capacity for index in live}) == len(live) <= capacity

    @invariant()
    def staleness_is_within_its_bound(self) -> None:
        assert all(index // self.batch - self.version <= self.max_staleness for index in self.running)
        assert max(self.staleness, default=0) <= self.max_staleness

    @invariant()
    def there_is_always_a_way_on(self) -> None:
        assert self.running or self._next_ticket() is not None or self.untrained.issuperset(self._present())

    def teardown(self) -> None:
        """However the run went so far: if from now on everything that runs finishes, all is trained, once."""
        if not hasattr(self, "ledger"):
            return
        if self.end is None:
            self.close(0)
        while self._present():
            while self._next_ticket() is not None:
                self.take()
            for index in reversed(list(self.running)):
                self._finish(index, oldest=self.version)
            self.advance()
            self.the_counters_are_right()
        assert self.end is not None
        assert self.trained == list(range(self.first, self.end))

    def _finish(self, index: int, oldest: int) -> None:
        oldest = min(oldest, index // self.batch)  # no newer version is there before this ticket has been trained on
        del self.running[index]
        self.untrained.add(index)
        self.staleness[index // self.batch - oldest] += 1
        self.ledger.hand_in(finished(BOOK.ticket(index), oldest))

    def _next_ticket(self) -> int | None:
        index = min(self.lost, default=self.next)
        return index if index // self.batch <= self.version + self.max_staleness and (self.end is None or index < self.end) else None

    def _present(self) -> list[int]:
        """The tickets of the present update."""
        first = self.version * self.batch
        return [index for index in range(first, first + self.batch) if self.end is None or index < self.end]


TestAnySchedule = AnySchedule.TestCase
TestAnySchedule.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def take_all(ledger: Ledger) -> list[Ticket]:
    return list(iter(ledger.take, None))


def train_on(ledger: Ledger, tickets: list[Ticket]) -> None:
    """Finish `tickets` with the present version, and advance."""
    for ticket in tickets:
        ledger.hand_in(finished(ticket, oldest=ledger.version))
    ledger.advance(ledger.version + 1)


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_as_much_is_handed_out_as_the_bound_admits_and_no_more(max_staleness: int):
    ledger = Ledger(BOOK, batch=2, max_staleness=max_staleness)
    assert [ticket.index for ticket in take_all(ledger)] == list(range(2 * (max_staleness + 1)))


def test_without_staleness_an_update_begins_when_the_one_before_it_is_done():
    ledger = Ledger(BOOK, batch=2, max_staleness=0)
    for update in range(3):
        tickets = take_all(ledger)
        assert [ticket.index for ticket in tickets] == [2 * update, 2 * update + 1]
        train_on(ledger, tickets)
    assert ledger.staleness == {0: 6}


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_the_bound_is_reached_exactly_and_what_exceeds_it_is_refused(max_staleness: int):
    ledger = Ledger(BOOK, batch=1, max_staleness=max_staleness)
    *earlier, last = take_all(ledger)
    ledger.hand_in(finished(last, oldest=0))
    assert ledger.staleness == {max_staleness: 1}

    for ticket in earlier:
        ledger.hand_in(finished(ticket))
    ledger.advance(1)
    (too_late,) = take_all(ledger)
    with pytest.raises(AssertionError, match=rf"used version 0: staleness {max_staleness + 1} exceeds {max_staleness}"):
        ledger.hand_in(finished(too_late, oldest=0))


def test_a_lost_ticket_is_run_again_before_anything_new():
    ledger = Ledger(BOOK, batch=4, max_staleness=1)
    tickets = [ledger.take() for _ in range(3)]
    ledger.lost(1)
    assert ledger.take() == tickets[1]
    assert ledger.take() == BOOK.ticket(3)
    assert (ledger.issued, ledger.rerun) == (4, 1)


def test_a_lost_ticket_is_run_again_even_where_nothing_new_is_admissible_or_wanted():
    ledger = Ledger(BOOK, batch=2, max_staleness=0)
    take_all(ledger)
    ledger.close()
    ledger.lost(0)
    assert [ticket.index for ticket in take_all(ledger)] == [0]


def test_a_lost_ticket_of_an_update_that_will_not_be_made_is_not_run_again():
    ledger = Ledger(BOOK, batch=2, max_staleness=1)
    take_all(ledger)
    ledger.close(after_update=0)
    for index in (3, 1):
        ledger.lost(index)
    assert [ticket.index for ticket in take_all(ledger)] == [1]


def test_what_is_not_running_can_neither_be_handed_in_nor_lost():
    ledger = Ledger(BOOK, batch=4, max_staleness=0)
    ticket = ledger.take()
    assert ticket is not None
    ledger.hand_in(finished(ticket))
    for wrong in (ticket, BOOK.ticket(1)):
        refused = pytest.raises(AssertionError, match=f"ticket {wrong.index} is not running: it was handed in twice, or never handed out")
        with refused:
            ledger.hand_in(finished(wrong))
        with refused:
            ledger.lost(wrong.index)


def test_versions_follow_one_another():
    ledger = Ledger(BOOK, batch=1, max_staleness=2)
    train_on(ledger, take_all(ledger))
    for version in (1, 3):
        with pytest.raises(AssertionError, match=f"version {version} cannot follow version 1"):
            ledger.advance(version)


def test_a_closed_ledger_hands_out_nothing_new_and_takes_in_what_runs():
    ledger = Ledger(BOOK, batch=4, max_staleness=3)
    tickets = [ticket for _ in range(3) if (ticket := ledger.take()) is not None]
    ledger.close()
    assert ledger.take() is None
    for ticket in tickets:
        ledger.hand_in(finished(ticket))
    assert [episode.ticket for episode in ledger.finished(0)] == tickets


def test_what_was_handed_out_beyond_the_last_update_may_still_come_in():
    ledger = Ledger(BOOK, batch=1, max_staleness=2)
    tickets = take_all(ledger)
    ledger.close(after_update=0)
    train_on(ledger, tickets)
    assert ledger.take() is None
    assert (ledger.issued, ledger.trained) == (3, 1)


def test_closing_never_adds_tickets():
    ledger = Ledger(BOOK, batch=2, max_staleness=3, total=2)
    ledger.close(after_update=3)
    assert len(take_all(ledger)) == 2


def test_only_training_is_counted_as_stale():
    """Evaluation and demonstration use whatever version there is; a demonstration none at all."""
    ledger = Ledger(replace(BOOK, purpose=Purpose.DEMONSTRATE), batch=1, max_staleness=5)
    for ticket in take_all(ledger):
        ledger.hand_in(finished(ticket, oldest=-1))
    assert not ledger.staleness


def test_a_resumed_run_goes_on_with_the_very_tickets_that_were_not_trained_on():
    through = Ledger(BOOK, batch=3, max_staleness=1)
    handed_out = take_all(through)
    train_on(through, handed_out[:3])

    resumed = Ledger(BOOK, batch=3, max_staleness=1, version=1)

    assert (resumed.issued, resumed.trained) == (0, 0)
    assert take_all(resumed) == handed_out[3:] + take_all(through)
    assert (resumed.issued, resumed.trained) == (6, 0)


# Tickets

books = st.builds(
    TicketBook,
    mix=st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True).map(lambda tasks: Mix.of(*tasks)),
    seed=st.integers(0, 2**32),
    group_size=st.integers(1, 9),
    purpose=st.sampled_from(Purpose),
)
indices = st.integers(0, 10**7)


@given(books, indices)
def test_a_ticket_depends_on_nothing_but_its_index(book: TicketBook, index: int):
    ticket = book.ticket(index)
    book.ticket(index + 1)
    assert replace(book).ticket(index) == ticket
    assert ticket.index == index
    assert ticket.purpose is book.purpose
    assert ticket.group == index // book.group_size


@given(books, st.integers(0, 10**6))
def test_a_group_shares_task_and_seed_and_tasks_go_round_by_group(book: TicketBook, group: int):
    of_group = [book.ticket(group * book.group_size + member) for member in range(book.group_size)]
    assert {(ticket.group, ticket.seed, ticket.task) for ticket in of_group} == {(group, of_group[0].seed, book.mix.tasks[group % len(book.mix.tasks)])}


@given(books, st.integers(0, 10**6), st.integers(0, 10**6))
def test_no_seed_serves_two_purposes(book: TicketBook, one: int, other: int):
    seeds = [replace(book, purpose=purpose, seed=seed).ticket(index).seed for purpose in Purpose for seed in (book.seed, 0) for index in (one, other)]
    of_purpose = [set(seeds[start : start + 4]) for start in range(0, len(seeds), 4)]
    assert sum(map(len, of_purpose)) == len(set().union(*of_purpose))
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_seeds_differ_from_group_to_group_and_from_run_to_run():
    seeds = {replace(BOOK, seed=seed).ticket(index).seed for seed in (0, 1) for index in range(500)}
    assert len(seeds) == 1000
