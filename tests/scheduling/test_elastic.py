"""Elastic generators: the decision, shards that go over, and whole runs on the virtual clock and with real processes."""

from __future__ import annotations

import asyncio
import math
import signal
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.config import ElasticConfig, make_recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.meter import MeterBoard
from rlvla3.runtimes.assignment import Assignment
from rlvla3.runtimes.replay_session import replay_recipe
from rlvla3.runtimes.virtual.faults import draw_faults
from rlvla3.runtimes.virtual.runtime import VirtualRuntime
from rlvla3.runtimes.worker_names import generator_name, shard_name
from rlvla3.scheduling.elastic import KEEP_FEWER, ActiveGenerators, Load, share_out
from rlvla3.scheduling.placement import Cluster, place
from rlvla3.scheduling.seating import Seating
from rlvla3.types import Purpose, Ticket
from tests.support.elastic_gain import MOST, measure, recipe, shared_cores
from tests.support.event_loop_plane import Host, settle
from tests.support.rehearsals import small_profile, small_recipe
from tests.support.runs import Run, countdown

pytestmark = pytest.mark.usefixtures("no_run_outlives_its_test")
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


def test_a_shard_that_went_over_is_decided_for_by_the_other_generator_and_counts_there():
    async def run() -> None:
        host = Host(shards=3, generators=2)  # shards 0 and 2 are generator 0's, T_max is infinite and B_max too
        host.plane.set_running([2, 1])
        async with host.generating():
            waiting = asyncio.create_task(host.decide(0, host.begin(0, 10)))
            await settle()
            assert not waiting.done()  # shard 2 may still ask generator 0
            host.plane.counts["serves"][2] = 1
            host.plane.set_running([1, 2])
            assert await waiting == {0: [[10], [0]]}  # now nobody else can
            both = [asyncio.create_task(host.decide(shard, host.begin(shard, 10 + shard))) for shard in (1, 2)]
            await asyncio.gather(*both)
        assert host.tickets == [[10], [11, 12]]

    asyncio.run(run())


class Watched(VirtualRuntime):
    """A run that looks closely at every shard that goes over."""

    moves = 0

    def _go_over(self, number: int) -> None:
        assert not self._dispatcher.is_busy(number)
        assert all(request.shard.number != number for request in (*self.shards[number].generator._batcher, *self.shards[number].generator._under_way))
        super()._go_over(number)
        self.moves += 1


def test_every_ticket_is_trained_once_whatever_happens_while_shards_go_over():
    moves, profile = 0, small_profile()
    changing = small_recipe(engine={"generators": 3, "elastic": {"every_s": 1.5}}, training={"updates": 8})
    for seed in range(60):
        runtime = Watched(changing, profile, place(Cluster(1, 4), "hybrid", (1, 3)), seed=seed, faults=draw_faults(seed, 4, 30.0))
        published = list(runtime.train())
        assert sorted(episode.ticket.index for update in published for episode in update.episodes) == list(range(64))
        assert all(lag <= changing.engine.max_staleness for update in published for lag in update.staleness)
        assert [sorted(served) for served in runtime._served] == [np.flatnonzero(runtime.assignment.serves == number).tolist() for number in range(3)]
        moves += runtime.moves
    assert moves > 50


def test_it_finds_the_number_that_is_best_on_shared_cores():
    """Two cores: two generators are best, and four are a fifth slower (docs/planning.md)."""
    part = ((60.0, 100.0),)
    (most,) = measure(recipe(MOST, elastic=False), shared_cores(2), part)
    (best,) = measure(recipe(2, elastic=False), shared_cores(2), part)
    (found,) = measure(recipe(MOST, elastic=True), shared_cores(2), part)
    assert found.active == 2
    assert found.pace == pytest.approx(best.pace, rel=0.03) and found.pace > 1.1 * most.pace


class Moments:
    """A board and a clock of its own, on which shards wait for decisions and generators do not wait for requests, or the other way round."""

    def __init__(self, shards: int, generators: int) -> None:
        self.now, self.steps = 0.0, 0
        self.board = MeterBoard([*map(shard_name, range(shards)), *map(generator_name, range(generators))], lambda: self.now)
        self._shards = [self.board.meter(shard_name(number)) for number in range(shards)]
        self._generators = [self.board.meter(generator_name(number)) for number in range(generators)]
        self.serves = np.arange(shards) % generators
        self.assignment = Assignment(self.serves, [1] * shards, generators, ElasticConfig(every_s=10), self.board, lambda: self.now, lambda: self.steps)

    def be(self, busy: bool, seconds: float, steps: int) -> None:
        for meters, stage in [(self._shards, "decision" if busy else "simulate"), (self._generators, "infer" if busy else "requests")]:
            for meter in meters:
                meter.enter(stage)
        self.now += seconds
        self.steps += steps


def test_a_look_is_due_after_its_time_and_not_while_shards_are_on_their_way():
    run = Moments(shards=4, generators=2)
    assert run.serves.tolist() == [0, 0, 0, 0]  # it begins with the least
    run.be(busy=True, seconds=9, steps=90)
    assert run.assignment.look() == []
    run.be(busy=True, seconds=1, steps=10)
    assert run.assignment.look() == [1, 3]
    assert run.assignment.move(lambda shard: shard == 3) == [1]  # 3 runs a ticket
    run.be(busy=True, seconds=50, steps=0)  # a pace of 0, which says nothing: one is still on its way
    assert run.assignment.look() == []
    assert run.assignment.move(lambda shard: False) == [3]
    assert run.serves.tolist() == [0, 1, 0, 1] and run.assignment.active == 2
    run.be(busy=True, seconds=10, steps=200)
    assert run.assignment.look() == [] and run.assignment.active == 2  # it paid
    run.be(busy=False, seconds=10, steps=20)
    run.assignment.look()
    assert run.assignment.active == 1


@pytest.mark.parametrize("least", [2, 3])
def test_limits_that_leave_nothing_to_choose_are_refused(least):
    with pytest.raises(RecipeError, match=rf"elastic.least={least} leaves nothing .* engine.generators=2.* set engine.generators to {least + 1} or more"):
        make_recipe({"engine": {"generators": 2, "elastic": {"least": least}}})


def test_several_hosts_are_not_rehearsed():
    with pytest.raises(RecipeError, match="rehearsed on one host, and the cluster has 2"):
        VirtualRuntime(recipe(2, elastic=True), shared_cores(2), place(Cluster(2, 2), "colocated"))


def test_a_replay_has_one_generator_and_keeps_it():
    engine = replay_recipe(make_recipe({"engine": {"generators": 2, "elastic": {}}})).engine
    board = MeterBoard([shard_name(0), generator_name(0)])
    assignment = Assignment(np.zeros(1, np.int64), [1], engine.generators, engine.elastic, board, lambda: 1e9, lambda: 0)
    assert assignment.look() == [] and assignment.active == 1


def test_without_it_nothing_is_measured():
    run = VirtualRuntime(small_recipe(), small_profile(), place(Cluster(1, 2), "colocated"))
    list(run.train())
    assert run.assignment.active == 2 and run.assignment.serves.tolist() == [run.placement.generator_of(shard) for shard in range(5)]


@pytest.mark.slow
def test_a_run_tries_two_generators_goes_back_to_one_and_loses_nothing_to_a_killed_simulator(tmp_path: Path, nothing_left: None) -> None:
    """Both would infer on one device, as long for half of the shards as for all. T_max is infinite: one count that is wrong, and nobody goes on."""
    policy = {"name": "tests.support.slow_policy:SlowActorCritic", "chunk": 1}
    engine = {"generators": 2, "max_batch": None, "max_wait_ms": None, "max_staleness": 4, "elastic": {"least": 1, "every_s": 1.0}}
    simulator = {"shards": 4, "options": {"kwargs": {"length": 12}}, "max_steps": 12}
    run = Run(tmp_path, countdown(simulator=simulator, policy=policy, training={"updates": 6, "epochs": 1}, engine=engine))
    run.until(lambda: run.records("update"))
    run.until(lambda: run.workers("shard 1"))
    run.workers("shard 1")[0].send_signal(signal.SIGKILL)
    summary = run.finished().summary
    notices = summary["notices"]
    assert summary["tickets"]["trained"] == 48 and summary["tickets"]["rerun"] >= 1
    assert any("shard 1 was lost" in notice for notice in notices)
    assert any("2 generators of 2 active: 2 shards change their generator" in notice for notice in notices), notices
    assert any("1 generator of 2 active: 2 shards change their generator" in notice for notice in notices), notices
