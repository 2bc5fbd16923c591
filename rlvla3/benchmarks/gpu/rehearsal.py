"""A profile of this machine, rehearsals with it, and how close they are to what the section `modes` has measured.

The recipes are the same as there. Nothing is fitted after the profile. error: rehearsed / measured - 1.
bound: the highest throughput that the costs in the profile allow (planning/bound.py), and the stage that sets it. share_of_bound: measured / bound.
"""

from __future__ import annotations

from typing import Any

from rlvla3.benchmarks.gpu.modes import recipe_for
from rlvla3.benchmarks.gpu.policies import POLICIES
from rlvla3.benchmarks.gpu.sheet import Sheet
from rlvla3.planning.bound import update_bound
from rlvla3.planning.profiling.profile_file import write_profile
from rlvla3.planning.profiling.profiler import profile_of
from rlvla3.planning.rehearsal import MEASURED, rehearse, whole_waves
from rlvla3.runtimes.virtual.costs import Profile, load_profile
from rlvla3.scheduling.placement import Cluster, place

LEAST_S, MOST_S, START_S = 16.0, 60.0, 60.0
"""A profile is measured for LEAST_S to MOST_S seconds. START_S: about how long the rest takes: the start of processes, memory, and the rehearsals."""

TINY_S = 6.0


def measure(sheet: Sheet) -> None:
    """Profile the first policy of the section `modes`, and rehearse the modes that were measured."""
    name = sheet.sizes.running[0]
    measured = sheet.earlier.get("modes", {}).get(name, {})
    if not measured:
        sheet.skip("rehearsals", f"no mode was measured with {name}")
        return
    profile = _profile(sheet, name)
    for mode, figures in measured.items():
        sheet.write("modes", mode, **_compare(sheet, name, mode, profile, figures["steps_per_second"]))


def _profile(sheet: Sheet, name: str) -> Profile:
    """Measure the profile and write it beside the JSON file. It is read back from there, as `rlvla3 rehearse` does."""
    seconds = min(max(sheet.left - START_S, LEAST_S), MOST_S) if sheet.sizes.on_gpu else TINY_S
    recipe = recipe_for(POLICIES[name], sheet.sizes, "full_async")
    path = sheet.path.with_suffix(".profile.yaml")
    write_profile(profile_of(recipe, f"gpu {name}", seconds, lambda _: None), path)
    profile = load_profile(path)
    sheet.write(policy=name, profile=str(path), memory=profile.memory.model_dump(exclude_none=True, exclude_defaults=True), infer=_points(profile))
    return profile


def _points(profile: Profile) -> dict[str, float]:
    """Milliseconds of an inference by its size, as the profile has them."""
    return {f"{size:.4g}": 1000 * seconds for size, seconds in zip(profile.infer.sizes, profile.infer.seconds, strict=True)}


def _compare(sheet: Sheet, name: str, mode: Any, profile: Profile, measured: float) -> dict[str, Any]:
    recipe, cluster = recipe_for(POLICIES[name], sheet.sizes, mode), Cluster(1, 1)
    rehearsed = rehearse(recipe, profile, cluster, updates=whole_waves(recipe.engine.max_staleness, MEASURED))
    bound = update_bound(recipe, profile, place(cluster, recipe.placement.kind, recipe.placement.parts))
    return {
        "measured": measured,
        "rehearsed": rehearsed.throughput,
        "error": rehearsed.throughput / measured - 1,
        "bound": bound.throughput,
        "bound_by": bound.stage,
        "share_of_bound": measured / bound.throughput,
    }
