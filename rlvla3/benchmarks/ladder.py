"""The throughput of the four modes, from synchronous to fully asynchronous, on the same tickets. Only the mode changes."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import get_args

from rlvla3.benchmarks.interaction import SLOW_IMAGES, interaction_recipe, measure
from rlvla3.config import Mode
from rlvla3.observability.figures import write_figures

NUM_ENVS = 16
UPDATES = 20


def main(figures: Path) -> None:
    """Make UPDATES updates in each mode and write the figures to a JSON file."""
    result: dict[str, dict[str, float]] = {}
    for mode in get_args(Mode):
        with tempfile.TemporaryDirectory() as scratch:
            recipe = interaction_recipe(SLOW_IMAGES, NUM_ENVS, Path(scratch), mode)
            rate = asyncio.run(measure(recipe, Path(scratch), lambda updates, _: updates >= UPDATES))["steps_per_second"]
        result[mode] = {"steps_per_second": rate, "ratio_to_sync": rate / result.get("sync", {"steps_per_second": rate})["steps_per_second"]}
        print(f"{mode:14s} {rate:6.0f} steps/s  {result[mode]['ratio_to_sync']:.2f} x sync", flush=True)
    write_figures(result, figures)
