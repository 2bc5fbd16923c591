"""The virtual runtime: its clock and its resources against brute force, and the laws of the engine over many seeded runs with faults."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvla3.config import Recipe
from rlvla3.runtimes.virtual.clock import Signal, VirtualClock
from rlvla3.runtimes.virtual.costs import Cost
from rlvla3.runtimes.virtual.faults import draw_faults
from rlvla3.runtimes.virtual.resources import LOW_WEIGHT, Resource
from rlvla3.runtimes.virtual.runtime import RehearsedUpdate, StuckError, VirtualRuntime
from rlvla3.scheduling.placement import Cluster, Placement, place
from tests.support.rehearsals import small_profile, small_recipe

SEEDS = 1000
"""Virtual runs with faults in the test of the laws."""

PLACEMENTS = [place(Cluster(1, 1), "colocated"), place(Cluster(2, 2), "disaggregated", (1, 1)), place(Cluster(1, 3), "separate", (1, 1, 1))]


def run(recipe: Recipe, placement: Placement | None = None, **given_: object) -> tuple[VirtualRuntime, list[RehearsedUpdate]]:
    runtime = VirtualRuntime(recipe, small_profile(), placement or place(Cluster(1, 2), "colocated"), **given_)  # type: ignore[arg-type]
    return runtime, list(runtime.train())


def test_what_happens_at_the_same_instant_happens_in_the_order_asked_for():
    clock, seen = VirtualClock(), []

    async def walk(name: str, *pauses: float) -> None:
        for pause in pauses:
            await clock.sleep(pause)
            seen.append((clock.now, name))

    clock.start(walk("a", 1, 1))
    clock.start(walk("b", 2))
    clock.start(walk("c", 0.5, 1.5))
    clock.run()
    assert seen == [(0.5, "c"), (1, "a"), (2, "b"), (2, "c"), (2, "a")]


def test_a_signal_is_remembered_and_expires():
    clock = VirtualClock()
    signal, woken = Signal(clock), []

    async def wait(deadline: float) -> None:
        await signal.wait(deadline)
        woken.append(clock.now)

    signal.give()
    clock.start(wait(9))  # given before
    clock.at(1, lambda: clock.start(wait(3)))  # expires
    clock.at(4, lambda: clock.start(wait(9)))  # given at 5
    clock.at(5, signal.give)
    clock.run()
    assert woken == [0, 3, 5]


jobs = st.lists(st.tuples(st.floats(0, 5), st.floats(0.01, 5), st.booleans()), min_size=1, max_size=8)


@given(jobs, st.sampled_from([(1.0,), (1.0, 2.0, 3.0), (1.0, 1.3), (1.0, 1.6, 2.0)]))
def test_sharing_is_by_weight_and_nobody_is_faster_than_alone(arrivals, speeds):
    """Processor sharing with two priorities, against the same written out."""
    clock = VirtualClock()
    resource, ended = Resource(clock, speeds), {}

    async def job(number: int, at: float, work: float, low: bool) -> None:
        await clock.sleep(at)
        await resource.work(work, low)
        ended[number] = clock.now

    for number, (at, work, low) in enumerate(arrivals):
        clock.start(job(number, at, work, low))
    clock.run()
    assert ended == pytest.approx(_written_out(arrivals, speeds), abs=1e-5)


def _written_out(arrivals, speeds) -> dict[int, float]:
    """Ends of all jobs: rates found anew at every arrival and end, by pouring the speed out over the jobs, in proportion to weight, until each is full."""
    left, ended, now = {number: work for number, (_, work, _) in enumerate(arrivals)}, {}, 0.0
    while left:
        here = [number for number in left if arrivals[number][0] <= now]
        rates = _poured({number: LOW_WEIGHT if arrivals[number][2] else 1.0 for number in here}, speeds)
        coming = [at - now for at, _, _ in arrivals if at > now]
        passes = min([*coming, *(left[number] / rates[number] for number in here)])
        now += passes
        for number in here:
            left[number] -= passes * rates[number]
            if left[number] <= 1e-9:
                ended[number] = now
                del left[number]
    return ended


def _poured(weights: dict[int, float], speeds) -> dict[int, float]:
    rates = dict.fromkeys(weights, 0.0)
    if weights:
        at_once = min(len(weights), len(speeds))
        to_pour, full = speeds[at_once - 1], speeds[at_once - 1] / at_once
        thirsty = set(weights)
        while thirsty and to_pour > 1e-12:
            whole = sum(weights[number] for number in thirsty)
            poured = min(to_pour / whole, *((full - rates[number]) / weights[number] for number in thirsty), to_pour / whole)
            for number in thirsty:
                rates[number] += poured * weights[number]
            to_pour -= poured * whole
            thirsty = {number for number in thirsty if rates[number] < full - 1e-12}
    return rates


def test_costs_between_and_beyond_their_sizes():
    cost = Cost.model_validate({"on": "compute", "sizes": [1, 3, 5], "seconds": [1.0, 2.0, 2.5]})
    assert [cost.work(size) for size in (1, 2, 3, 4, 7, 0)] == pytest.approx([1, 1.5, 2, 2.25, 3.0, 0.5])
    assert Cost.model_validate({"on": "compute", "sizes": [4], "seconds": [2.0]}).work(6) == 3.0
    spread = Cost.model_validate({"on": "compute", "seconds": [1.0], "spread": [0.5, 1.0, 1.5]})
    drawn = [spread.factor(random.Random(seed)) for seed in range(2000)]
    assert min(drawn) >= 0.5 and max(drawn) <= 1.5 and np.mean(drawn) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("mode", ["sync", "train_async", "rollout_async", "full_async"])
def test_every_mode_trains_every_ticket_once(mode):
    runtime, published = run(small_recipe(engine={"mode": mode}))
    assert [episode.ticket.index for version in published for episode in version.episodes] == list(range(40))
    assert sum(episode.steps for version in published for episode in version.episodes) == sum(map(runtime.profile.steps, range(40)))
    for worker in runtime.workers():
        assert sum(worker.busy.values()) + sum(worker.idle.values()) == pytest.approx(1, abs=1e-9)


def test_sync_is_never_stale_and_never_streams():
    _, published = run(small_recipe(engine={"mode": "sync"}))
    assert all(version.staleness == {0: 8} for version in published)


def test_asynchronous_modes_are_faster_in_turn():
    ends = [run(small_recipe(engine={"mode": mode}, training={"updates": 12}))[1][-1].at for mode in ("sync", "train_async", "rollout_async", "full_async")]
    assert ends == sorted(ends, reverse=True) and ends[-1] < 0.8 * ends[0]


def test_two_runs_of_one_seed_are_the_same_and_of_another_are_not():
    ends = [[version.at for version in run(small_recipe(), seed=seed)[1]] for seed in (1, 1, 2)]
    assert ends[0] == ends[1] != ends[2]


def test_the_laws_hold_whatever_goes_wrong():
    """Over SEEDS runs with drawn settings, placements, faults and delays: every ticket trained once, staleness bounded, no deadlock, all time accounted for."""
    happened: Counter[str] = Counter()
    for seed in range(SEEDS):
        drawn = random.Random(seed)
        staleness = drawn.choice([0, 1, 2, 4])
        group = drawn.choice([1, 2, 4])
        recipe = small_recipe(
            simulator={"shards": drawn.randint(1, 6), "slots": drawn.randint(1, 3)},
            training={"updates": 3, "steps": drawn.choice([1, 2]), "micro_batch": drawn.choice([1, 3, 8, 64])},
            algorithm={"group_size": group, "advantage": "grpo" if group > 1 else "gae"},
            engine={
                "mode": drawn.choice(["sync", "full_async"]),
                "max_staleness": staleness,
                "max_batch": drawn.choice([None, 1, 2, 8]),
                "max_wait_ms": drawn.choice([None, 0.0, 300.0]),
                "streaming": drawn.random() < 0.5,
            },
        )
        placement = drawn.choice(
            [place(Cluster(1, 1), "colocated"), place(Cluster(2, 2), "disaggregated", (1, 1)), place(Cluster(1, 3), "separate", (1, 1, 1))]
        )
        faults = draw_faults(seed, drawn.randint(0, 5), within=30.0)
        happened.update(fault.what for fault in faults)
        delays = (lambda drawn=drawn: drawn.expovariate(2.0)) if drawn.random() < 0.3 else None
        runtime, published = run(recipe, placement, seed=seed, faults=faults, delays=delays)

        assert [episode.ticket.index for version in published for episode in version.episodes] == list(range(24)), seed
        for version in published:
            for episode in version.episodes:
                assert version.version - 1 - staleness <= episode.oldest <= episode.newest <= version.version - 1, seed
                assert episode.steps == runtime.profile.steps(episode.ticket.index), seed
        for worker in runtime.workers():
            assert sum(worker.busy.values()) + sum(worker.idle.values()) == pytest.approx(1, abs=1e-6), (seed, worker)
        for generator in runtime.generators:
            assert generator.largest <= (recipe.engine.max_batch or 10**9), seed
    assert min(happened.values()) > 100


@pytest.mark.parametrize("mode", ["sync", "full_async"])
def test_trajectories_take_their_time_to_the_trainer_and_none_is_lost(mode):
    recipe, placement = small_recipe(engine={"mode": mode}), place(Cluster(2, 1), "colocated")
    costs = {"send": {"on": "coordinator", "seconds": [0.2]}, "receive": {"on": "nothing", "seconds": [0.1]}, "across": 1.5}
    ends = []
    for profile in (small_profile(), small_profile(**costs)):
        published = list(VirtualRuntime(recipe, profile, placement).train())
        assert [episode.ticket.index for version in published for episode in version.episodes] == list(range(40))
        ends.append(published[-1].at)
    decisions = sum(episode.decisions for version in published for episode in version.episodes)
    assert ends[1] > ends[0] + 0.1 * decisions  # taken in by one trainer
    assert mode != "sync" or ends[1] > ends[0] + 0.3 * decisions  # and before that, sent when all have ended


def test_a_deadlock_is_said_and_not_waited_for(monkeypatch):
    monkeypatch.setattr("rlvla3.runtimes.virtual.trainer.VirtualTrainer.arrived", lambda self, finished: None)
    with pytest.raises(StuckError, match=r"no worker can go on after [\d.]+ s: .*trajectories"):
        run(small_recipe())


DIVISIONS = [("disaggregated", (1, 1)), ("hybrid", (1, 1)), ("separate", (2, 1, 1)), ("disaggregated", (3, 1))]


@settings(max_examples=50)
@given(
    st.integers(1, 4),
    st.sampled_from([4, 6, 8]),
    st.sampled_from([("disaggregated", (1, 1)), ("hybrid", (1, 1)), ("separate", (2, 1, 1)), ("disaggregated", (3, 1))]),
)
def test_placements_deal_every_device_out(hosts, devices, how):
    kind, ratio = how
    cluster = Cluster(hosts, devices)
    if len(cluster) % sum(ratio):
        return
    placement = place(cluster, kind, ratio)
    used = {*placement.simulators, *placement.generators, *placement.trainers}
    assert used == set(range(len(cluster)))
    if kind == "disaggregated":
        assert placement.simulators == placement.generators and not set(placement.generators) & set(placement.trainers)
        assert len(placement.generators) * ratio[1] == len(placement.trainers) * ratio[0]
    if devices % sum(ratio) == 0:  # every host alike: a shard's generator is on its own host
        for shard in range(4 * len(cluster)):
            there = placement.generators[placement.generator_of(shard)]
            assert cluster.host(there) == cluster.host(placement.simulator_of(shard))
    served = Counter(placement.generator_of(shard) for shard in range(len(placement.simulators) * len(placement.generators)))
    assert len(set(served.values())) == 1 and len(served) == len(placement.generators)
    if len(placement.simulators) == len(placement.generators) and devices % sum(ratio) == 0:  # one shard a simulating device is enough for every generator
        assert len({placement.generator_of(shard) for shard in range(len(placement.simulators))}) == len(placement.generators)
