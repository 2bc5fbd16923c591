"""Placements of stages on devices."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from rlvla3.scheduling.placement import Cluster, place

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
