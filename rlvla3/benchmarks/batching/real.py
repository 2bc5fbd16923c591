"""Trials in real time, with real processes. Inference and simulators sleep and use no core: a GPU and simulators elsewhere, as the engine sees them."""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvla3.benchmarks.batching.cost_profiles import CostProfile
from rlvla3.benchmarks.batching.rehearsed import OLD_PRESET, Trial
from rlvla3.benchmarks.emulated_inference import with_inference
from rlvla3.benchmarks.interaction import measure
from rlvla3.config import Recipe, make_recipe

ENDLESS = 10**9
STEPS = 24
"""Decisions of an episode."""

PROFILES = (
    CostProfile("slow inference, quick simulators", 0.1, 0.0, 0.005, 0.3, 12, 0.0, shared=False),
    CostProfile("inference that grows, uneven simulators", 0.02, 0.001, 0.1, 1.0, 16, 0.0, shared=False),
    CostProfile("quick inference, uneven simulators", 0.002, 0.0002, 0.03, 1.0, 16, 0.0, shared=False),
    CostProfile("inference that grows, even simulators", 0.05, 0.005, 0.05, 0.1, 16, 0.0, shared=False),
)


def try_for_real(costs: CostProfile, seconds: float) -> Trial:
    """Train with these costs, about `seconds` with each setting."""

    def rate(**engine: Any) -> float:
        with tempfile.TemporaryDirectory() as scratch:
            recipe = sleeping_recipe(costs, **engine)
            return float(asyncio.run(measure(recipe, Path(scratch), lambda _, elapsed: elapsed >= seconds))["steps_per_second"])

    grid = {f"{size}, {wait}": rate(max_batch=size, max_wait_ms=wait) for size, wait in _grid(costs.environments)}
    return Trial(costs, rate(mode="sync"), rate(), rate(**OLD_PRESET), grid)


def sleeping_recipe(costs: CostProfile, **engine: Any) -> Recipe:
    """A recipe whose inference and simulators take these times. costs.variation: the coefficient of variation, sqrt(exp(sigma^2) - 1) of a lognormal time."""
    n = costs.environments
    delay = {"step": {"distribution": "lognormal", "mean_s": costs.chunk, "sigma": math.sqrt(math.log(1 + costs.variation**2))}}
    recipe = make_recipe(
        {
            "simulator": {"name": "rlvla3.benchmarks.still_env:StillEnv", "shards": n, "max_steps": STEPS, "delay": delay},
            "policy": {"name": "actor_critic", "chunk": 1},
            "training": {"updates": ENDLESS, "batch": n, "steps": 1, "epochs": 1, "micro_batch": 128, "checkpoint_every": ENDLESS},
            "engine": engine,
        }
    )
    return with_inference(recipe, 1000 * costs.fixed, 1000 * costs.each)


def _grid(environments: int) -> Sequence[tuple[int | None, float | None]]:
    return [(None, 0.0), (None, None), (environments // 2, None), (4, 0.0)]
