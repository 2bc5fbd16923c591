"""Several simulators in one run: whose turn it is."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.scheduling.ledger import Ledger, TicketBook
from rlvla3.scheduling.mix import Mix, Rotation, SimulatorShare
from rlvla3.types import Finished

weights = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@given(weights, st.integers(0, 60))
def test_turns_are_even_and_counted(weights, turns):
    rotation, seen = Rotation(weights), Counter[int]()
    for turn in range(turns):
        whose, before = rotation.at(turn)
        assert before == seen[whose]
        seen[whose] += 1
        for number, weight in enumerate(weights):
            assert abs(seen[number] - (turn + 1) * weight / sum(weights)) < 1
    assert [seen[number] for number in range(len(weights))] == [sum(rotation.at(turn)[0] == number for turn in range(turns)) for number in range(len(weights))]


def test_without_weights_tasks_go_round_in_the_order_they_are_named():
    assert [Mix.of("a", "b", "c").task(group) for group in range(7)] == ["a", "b", "c", "a", "b", "c", "a"]


def mix_of(parts):
    """Simulators as (weights of its tasks, its own weight)."""
    return Mix(tuple(SimulatorShare(tuple(f"{n}-{task}" for task in range(len(tasks))), tuple(tasks), weight) for n, (tasks, weight) in enumerate(parts)))


@given(st.lists(st.tuples(weights, st.integers(1, 4)), min_size=1, max_size=3))
def test_each_simulator_and_each_of_its_tasks_has_its_share(parts):
    mix = mix_of(parts)
    shares = mix.shares
    whole = sum(share.weight for share in shares) * int(np.prod([sum(share.weights) for share in shares]))
    seen = Counter(mix.task(group) for group in range(whole))
    for share in shares:
        of_simulator = whole * share.weight // sum(one.weight for one in shares)
        for task, weight in zip(share.tasks, share.weights, strict=True):
            assert seen[task] == of_simulator * weight // sum(share.weights)
    assert all(mix.task(group).startswith(f"{mix.simulator(group)}-") for group in range(min(whole, 50)))
    assert set(Counter(mix.even().task(group) for group in range(3 * len(mix.tasks))).values()) == {3}


@given(st.data())
def test_nobody_waits_for_another_simulators_tickets(data):
    mix = Mix((SimulatorShare(("a",), (1,), 2), SimulatorShare(("b",), (1,), 1)))
    batch = 3 * data.draw(st.integers(1, 3))
    ledger = Ledger(TicketBook(mix, seed=0), batch, max_staleness=data.draw(st.integers(0, 2)), total=4 * batch)
    running: dict[int, list[int]] = {0: [], 1: []}
    done: list[int] = []
    lost: list[int] = []
    for _ in range(400):
        simulator = data.draw(st.integers(0, 1))
        admissible = range(min(ledger.version + ledger.max_staleness + 1, 4) * batch)
        mine = [i for i in admissible if mix.simulator(i) == simulator and i not in running[simulator] and i not in done]
        expected = min([i for i in lost if i in mine], default=min(mine, default=None))
        ticket = ledger.take(simulator)
        assert (ticket and ticket.index) == expected
        if ticket is not None:
            assert ticket.task == ("a", "b")[simulator]
            running[simulator].append(ticket.index)
            lost = [index for index in lost if index != ticket.index]
        elif running[simulator]:
            index = running[simulator].pop()
            if data.draw(st.booleans()) and index not in lost:
                ledger.lost(index)
                lost.append(index)
            else:
                ledger.hand_in(Finished(ledger.book.ticket(index), 1, 1, True, 1.0, oldest=ledger.version, newest=ledger.version))
                done.append(index)
        while ledger.version < 4 and all(index in done for index in range(ledger.version * batch, (ledger.version + 1) * batch)):
            ledger.advance(ledger.version + 1)
    assert ledger.issued == len({*done, *lost, *running[0], *running[1]})


@given(st.lists(st.tuples(weights, st.integers(1, 4)), min_size=1, max_size=3), st.integers(0, 200))
def test_tasks_without_a_turn_are_those_that_no_group_has(parts, groups):
    mix = mix_of(parts)
    had = {mix.task(group) for group in range(groups)}
    assert mix.without_turn(groups) == [task for task in mix.tasks if task not in had]
