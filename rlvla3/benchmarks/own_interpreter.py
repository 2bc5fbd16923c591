"""What a shard costs in an interpreter of its own (`simulator.python`), against a shard in this one.

Two runs of the engine that differ in nothing else run a few episodes by turns, so that other load on the machine affects both. Compared is the CPU time of the
shards for an environment step, with all that the engine does there. It does not grow while other processes have the CPU.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any

from rlvla3.benchmarks.overhead import CASES, CHUNK, MIN_EPISODES, Case, check_names, rank_of_interval
from rlvla3.config import Recipe, make_recipe
from rlvla3.errors import RecipeError
from rlvla3.observability.figures import write_figures
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.parts import collecting_capacity, evaluation_book
from rlvla3.runtimes.local import LocalRuntime
from rlvla3.types import Finished

HERE, THERE = "here", "there"
SIDES = (HERE, THERE)

EPISODES_A_PAIR = 8
"""Episodes of each shard from which one ratio comes. CPU time is counted in hundredths of a second, so it takes some."""


def main(names: Sequence[str], python: str, figures: Path, pairs: int) -> None:
    """Measure the simulators `names` and write the figures to a JSON file. python: as `simulator.python`. pairs: how many ratios are measured of each.

    Raises RecipeError if a name, a number or the interpreter is wrong.
    """
    if not names:
        raise RecipeError(f"--python={python} needs the names of the simulators to measure: choose among {', '.join(CASES)}")
    check_names(names)
    if pairs < MIN_EPISODES:
        raise RecipeError(f"--episodes={pairs} are too few to distinguish a ratio from noise: give {MIN_EPISODES} or more")
    result = {}
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            recipes = {HERE: recipe_of(CASES[name], ""), THERE: recipe_of(CASES[name], python)}
            result[name] = compare(asyncio.run(measure(recipes, Path(scratch), pairs)))
        print(f"{name:16s} {_in_words(result[name])}", flush=True)
    write_figures(result, figures)


def recipe_of(case: Case, python: str) -> Recipe:
    """A run with one shard of one environment. python: its interpreter ("": this one)."""
    return make_recipe(
        {
            "simulator": case.config.model_dump(mode="json", exclude_unset=True) | {"shards": 1, "python": python},
            "policy": {"name": "actor_critic", "chunk": CHUNK},
            "training": {"batch": 1, "steps": 1, "micro_batch": 1},
        }
    )


async def measure(recipes: Mapping[str, Recipe], scratch: Path, pairs: int) -> list[dict[str, float]]:
    """The CPU seconds of an environment step on each side, `pairs` times. The first pair warms up, and is not measured."""
    measured = []
    async with AsyncExitStack() as stack:
        runtimes = {}
        for side, recipe in recipes.items():
            run, capacity = RunDirectory.create(scratch / side, recipe), collecting_capacity(recipe)
            runtimes[side] = await stack.enter_async_context(LocalRuntime(recipe, run, capacity=capacity, notify=print, trainer=False))
            await runtimes[side].guard(runtimes[side].ready())
        for pair in range(pairs + 1):
            sides = SIDES if pair % 2 else SIDES[::-1]
            measured.append({side: await runtimes[side].guard(cost_of_step(runtimes[side], recipes[side])) for side in sides})
    return measured[1:]


async def cost_of_step(runtime: LocalRuntime, recipe: Recipe) -> float:
    """The CPU seconds of the shard for an environment step, over EPISODES_A_PAIR episodes with their resets."""

    async def look_at(_: Finished) -> bool:
        return False

    (before,) = runtime.shard_costs()
    await runtime.collect(evaluation_book(recipe, runtime.rollouts.spec.spaces), EPISODES_A_PAIR, look_at)
    (after,) = runtime.shard_costs()
    return (after[0] - before[0]) / (after[1] - before[1])


def compare(measured: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Median CPU milliseconds of a step on both sides, and the median of the pairs' ratios with its interval (see overhead.py)."""
    ratios = sorted(pair[THERE] / pair[HERE] for pair in measured)
    rank = rank_of_interval(len(ratios))
    return {
        "step_ms": {side: 1000 * median(pair[side] for pair in measured) for side in SIDES},
        "ratio": {"median": median(ratios), "least": ratios[rank], "greatest": ratios[-1 - rank]},
        "pairs": len(ratios),
    }


def _in_words(measured: Mapping[str, Any]) -> str:
    step, ratio = measured["step_ms"], measured["ratio"]
    return (
        f"CPU time of a step: {step[HERE]:.3f} ms in this interpreter, {step[THERE]:.3f} ms in the other; "
        f"ratio {ratio['median']:.3f}, from {ratio['least']:.3f} to {ratio['greatest']:.3f}"
    )
