"""The engine against a synchronous vector environment with the same processes. The two sides alternate in one run.

Both sides have the same settled recipe: the same simulators, policy, learner and tickets. lockstep.py is the side of the vector environment. Each side starts
again for each measurement. Environment steps are counted when they are made, over whole updates, after the first ones.

With emulated inference, each inference waits for a given time without using a core, as on a GPU. `auto` is the time that a simulator takes for a chunk while
every core runs one. Two environments per core are then enough to hide the inference: half of them simulate while the other half waits for decisions, if an
inference has half of them as its batch (B_max) and waits until so many requests are there. In lock-step, all cores are idle during inference, and all but one
while the learner trains.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, Literal

from rlvla3.benchmarks.chunk_env import vector_environment
from rlvla3.benchmarks.emulated_inference import with_inference
from rlvla3.benchmarks.interaction import WARMUP_UPDATES, measure
from rlvla3.benchmarks.lockstep import LockstepTrainer
from rlvla3.config import Recipe, load_recipe, make_recipe, path_of
from rlvla3.errors import RecipeError
from rlvla3.observability.figures import write_figures
from rlvla3.observability.meter import MeterBoard
from rlvla3.parts import endless_ledger
from rlvla3.planning.profiling.measuring import settled
from rlvla3.planning.rehearsal import whole_waves
from rlvla3.preflight import preflight
from rlvla3.runtimes.supervision.host_supervisor import one_thread_each
from rlvla3.runtimes.worker_names import shard_name
from rlvla3.scheduling.ledger import Ledger
from rlvla3.scheduling.sharding import lay_out
from rlvla3.simulators.common_spaces import common_spaces

Inference = float | Literal["auto"]
"""How many milliseconds an inference waits in addition. 0: not at all."""

MAIN_PROCESS = "main process"


def default_recipe(overrides: Sequence[str]) -> Recipe:
    """LIBERO with the mini VLA, two environments per core, and inference for half of them at once."""
    cores = len(os.sched_getaffinity(0))
    return make_recipe(
        {
            "simulator": {"name": "libero", "tasks": ["libero_goal/0"], "shards": 2 * cores, "max_steps": 100},
            "policy": {"chunk": 5},
            "training": {"batch": 4 * cores, "steps": 2},
            "engine": {"mode": "full_async", "max_batch": cores, "max_wait_ms": None},
        },
        overrides,
        source="the benchmark's recipe",
    )


def main(words: Sequence[str], figures: Path, inference: Inference, pairs: int, seconds: float, threads: int | None = None) -> None:
    """Measure both sides alternately, `pairs` times, each for at least `seconds`, and write the figures to a JSON file.

    words: the recipe, if any, then settings. threads: torch threads of the vector environment's main process, for which the whole machine is free while it
    trains (None: the recipe's).
    """
    recipe = chosen_recipe(words)
    wait_ms = 1000 * asyncio.run(seconds_per_chunk(recipe)) if inference == "auto" else inference
    if wait_ms:
        print(f"each inference waits {wait_ms:.1f} ms more", flush=True)
        recipe = with_inference(recipe, wait_ms)
    other = settled(recipe, training={"threads": threads or recipe.training.threads})
    warmup = max(WARMUP_UPDATES, recipe.training.critic.replay if recipe.training.critic.epochs else 0)
    compared: list[dict[str, Any]] = []

    def enough(updates: int, elapsed: float) -> bool:
        return elapsed >= seconds and updates == whole_waves(recipe.engine.max_staleness, updates)

    with tempfile.TemporaryDirectory(prefix="rlvla3-vector-") as scratch:
        for pair in range(pairs):
            sides = {
                "engine": asyncio.run(measure(recipe, Path(scratch) / str(pair), enough, warmup)),
                "vector": asyncio.run(measure_vector(other, enough, warmup)),
            }
            engine, vector = (side["steps_per_second"] for side in sides.values())
            compared.append(sides | {"ratio": engine / vector})
            print(f"engine {engine:7.1f} steps/s  vector environment {vector:7.1f}  ratio {engine / vector:.2f}", flush=True)
    ratio = median_ratio([pair["ratio"] for pair in compared])
    print(f"median ratio {ratio['median']:.2f}, from {ratio['least']:.2f} to {ratio['greatest']:.2f}")
    summary = {"ratio": ratio, "inference_ms": wait_ms, "vector_threads": other.training.threads}
    write_figures(summary | {"pairs": compared, "recipe": recipe.model_dump(mode="json")}, figures)


def chosen_recipe(words: Sequence[str]) -> Recipe:
    """The settled recipe of the command's words. Raises RecipeError for settings that a vector environment cannot have."""
    named = bool(words) and "=" not in words[0]
    recipe = load_recipe(path_of(words[0]), words[1:]) if named else default_recipe(words)
    if recipe.simulators:
        raise RecipeError("simulators: has several simulators, but this benchmark compares one: name it under simulator: instead")
    if recipe.simulator.slots > 1:
        raise RecipeError(
            f"simulator.slots={recipe.simulator.slots}, but a vector environment has one per process: set simulator.slots=1 and raise simulator.shards"
        )
    preflight(recipe)
    return settled(recipe)


async def measure_vector(recipe: Recipe, enough: Callable[[int, float], bool], warmup: int = WARMUP_UPDATES) -> dict[str, Any]:
    """The figures of a synchronous vector environment, measured as `interaction.measure` measures the engine: over the same updates, with the same counting."""
    with vector_side(recipe) as (side, ledger, board):
        async for _ in side.updates():
            if ledger.version == warmup:
                began, steps, spent = time.monotonic(), side.steps, board.read()
            elif ledger.version > warmup and enough(ledger.version - warmup, time.monotonic() - began):
                break
        elapsed = time.monotonic() - began
        return {
            "steps_per_second": (side.steps - steps) / elapsed,
            "seconds": elapsed,
            "staleness": dict(sorted(ledger.staleness.items())),
            "workers": [asdict(worker) for worker in board.shares(spent)],
        }


async def seconds_per_chunk(recipe: Recipe) -> float:
    """The seconds that a simulator of `recipe` takes for a chunk while every core runs one: the median over an update."""
    few = min(recipe.simulator.shards, len(os.sched_getaffinity(0)))
    with vector_side(settled(recipe, simulator={"shards": few})) as (side, _, _):
        async for _ in side.updates():
            if side.chunk_seconds:
                break
        return median(side.chunk_seconds)


@contextmanager
def vector_side(recipe: Recipe) -> Iterator[tuple[LockstepTrainer, Ledger, MeterBoard]]:
    """The side of the vector environment, with its environments built; its ledger; and the board with its workers' times."""
    one_thread_each()
    spaces = common_spaces(recipe)
    ledger = endless_ledger(recipe, spaces)
    shards = lay_out([recipe.simulator.sharding], generators=1, cores=sorted(os.sched_getaffinity(0)))
    board = MeterBoard([MAIN_PROCESS, *(shard_name(shard.number) for shard in shards)])
    with vector_environment(recipe, spaces, ledger.book, shards, board) as vector:
        yield LockstepTrainer(recipe, vector, ledger, shards, board.meter(MAIN_PROCESS)), ledger, board


def median_ratio(ratios: Sequence[float]) -> dict[str, float]:
    """The median ratio, and an interval around it.

    For independent pairs, the true median lies between the least and the greatest ratio with probability 1 - 2 ** (1 - pairs), for any distribution.
    """
    return {"median": median(ratios), "least": min(ratios), "greatest": max(ratios), "confidence": 1 - 2.0 ** (1 - len(ratios))}
