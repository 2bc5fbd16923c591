"""What evaluation beside training costs: the steps a second that a run trains on with `evaluation.every`, and without (`bench beside`).

Both sides are measured alternately, and whichever is first changes from pair to pair. Each starts its workers anew.

In the benchmark's own recipe slots are spare: the bound of staleness admits half as many tickets as there are slots. Simulators and inference sleep, as
simulators on another machine and inference on a GPU do. So they do not compete for cores, and what is left is what the engine itself costs.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvla3.benchmarks.emulated_inference import with_inference
from rlvla3.benchmarks.trained_rate import trained_rate
from rlvla3.benchmarks.vector import median_ratio
from rlvla3.config import Recipe, load_recipe, make_recipe, path_of
from rlvla3.errors import RecipeError
from rlvla3.observability.figures import write_figures
from rlvla3.observability.formatting import number_of
from rlvla3.planning.profiling.measuring import settled
from rlvla3.preflight import preflight

BATCH = 4
"""Episodes of an update. With max_staleness=1, twice as many run or wait at a time."""

SLOTS = 4 * BATCH

INFERENCE_MS = 5.0


def default_recipe(overrides: Sequence[str]) -> Recipe:
    """Half of the slots are spare. An evaluation needs three episodes on each of these, and there is time for more than ten."""
    recipe = make_recipe(
        {
            "simulator": {"name": "rlvla3.benchmarks.still_env:StillEnv", "shards": SLOTS, "max_steps": 40}
            | {"delay": {"step": {"distribution": "lognormal", "mean_s": 0.02}}},
            "policy": {"name": "actor_critic", "chunk": 5},
            "training": {"batch": BATCH, "steps": 1, "epochs": 1, "micro_batch": 128},
            "engine": {"mode": "full_async", "max_staleness": 1},
            "evaluation": {"every": 20, "episodes": 3 * (SLOTS - 2 * BATCH)},
        },
        overrides,
        source="the benchmark's recipe",
    )
    return with_inference(recipe, INFERENCE_MS)


def main(words: Sequence[str], figures: Path, pairs: int, seconds: float) -> None:
    """Measure both sides alternately, `pairs` times, each for at least `seconds`, and write the figures to a JSON file.

    words: the recipe, if any, then settings. Raises RecipeError where the recipe has no evaluations beside training.
    """
    recipe = _chosen(words)
    compared: list[dict[str, Any]] = []
    for pair in range(pairs):
        sides = {"with": recipe, "without": settled(recipe, evaluation=recipe.evaluation.model_dump() | {"every": 0})}
        rates = {side: _measured(sides[side], seconds) for side in (sorted(sides) if pair % 2 else sorted(sides, reverse=True))}
        ratio = rates["with"]["steps_per_second"] / rates["without"]["steps_per_second"]
        compared.append(rates | {"ratio": ratio})
        without, beside = (f"{rates[side]['steps_per_second']:.1f}" for side in ("without", "with"))
        evaluations = number_of(len(rates["with"]["evaluated"]), "evaluation")
        print(f"without {without} steps/s, with {evaluations} {beside}, ratio {ratio:.3f}", flush=True)
    ratio_of_all = median_ratio([pair["ratio"] for pair in compared])
    print(f"median ratio {ratio_of_all['median']:.3f}, from {ratio_of_all['least']:.3f} to {ratio_of_all['greatest']:.3f}")
    write_figures({"ratio": ratio_of_all, "pairs": compared, "recipe": recipe.model_dump(mode="json")}, figures)


def _chosen(words: Sequence[str]) -> Recipe:
    named = bool(words) and "=" not in words[0]
    recipe = load_recipe(path_of(words[0]), words[1:]) if named else default_recipe(words)
    if not recipe.evaluation.every:
        raise RecipeError("evaluation.every=0, so nothing is evaluated beside training: give a number of updates, for example evaluation.every=10")
    preflight(recipe)
    return settled(recipe)


def _measured(recipe: Recipe, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="rlvla3-bench-") as scratch:
        rate = asyncio.run(trained_rate(recipe, Path(scratch), seconds))
        return {"steps_per_second": rate.steps_per_second, "evaluated": rate.evaluated}
