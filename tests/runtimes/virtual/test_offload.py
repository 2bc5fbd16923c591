"""Rollout and training that have their devices in turn, on the virtual clock and in planning."""

from __future__ import annotations

from typing import Any

import pytest

from rlvla3.config import make_recipe
from rlvla3.planning.bound import update_bound
from rlvla3.planning.memory_fit import memory_need
from rlvla3.planning.rehearsal import rehearse
from rlvla3.runtimes.virtual.faults import draw_faults
from rlvla3.runtimes.virtual.runtime import VirtualRuntime
from rlvla3.scheduling.placement import Cluster, place
from tests.support.rehearsals import planned_profile

GB = 10**9


BYTES = {"trainer": 40 * GB, "rank": 10 * GB, "generator": 25 * GB, "simulator": 3 * GB, "process": GB}


def planned(offload: bool, **engine: Any) -> Any:
    return make_recipe(
        {
            "simulator": {"shards": 4},
            "policy": {"chunk": 4},
            "training": {"batch": 8, "steps": 1, "epochs": 1, "micro_batch": 8},
            "engine": {"mode": "sync", "offload": offload} | engine,
        }
    )


def test_a_rehearsal_takes_the_time_that_the_bytes_take() -> None:
    """Two ranks hold 30 GB each and two generators 25 GB each: in and out once an update, at 10 GB a second, 11 s."""
    simple = {"episode_steps": [8], "simulate": {"on": "cores", "seconds": [0.25]}, "host": {"cores": [1, 2, 3, 4], "bus": 10 * GB}}
    known, unknown, cluster = planned_profile(**simple, memory=BYTES), planned_profile(**simple), Cluster(1, 2)
    staying, turning = (rehearse(planned(offload), known, cluster, updates=3) for offload in (False, True))
    assert turning.step_time == pytest.approx(staying.step_time + 11)
    assert turning.utilisation["trainer"]["offload"] == pytest.approx(6 / turning.step_time)
    assert turning.utilisation["generator"]["offload"] == pytest.approx(5 / turning.step_time)
    assert rehearse(planned(True), unknown, cluster, updates=3).step_time == pytest.approx(staying.step_time)
    limits = [update_bound(planned(offload), known, place(cluster, "colocated", ())).least for offload in (False, True)]
    assert limits[1] <= turning.step_time + 1e-9 and limits[1] - limits[0] > 8


def test_a_virtual_run_in_turn_survives_its_faults() -> None:
    recipe, cluster = planned(True), Cluster(1, 2)
    for seed in range(8):
        runtime = VirtualRuntime(recipe, planned_profile(memory=BYTES), place(cluster, "colocated", ()), seed=seed, faults=draw_faults(seed, 12, within=200.0))
        assert sum(len(published.episodes) for published in runtime.train()) == recipe.training.updates * 8


def test_a_device_holds_the_larger_of_the_two_and_the_host_what_is_away() -> None:
    memory, placement = planned_profile(memory=BYTES).memory, place(Cluster(1, 2), "colocated", ())
    staying, turning = (memory_need(planned(offload), memory, placement, None) for offload in (False, True))
    assert staying.device == {"trainer": 30 * GB, "generator": 25 * GB, "simulators": 6 * GB}
    assert turning.device == {"trainer": 30 * GB, "simulators": 6 * GB}
    assert staying.host == {"simulators": 4 * GB}
    assert turning.host == {"simulators": 4 * GB, "trainer": 60 * GB, "generator": 50 * GB}
