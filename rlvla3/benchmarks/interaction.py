"""What share of the ideal rate of environment steps a whole training run reaches.

The ideal rate is environments / mean step time: every environment steps without a pause. The rest is lost because environments wait for the engine: for
inference, training, admission or the copying of frames. The policy infers for every frame once, and trains on every frame once.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from rlvla3.benchmarks.timed import end_of_first_steps, mean_step_seconds
from rlvla3.config import Mode, Recipe, make_recipe
from rlvla3.observability.events import WorkerTime
from rlvla3.observability.figures import write_figures
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.parts import endless_ledger, training_capacity
from rlvla3.runtimes.local import LocalRuntime

SLOW_IMAGES = "rlvla3.simulators.slow_image:SlowImageEnv"
EPISODE_STEPS = 48
ENDLESS = 10**9
WARMUP_UPDATES = 2
"""The first updates fill the pipeline. The rate is measured after them."""


def interaction_recipe(environment: str, num_envs: int, folder: Path, mode: Mode, **engine: Any) -> Recipe:
    """A recipe with `num_envs` environments of class `environment`, one per process, a small actor-critic, and `num_envs` episodes per update.

    engine: settings that override those of the mode.
    """
    return make_recipe(
        {
            "simulator": {
                "name": "rlvla3.benchmarks.timed:TimedEnv",
                "shards": num_envs,
                "max_steps": EPISODE_STEPS,
                "options": {"kwargs": {"environment": environment, "folder": str(folder)}},
            },
            "policy": {"name": "actor_critic", "chunk": 1},
            "training": {"updates": ENDLESS, "batch": num_envs, "steps": 1, "epochs": 1, "micro_batch": 128, "checkpoint_every": ENDLESS},
            "engine": {"mode": mode} | engine,
        }
    )


def main(figures: Path, environment: str | None, num_envs: int, seconds: float) -> None:
    """Run the benchmark for about `seconds` in `full_async` and write the figures to a JSON file."""
    with tempfile.TemporaryDirectory() as scratch:
        recipe = interaction_recipe(environment or SLOW_IMAGES, num_envs, Path(scratch), "full_async", max_staleness=2)
        result = asyncio.run(measure(recipe, Path(scratch), lambda _, elapsed: elapsed >= seconds))
        mean_step = mean_step_seconds(Path(scratch))
        first_steps = end_of_first_steps(Path(scratch)) - psutil.Process().create_time()
    summary = {"share_of_ideal": result["steps_per_second"] * mean_step / num_envs, "mean_step_ms": 1000 * mean_step, "seconds_to_first_200_steps": first_steps}
    result = summary | result
    write_figures(result, figures)
    print(json.dumps(result, indent=2))


async def measure(recipe: Recipe, scratch: Path, enough: Callable[[int, float], bool], warmup: int = WARMUP_UPDATES) -> dict[str, Any]:
    """Train until `enough(updates, seconds)`, and return the figures of this time. Updates and seconds count from the end of the `warmup` updates.

    Steps are counted when they are made, and tickets do not run out. So neither the beginning nor the end of the measurement favours a mode.
    """
    async with LocalRuntime(recipe, RunDirectory.create(scratch / "run", recipe), capacity=training_capacity(recipe), notify=print) as runtime:
        return await runtime.guard(_train(runtime, recipe, enough, warmup))


async def _train(runtime: LocalRuntime, recipe: Recipe, enough: Callable[[int, float], bool], warmup: int) -> dict[str, Any]:
    await runtime.ready()
    ledger = endless_ledger(recipe, runtime.rollouts.spec.spaces)
    async for published, _ in runtime.train(ledger, end=recipe.training.updates):
        if published.version == warmup:
            began, steps, spent = time.monotonic(), runtime.steps_made(), runtime.board.read()
        elif published.version > warmup and enough(published.version - warmup, time.monotonic() - began):
            break
    elapsed = time.monotonic() - began
    return {
        "steps_per_second": (runtime.steps_made() - steps) / elapsed,
        "memory_mb": runtime.memory_bytes() / 1e6,
        "seconds": elapsed,
        "staleness": dict(sorted(ledger.staleness.items())),
        "workers": [_shares(worker) for worker in runtime.board.shares(spent)],
    }


def _shares(worker: WorkerTime) -> dict[str, Any]:
    return {"name": worker.name, "busy": dict(worker.busy), "idle": dict(worker.idle)}
