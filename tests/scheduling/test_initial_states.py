"""A ticket book goes through fixed initial states evenly, and no ticket leaves its share of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from rlvla3.scheduling.ledger import TicketBook
from rlvla3.scheduling.mix import Mix, SimulatorShare
from rlvla3.types import Purpose


@st.composite
def books(draw: st.DrawFn) -> TicketBook:
    """Books of one or more simulators with weights, some of whose tasks have a fixed set of initial states."""
    shares, states = [], {}
    for simulator in range(draw(st.integers(1, 3))):
        tasks = tuple(f"{simulator}-{task}" for task in range(draw(st.integers(1, 3))))
        weights = tuple(draw(st.integers(1, 3)) for _ in tasks)
        shares.append(SimulatorShare(tasks, weights, draw(st.integers(1, 3))))
        for task in tasks:
            if draw(st.booleans()):
                states[task] = sorted(draw(st.sets(st.integers(0, 60), min_size=1, max_size=12)))
    mix = Mix(tuple(shares))
    return TicketBook(
        mix.even() if draw(st.booleans()) else mix,
        draw(st.integers(0, 2**40)),
        draw(st.integers(1, 4)),
        draw(st.sampled_from(Purpose)),
        states,
        draw(st.booleans()),
    )


@given(books(), st.integers(1, 60))
def test_every_state_of_a_task_comes_equally_often_to_within_one_group(book: TicketBook, groups: int):
    tickets = [book.ticket(group * book.group_size) for group in range(groups)]
    for task, states in book.states.items():
        counts = Counter(ticket.initial_state for ticket in tickets if ticket.task == task)
        assert counts.keys() <= set(states)
        often = [counts[state] for state in states]
        assert max(often) - min(often) <= 1
    assert all(ticket.initial_state is None for ticket in tickets if ticket.task not in book.states)


@given(books(), st.integers(0, 200))
def test_a_group_shares_its_initial_state_with_its_task_and_seed(book: TicketBook, group: int):
    of_group = [book.ticket(group * book.group_size + place) for place in range(book.group_size)]
    assert len({(ticket.task, ticket.seed, ticket.initial_state) for ticket in of_group}) == 1


@given(st.integers(1, 40), st.integers(0, 99), st.integers(0, 99))
def test_a_seed_selects_the_order_of_each_round_and_tasks_do_not_change_each_others(count: int, seed: int, other: int):
    def order(seed: int, *tasks: str) -> list[int | None]:
        book = TicketBook(Mix.of(*tasks), seed, states=dict.fromkeys(tasks, range(count)))
        return [ticket.initial_state for ticket in map(book.ticket, range(2 * count * len(tasks))) if ticket.task == "push"]

    assert order(seed, "push") == order(seed, "push", "reach")
    assert Counter(order(other, "push")) == dict.fromkeys(range(count), 2)
    if count >= 10:
        assert (order(seed, "push") == order(other, "push")) == (seed == other)
        assert order(seed, "push")[:count] != order(seed, "push")[count:]


def test_where_no_set_is_fixed_a_ticket_is_what_it_was():
    """The seeds of tickets are part of what a seed means: they stay the same from release to release."""
    book = TicketBook(Mix.of("reach", "push"), seed=3)
    assert [book.ticket(index).seed for index in range(3)] == BEFORE
    with_states = TicketBook(Mix.of("reach", "push"), seed=3, states={"reach": range(5)})
    assert [with_states.ticket(index).seed for index in range(3)] == BEFORE


BEFORE = [503148827, 457190280, 423458921]


@given(books(), st.integers(1, 60))
def test_a_book_in_order_goes_through_the_states_of_each_task_as_they_stand(book: TicketBook, groups: int):
    ordered = replace(book, in_order=True)
    tickets = [ordered.ticket(group * book.group_size) for group in range(groups)]
    for task, states in book.states.items():
        went = [ticket.initial_state for ticket in tickets if ticket.task == task]
        assert went == [states[turn % len(states)] for turn in range(len(went))]
    assert [ticket.seed for ticket in tickets] == [book.ticket(group * book.group_size).seed for group in range(groups)]
