"""The virtual runtime's resources against brute force."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvla3.runtimes.virtual.clock import VirtualClock
from rlvla3.runtimes.virtual.resources import LOW_WEIGHT, Resource

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
