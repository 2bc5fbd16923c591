"""The Ray runtime against the local runtime, on one host. Both do the work of the interaction benchmark, alternately, in one run.

Ray adds time to the transport of tickets, episodes and weights.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from statistics import median

from rlvla3.benchmarks.interaction import SLOW_IMAGES, interaction_recipe
from rlvla3.benchmarks.trained_rate import trained_rate
from rlvla3.observability.figures import write_figures

NUM_ENVS = 16


def main(figures: Path, pairs: int, seconds: float) -> None:
    """Measure `pairs` times, print a line per pair and the median ratio, and write the figures to a JSON file."""
    measured = []
    for pair in range(pairs):
        rates = {}
        for runtime in ("local", "ray"):
            with tempfile.TemporaryDirectory(prefix="rlvla3-bench-") as scratch:
                recipe = interaction_recipe(SLOW_IMAGES, NUM_ENVS, Path(scratch), "full_async", max_staleness=2).model_copy(update={"runtime": runtime})
                rates[runtime] = asyncio.run(trained_rate(recipe, Path(scratch), seconds)).steps_per_second
        measured.append(rates | {"ratio": rates["ray"] / rates["local"]})
        print(f"pair {pair + 1}: local {rates['local']:.1f} steps/s, ray {rates['ray']:.1f}, ratio {measured[-1]['ratio']:.3f}", flush=True)
    ratio = median(pair["ratio"] for pair in measured)
    write_figures({"ratio": ratio, "environments": NUM_ENVS, "pairs": measured}, figures)
    print(f"ray reaches {ratio:.3f} of local")
