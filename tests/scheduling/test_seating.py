"""Tickets to free slots, against a list that is counted anew every time."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from rlvla3.scheduling.ledger import TicketBook
from rlvla3.scheduling.mix import Mix
from rlvla3.scheduling.seating import Seating

BOOK = TicketBook(Mix.of("reach"), seed=0)
events = st.lists(st.tuples(st.sampled_from(["sit", "leave", "free", "deal", "deal"]), st.integers(0, 3), st.integers(0, 6)), max_size=60)


@given(st.integers(1, 3), events)
def test_the_shard_that_runs_least_gets_the_next_ticket(slots, happening):
    seating, issued = Seating(), 0
    running: dict[int, list[int]] = {}
    for event, shard, number in happening:
        if event == "sit" and shard not in running:
            seating.sit(shard, slots)
            running[shard] = []
        elif event == "leave":
            assert seating.leave(shard) == sorted(running.pop(shard, []))
        elif event == "free" and running.get(shard):
            seating.free(shard, running[shard].pop(number % len(running[shard])))
        elif event == "deal":
            tickets = iter([BOOK.ticket(index) for index in range(issued, issued + number)])
            expected: dict[int, list[int]] = {}
            for index in range(issued, issued + number):
                free = [(len(running[place]), place) for place in running if len(running[place]) < slots]
                if not free:
                    break
                running[min(free)[1]].append(index)
                expected.setdefault(min(free)[1], []).append(index)
                issued += 1
            dealt = seating.deal(partial(next, tickets, None))
            assert {place: [ticket.index for ticket in of_place] for place, of_place in dealt.items()} == expected
        assert [seating.running(place) for place in range(4)] == [len(running.get(place, [])) for place in range(4)]


def test_what_is_remembered_does_not_grow_with_the_run():
    seating = Seating()
    for shard in range(2):
        seating.sit(shard, 10)
    for index in range(500):
        ((shard, _),) = seating.deal(partial(next, iter([BOOK.ticket(index)]), None)).items()
        if index % 3:
            seating.free(shard, index)
        elif index >= 15:
            running = min(seating._running[shard])
            seating.free(shard, running)
    assert len(seating._open) <= 20
