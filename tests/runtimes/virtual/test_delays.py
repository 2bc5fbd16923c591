"""Delays on purpose on the virtual clock: they are those of a real run, and the plan's bound knows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from rlvla3.parts import ticket_book
from rlvla3.planning.bound import update_bound
from rlvla3.planning.rehearsal import rehearse
from rlvla3.scheduling.placement import Cluster, place
from rlvla3.simulators.delayed import ShardDelays
from tests.support.rehearsals import small_profile, small_recipe

CLUSTER = Cluster(1, 1)
DELAYS: Mapping[str, Mapping[str, Any]] = {
    "step": {"step": {"distribution": "lognormal", "mean_s": 0.4, "sigma": 1, "most_s": 3}},
    "reset": {"reset": {"distribution": "exponential", "mean_s": 5, "most_s": 20}},
    "shard": {"shard": {"distribution": "exponential", "mean_s": 0.5}},
}


def throughput(mode: str = "full_async", shards: int = 5, slots: int = 2, **delay: Any) -> float:
    return rehearse(recipe(mode, shards, slots, **delay), small_profile(), CLUSTER, updates=6).throughput


def recipe(mode: str = "full_async", shards: int = 5, slots: int = 2, **delay: Any) -> Any:
    return small_recipe(simulator={"shards": shards, "slots": slots, "timeout_s": 1000, "delay": delay}, engine={"mode": mode})


@pytest.mark.parametrize("kind", DELAYS)
@pytest.mark.parametrize("mode", ["sync", "full_async"])
def test_a_delay_costs_time_and_no_more_than_the_bound_says(kind: str, mode: str):
    late = throughput(mode, **DELAYS[kind])
    assert late < throughput(mode)
    bound = update_bound(recipe(mode, **DELAYS[kind]), small_profile(), place(CLUSTER, "colocated", ()))
    assert late <= 1.1 * bound.throughput  # the episodes that are rehearsed may be a little shorter or less delayed than the mean


def test_a_rehearsal_waits_exactly_as_long_as_a_shard_would():
    profile = small_profile(
        simulate={"on": "nothing", "seconds": [0]},
        infer={"on": "nothing", "seconds": [0]},
        train={"on": "nothing", "seconds": [0]},
        load={"on": "nothing", "seconds": [0]},
        reset={"on": "nothing", "seconds": [0]},
        weights=0,
        episode_steps=[6],
    )
    delay = {**DELAYS["step"], **DELAYS["reset"], **DELAYS["shard"]}
    one = recipe("sync", 1, 1, **delay)
    rehearsal = rehearse(one, profile, CLUSTER, updates=1, warmup=0)
    delays, batch = ShardDelays(one.simulator.delay, one.simulator.delay.of_shards(1)[0]), one.training.batch
    expected = 0.0
    for index in range(batch):
        expected += delays.reset(0, ticket_book(one, None).ticket(index)) + delays.step({0: 4}) + delays.step({0: 2})
    assert rehearsal.seconds == pytest.approx(expected)


def test_the_lock_step_of_a_synchronous_run_waits_for_stragglers():
    """Each update waits for the slowest shard in sync. In full_async the others go on."""
    delay = {"shard": {"mean_s": 3, "share": 0.125}}
    kept = {mode: throughput(mode, shards=8, slots=1, **delay) / throughput(mode, shards=8, slots=1) for mode in ("sync", "full_async")}
    assert kept["full_async"] > 1.2 * kept["sync"]
