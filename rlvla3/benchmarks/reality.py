"""How close rehearsals are to real runs: the four modes are measured on this machine, and rehearsed with one profile of this machine.

The profile is measured before any mode, and nothing is fitted afterwards. The measured and the rehearsed run have the same settings: those of the recipe as a
settled run without an end (planning/profiling/measuring.py), with only the preset of the mode.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from rlvla3.benchmarks.interaction import SLOW_IMAGES, WARMUP_UPDATES, interaction_recipe, measure
from rlvla3.config import Mode, Recipe, load_recipe, path_of
from rlvla3.errors import RecipeError
from rlvla3.observability.figures import write_figures
from rlvla3.planning.profiles import check_profile
from rlvla3.planning.profiling.measuring import in_mode, settled
from rlvla3.planning.profiling.profile_file import write_profile
from rlvla3.planning.profiling.profiler import profile_of
from rlvla3.planning.rehearsal import rehearse, whole_waves
from rlvla3.planning.rehearsal_report import print_notice
from rlvla3.preflight import preflight
from rlvla3.runtimes.virtual.costs import Profile, load_profile
from rlvla3.scheduling.placement import Cluster

NUM_ENVS = 16


def main(words: Sequence[str], figures: Path, profile: Path | None, profile_seconds: float, updates: int) -> None:
    """Print a line per mode, and write the figures and the profile into files beside each other.

    words: the recipe, then settings; empty for the recipe of the interaction benchmark. profile: a profile to use; None to measure one in `profile_seconds`.
    updates: the least number of settled updates in each mode.
    """
    with tempfile.TemporaryDirectory(prefix="rlvla3-reality-") as scratch:
        recipe = _recipe(words, Path(scratch))
        name = Path(words[0]).stem if words else "interaction"
        known = load_profile(profile) if profile else profile_of(recipe, name, profile_seconds, print_notice)
        check_profile(known, recipe)
        figures.parent.mkdir(parents=True, exist_ok=True)
        write_profile(known, figures.with_suffix(".profile.yaml"))
        modes = {mode: _compare(in_mode(settled(recipe), mode), known, Path(scratch) / mode, updates) for mode in get_args(Mode)}
    write_figures({"name": name, "source": known.source, "modes": modes}, figures)


def _recipe(words: Sequence[str], scratch: Path) -> Recipe:
    recipe = load_recipe(path_of(words[0]), words[1:]) if words else interaction_recipe(SLOW_IMAGES, NUM_ENVS, scratch, "full_async")
    if recipe.engine.generators > 1:
        raise RecipeError(f"engine.generators={recipe.engine.generators}, but one device is rehearsed with one generator: set engine.generators=1")
    preflight(recipe)
    return recipe


def _compare(recipe: Recipe, profile: Profile, scratch: Path, updates: int) -> dict[str, Any]:
    """Environment steps per second, measured and rehearsed, over at least `updates` settled updates. error: rehearsed / measured - 1."""
    mode, count = recipe.engine.mode, whole_waves(recipe.engine.max_staleness, updates)
    warmup = max(WARMUP_UPDATES, recipe.training.critic.replay if recipe.training.critic.epochs else 0)
    seen = asyncio.run(measure(recipe, scratch, lambda updates, _: updates >= count, warmup))
    rehearsed = rehearse(recipe, profile, Cluster(1, 1), updates=count)
    measured, error = seen["steps_per_second"], rehearsed.throughput / seen["steps_per_second"] - 1
    print(f"{mode:14s} measured {measured:7.1f} steps/s  rehearsed {rehearsed.throughput:7.1f}  {100 * error:+6.1f} %", flush=True)
    shares = {"utilisation": rehearsed.utilisation, "idle": rehearsed.idle}
    return {"measured": measured, "rehearsed": rehearsed.throughput, "error": error, "updates": count, "workers": seen["workers"]} | shares
