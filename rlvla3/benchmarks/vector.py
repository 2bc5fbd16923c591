"""The engine against a synchronous vector environment of the same processes, one after the other in turn, in one run.

Both sides have the same recipe, settled: the same simulators, policy, learner and tickets (benchmarks/lockstep.py has the other side). Each side starts anew
each time; environment steps are counted where they are made, over whole updates, after the first ones.

With emulated inference each inference waits a stated time and takes no core meanwhile, as on a GPU. `auto` is what a chunk takes a simulator while every core
has one. Then two environments a core suffice to hide it: half of them simulate while the other half wait for their decisions, if an inference takes half of
them (B_max) and waits until that many have asked. In lock-step the cores idle for as long as the inference lasts, and all but one while learning does.
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
from rlvla3.benchmarks.emulated import with_inference
from rlvla3.benchmarks.figures import keep
from rlvla3.benchmarks.interaction import WARMUP_UPDATES, measure
from rlvla3.benchmarks.lockstep import Lockstep
from rlvla3.config import Recipe, load_recipe, make_recipe
from rlvla3.errors import RecipeError
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
"""Milliseconds that an inference waits, 0 for none."""

MAIN_PROCESS = "main process"


def default_recipe(overrides: Sequence[str]) -> Recipe:
    """LIBERO with the mini VLA, two environments a core, inference for half of them at a time."""
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
    """Measure both sides in turn, `pairs` times, each for `seconds` at least; the figures go into a JSON file.

    words: the recipe, if any, and settings. threads: of the other side's main process, which has the machine to itself while it learns (None: the recipe's).
    """
    recipe = chosen_recipe(words)
    wait_ms = 1000 * asyncio.run(seconds_a_chunk(recipe)) if inference == "auto" else inference
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
    ratio = ratio_of([pair["ratio"] for pair in compared])
    print(f"median ratio {ratio['median']:.2f}, from {ratio['least']:.2f} to {ratio['greatest']:.2f}")
    stated = {"ratio": ratio, "inference_ms": wait_ms, "vector_threads": other.training.threads}
    keep(stated | {"pairs": compared, "recipe": recipe.model_dump(mode="json")}, figures)


def chosen_recipe(words: Sequence[str]) -> Recipe:
    """The settled recipe of the command's words. Raises RecipeError for what has no counterpart in a vector environment."""
    named = bool(words) and "=" not in words[0]
    recipe = load_recipe(Path(words[0]), words[1:]) if named else default_recipe(words)
    if recipe.simulators:
        raise RecipeError("simulators: has several, and this benchmark compares one: name it under simulator: instead")
    if recipe.simulator.slots > 1:
        raise RecipeError(
            f"simulator.slots={recipe.simulator.slots}, and a vector environment has one a process: set simulator.slots=1 and raise simulator.shards"
        )
    preflight(recipe)
    return settled(recipe)


async def measure_vector(recipe: Recipe, enough: Callable[[int, float], bool], warmup: int = WARMUP_UPDATES) -> dict[str, Any]:
    """What `interaction.measure` says of the engine, of a synchronous vector environment: over the same window, counted in the same way."""
    with opened(recipe) as (side, ledger, board):
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


async def seconds_a_chunk(recipe: Recipe) -> float:
    """What a chunk takes a simulator of `recipe` while every core has one: the median over an update."""
    few = min(recipe.simulator.shards, len(os.sched_getaffinity(0)))
    with opened(settled(recipe, simulator={"shards": few})) as (side, _, _):
        async for _ in side.updates():
            if side.chunk_seconds:
                break
        return median(side.chunk_seconds)


@contextmanager
def opened(recipe: Recipe) -> Iterator[tuple[Lockstep, Ledger, MeterBoard]]:
    """The other side, with its environments built, the ledger it works on and the board that says where its time goes."""
    one_thread_each()
    ledger = endless_ledger(recipe)
    shards = lay_out([recipe.simulator.sharding], generators=1, cores=sorted(os.sched_getaffinity(0)))
    board = MeterBoard([MAIN_PROCESS, *(shard_name(shard.number) for shard in shards)])
    with vector_environment(recipe, common_spaces(recipe), ledger.book, shards, board) as vector:
        yield Lockstep(recipe, vector, ledger, shards, board.meter(MAIN_PROCESS)), ledger, board


def ratio_of(ratios: Sequence[float]) -> dict[str, float]:
    """Of independent pairs, the true median lies between the least and the greatest with probability 1 - 2 ** (1 - pairs), whatever their distribution."""
    return {"median": median(ratios), "least": min(ratios), "greatest": max(ratios), "confidence": 1 - 2.0 ** (1 - len(ratios))}
