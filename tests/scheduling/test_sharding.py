"""Shards of several simulators: their slots, generators, cores and devices."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.scheduling.placement import PlacementError
from rlvla3.scheduling.sharding import Sharding, lay_out


@given(st.lists(st.builds(Sharding, st.integers(1, 5), st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=3), st.integers(1, 4))
def test_shards_have_slots_of_their_own_and_even_generators(simulators, generators):
    for serving in ("round_robin", "least_loaded"):
        shards = lay_out(simulators, generators, serving, cores=(0, 1, 2))
        assert [slot for shard in shards for slot in shard.slots] == list(range(sum(s.shards * s.slots for s in simulators)))
        assert [(shard.simulator, len(shard.slots), len(shard.cores)) for shard in shards] == [
            (number, simulator.slots, simulator.cores) for number, simulator in enumerate(simulators) for _ in range(simulator.shards)
        ]
        load = Counter[int]()
        for shard in shards:
            load[shard.generator] += len(shard.slots)
        if serving == "least_loaded":
            assert max(load.values()) - min(load[number] for number in range(generators)) <= max(s.slots for s in simulators)
        else:
            assert [shard.generator for shard in shards] == [number % generators for number in range(len(shards))]


def test_more_cores_than_there_are_cannot_be_bound():
    with pytest.raises(PlacementError, match="cores=3, and this host has 2"):
        lay_out([Sharding(1, 1, cores=3)], 1, cores=(0, 1))


def test_bound_shards_take_turns_at_cores_and_devices():
    bound = lay_out([Sharding(3, 1, cores=2, devices=("cuda:0", "cuda:1")), Sharding(1, 1)], 1, cores=(4, 5, 6))
    assert [(shard.cores, shard.device) for shard in bound] == [((4, 5), "cuda:0"), ((6, 4), "cuda:1"), ((5, 6), "cuda:0"), ((), "")]
