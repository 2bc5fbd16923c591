"""Elastic generators in a run: when it looks at the load, who goes over, and a whole run with real processes."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import numpy as np
import pytest

from rlvla3.config import ElasticConfig, make_recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.meter import MeterBoard
from rlvla3.runtimes.assignment import Assignment
from rlvla3.runtimes.replay_session import replay_recipe
from rlvla3.runtimes.worker_names import generator_name, shard_name
from tests.support.event_loop_plane import Host, settle
from tests.support.runs import Run, countdown

pytestmark = pytest.mark.usefixtures("no_run_outlives_its_test")


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


def test_a_replay_has_one_generator_and_keeps_it():
    engine = replay_recipe(make_recipe({"engine": {"generators": 2, "elastic": {}}})).engine
    board = MeterBoard([shard_name(0), generator_name(0)])
    assignment = Assignment(np.zeros(1, np.int64), [1], engine.generators, engine.elastic, board, lambda: 1e9, lambda: 0)
    assert assignment.look() == [] and assignment.active == 1


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
