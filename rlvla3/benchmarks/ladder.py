"""The four modes, from synchronous to fully asynchronous, on the same tickets: one engine, four settings."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import get_args

from rlvla3.benchmarks.interaction import SLOW_IMAGES, WARMUP_UPDATES, interaction_recipe, room
from rlvla3.config import Mode, Recipe
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.runtimes.local import LocalRuntime
from rlvla3.scheduling.ledger import Ledger, TicketBook

NUM_ENVS = 16
UPDATES = 16


def main(figures: Path) -> None:
    """Run each mode on the same work and write the figures to a JSON file."""
    result: dict[str, dict[str, float]] = {}
    for mode in get_args(Mode):
        with tempfile.TemporaryDirectory() as scratch:
            recipe = interaction_recipe(SLOW_IMAGES, NUM_ENVS, Path(scratch), mode, UPDATES)
            rate = asyncio.run(_rate(recipe, Path(scratch)))
        result[mode] = {"steps_per_second": rate, "ratio_to_sync": rate / result.get("sync", {"steps_per_second": rate})["steps_per_second"]}
        print(f"{mode:14s} {rate:6.0f} steps/s  {result[mode]['ratio_to_sync']:.2f} x sync", flush=True)
    figures.write_text(json.dumps(result, indent=2) + "\n")


async def _rate(recipe: Recipe, scratch: Path) -> float:
    async with LocalRuntime(recipe, RunDirectory.create(scratch / "run", recipe), capacity=room(recipe), notify=print) as runtime:
        return await runtime.guard(_steps_per_second(runtime, recipe))


async def _steps_per_second(runtime: LocalRuntime, recipe: Recipe) -> float:
    """Over the updates after the first few, from one publication to the last."""
    await runtime.ready()
    batch = recipe.training.batch
    ledger = Ledger(TicketBook((recipe.simulator.name,), recipe.seed), batch, recipe.engine.max_staleness, total=UPDATES * batch)
    began, steps = 0.0, 0
    async for published, episodes in runtime.train(ledger, end=UPDATES):
        if published.version == WARMUP_UPDATES:
            began = time.monotonic()
        elif published.version > WARMUP_UPDATES:
            steps += sum(episode.steps for episode in episodes)
    return steps / (time.monotonic() - began)
