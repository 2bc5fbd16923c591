"""Elastic generators: how many, and which shards go over."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rlvla3.scheduling.elastic import KEEP_FEWER, ActiveGenerators, Load, share_out
from rlvla3.scheduling.seating import Seating
from rlvla3.types import Purpose, Ticket

loads = st.builds(Load, busy=st.floats(0, 1), waiting=st.floats(0, 1), pace=st.floats(0.1, 100))


@given(st.integers(1, 4), st.integers(0, 6), st.lists(loads, max_size=40))
def test_it_stays_within_its_limits_and_goes_one_step_at_a_time(least, more, seen):
    active = ActiveGenerators(least, least + more)
    counts = [active.count, *map(active.look, seen)]
    assert min(counts) >= least and max(counts) <= least + more
    assert all(abs(after - before) <= 1 for before, after in pairwise(counts))


@given(st.lists(loads, min_size=2, max_size=8))
def test_on_a_constant_load_it_settles(by_number):
    """by_number: what is measured with 1, 2, ... generators, whatever that is."""
    active = ActiveGenerators(1, len(by_number))
    counts = [active.look(by_number[active.count - 1]) for _ in range(4 * len(by_number) + 20)]
    assert len(set(counts[-10:])) == 1


def test_a_step_that_does_not_pay_is_taken_back_and_not_repeated_until_the_load_changes():
    active = ActiveGenerators(1, 3)
    load = Load(busy=0.95, waiting=0.5, pace=100)
    assert [active.look(load) for _ in range(4)] == [2, 1, 1, 1]
    heavier = Load(busy=0.95, waiting=0.7, pace=80)
    assert active.look(heavier) == 2


def test_what_was_measured_of_other_work_is_forgotten():
    active = ActiveGenerators(1, 3)
    active.look(Load(busy=0.95, waiting=0.5, pace=100))
    active.begin_anew()
    assert active.look(Load(busy=0.95, waiting=0.5, pace=1)) == 3  # the pace of 100 no longer counts: the second one is not taken back


@given(st.integers(2, 40), st.floats(0.01, 20.0), st.integers(1, 8), st.floats(0.0, 1.0))
def test_it_ends_near_the_best_number_for_a_queue(shards, thinking, cores, each):
    """Against every number, for the machine repairman's queue: shards simulate for `thinking` in the mean and then wait for one of n generators, which decide
    within 1 on cores that they share, and `each` more for every generator beside them."""
    by_number = [_queue(shards, thinking, number, min(1.0, cores / number) / (1 + each * (number - 1))) for number in range(1, 9)]
    active = ActiveGenerators(1, len(by_number))
    for _ in range(60):
        active.look(by_number[active.count - 1])
    paces = [load.pace for load in by_number]
    assert paces[active.count - 1] >= 0.85 * max(paces)
    assert active.count == 1 or paces[active.count - 2] < KEEP_FEWER * paces[active.count - 1]  # no fewer would do


def _queue(shards: int, thinking: float, generators: int, rate: float) -> Load:
    """The exact means of a closed queue with exponential times: its states are how many shards wait or are decided for."""
    weights = [1.0]
    for waiting in range(1, shards + 1):
        weights.append(weights[-1] * ((shards - waiting + 1) / thinking) / (rate * min(waiting, generators)))
    total = math.fsum(weights)
    deciding = math.fsum(weight * min(waiting, generators) for waiting, weight in enumerate(weights)) / total
    at_generators = math.fsum(weight * waiting for waiting, weight in enumerate(weights)) / total
    return Load(deciding / generators, at_generators / shards, deciding * rate)


@given(st.integers(1, 6).flatmap(lambda n: st.tuples(st.lists(st.tuples(st.integers(0, n - 1), st.integers(1, 4)), min_size=1, max_size=20), st.just(n))))
def test_shards_stay_at_home_while_it_is_active_and_else_go_where_there_is_least(drawn):
    shards, generators = drawn
    homes, slots = zip(*shards, strict=True)
    for active in range(1, generators + 1):
        serves = share_out(homes, slots, active)
        assert all(new == home for new, home in zip(serves, homes, strict=True) if home < active)
        assert max(serves) < active
        load = [sum(count for new, count in zip(serves, slots, strict=True) if new == number) for number in range(active)]
        for number in {new for new, home in zip(serves, homes, strict=True) if home >= active}:  # who took somebody in had the least before
            assert load[number] - max(slots) <= min(load)


@given(st.lists(st.tuples(st.sampled_from(["deal", "free", "hold", "release", "leave", "sit"]), st.integers(0, 3)), max_size=60))
def test_a_held_shard_is_dealt_nothing_and_a_released_one_again(steps):
    seating, there, held, number = Seating(), set(), set(), 0
    tickets: dict[int, set[int]] = {shard: set() for shard in range(4)}
    for what, shard in [*steps, *(("release", shard) for shard in range(4)), *(("sit", shard) for shard in range(4)), ("deal", 0)]:
        match what:
            case "sit" if shard not in there:
                there.add(shard)
                seating.sit(shard, 2)
            case "leave" if shard in there:
                there.remove(shard)
                assert seating.leave(shard) == sorted(tickets[shard])
                tickets[shard] = set()
            case "hold" if shard not in held:
                held.add(shard)
                seating.hold(shard)
            case "release" if shard in held:
                held.remove(shard)
                seating.release(shard)
            case "free" if tickets[shard]:
                seating.free(shard, tickets[shard].pop())
            case "deal":
                book = iter(Ticket(number + extra, "reach", 0, 0, Purpose.TRAIN) for extra in range(20))
                for place_, dealt in seating.deal(lambda: next(book)).items():  # noqa: B023  # called within this round
                    assert place_ in there - held
                    tickets[place_] |= {ticket.index for ticket in dealt}
                number += 20
                assert all(len(tickets[place_]) == 2 for place_ in there - held)  # none of their slots is forgotten
    assert len(there) == 4 and all(tickets.values())
