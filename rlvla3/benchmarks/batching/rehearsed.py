"""Trials on the virtual clock: sync, full_async as shipped, the old preset of B_max = 8, and a grid of fixed limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Any

from rlvla3.benchmarks.batching.cost_profiles import CostProfile
from rlvla3.planning.rehearsal import rehearse

WAITS_MS = (0.0, 5.0, 20.0, 100.0, None)
"""T_max of the grid."""

OLD_PRESET: Mapping[str, Any] = {"max_batch": 8, "max_wait_ms": 0.0}
"""What full_async was before limits were learned: the control."""


EPISODES, UPDATES = 1000, 8
"""A trial measures at least so many episodes, and at least so many updates. With fewer, chance makes differences of 10 % where there are none."""


def batches(environments: int) -> list[int | None]:
    """B_max of the grid: six values."""
    return [1, 4, 16, 64, max(environments // 2, 1), None]


@dataclass(frozen=True)
class Trial:
    """Environment steps per second with the costs of one profile. grid: by B_max and T_max, empty if the grid was not tried."""

    costs: CostProfile
    sync: float
    shipped: float
    old_preset: float
    grid: Mapping[str, float] = field(default_factory=dict)

    @property
    def ratio_to_sync(self) -> float:
        return self.shipped / self.sync

    @property
    def ratio_to_best(self) -> float:
        """To the best of the grid."""
        return self.shipped / max(self.grid.values())


def run_trials(profiles: Sequence[CostProfile], gridded: int, jobs: int) -> list[Trial]:
    """Try all profiles, the first `gridded` of them with the grid, in `jobs` processes."""
    tasks = [(costs, number < gridded) for number, costs in enumerate(profiles)]
    if jobs == 1:
        return [try_costs(*task) for task in tasks]
    with get_context("spawn").Pool(jobs) as pool:
        return pool.starmap(try_costs, tasks, chunksize=1)


def try_costs(costs: CostProfile, with_grid: bool) -> Trial:
    """Rehearse one profile."""
    rate = partial(_rate, costs)
    grid = {f"{size}, {wait}": rate(max_batch=size, max_wait_ms=wait) for size in batches(costs.environments) for wait in WAITS_MS} if with_grid else {}
    return Trial(costs, rate(mode="sync"), rate(), rate(**OLD_PRESET), grid)


def _rate(costs: CostProfile, **engine: Any) -> float:
    updates = max(EPISODES // costs.environments, UPDATES)
    return rehearse(costs.recipe(**engine), costs.profile(), costs.cluster(), updates=updates, warmup=1).throughput
