"""The Ray runtime against the local runtime, on one host. Both do the work of the interaction benchmark, alternately, in one run.

The steps of updates are counted after the first updates, when the pipeline is full. Ray adds time to the transport of tickets, episodes and weights.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median

from rlvla3.benchmarks.interaction import SLOW_IMAGES, WARMUP_UPDATES, interaction_recipe
from rlvla3.config import Recipe
from rlvla3.observability.figures import write_figures
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.parts import endless_ledger, training_capacity
from rlvla3.runtimes.registry import make_runtime

NUM_ENVS = 16


def main(figures: Path, pairs: int, seconds: float) -> None:
    """Measure `pairs` times, print a line per pair and the median ratio, and write the figures to a JSON file."""
    measured = []
    for pair in range(pairs):
        rates = {}
        for runtime in ("local", "ray"):
            with tempfile.TemporaryDirectory(prefix="rlvla3-bench-") as scratch:
                recipe = interaction_recipe(SLOW_IMAGES, NUM_ENVS, Path(scratch), "full_async", max_staleness=2).model_copy(update={"runtime": runtime})
                rates[runtime] = asyncio.run(_rate(recipe, Path(scratch), seconds))
        measured.append(rates | {"ratio": rates["ray"] / rates["local"]})
        print(f"pair {pair + 1}: local {rates['local']:.1f} steps/s, ray {rates['ray']:.1f}, ratio {measured[-1]['ratio']:.3f}", flush=True)
    ratio = median(pair["ratio"] for pair in measured)
    write_figures({"ratio": ratio, "environments": NUM_ENVS, "pairs": measured}, figures)
    print(f"ray reaches {ratio:.3f} of local")


async def _rate(recipe: Recipe, scratch: Path, seconds: float) -> float:
    """Environment steps per second, over the updates after the first few, for at least `seconds`."""
    async with make_runtime(recipe, RunDirectory.create(scratch / "run", recipe), capacity=training_capacity(recipe), notify=print) as runtime:
        await runtime.guard(runtime.ready())
        ledger = endless_ledger(recipe, runtime.rollouts.spec.spaces)

        async def train() -> float:
            steps, began = 0, time.monotonic()
            async for published, episodes in runtime.train(ledger, end=recipe.training.updates):
                if published.version <= WARMUP_UPDATES:
                    began = time.monotonic()
                    continue
                steps += sum(episode.steps for episode in episodes)
                if time.monotonic() - began >= seconds:
                    break
            return steps / (time.monotonic() - began)

        return await runtime.guard(train())
