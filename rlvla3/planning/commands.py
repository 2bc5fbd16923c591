"""What `rlvla3 profile`, `rehearse` and `plan` do. The last two need no torch, no simulator and no policy: only what a profile says of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvla3.config import Recipe, load_recipe
from rlvla3.errors import RecipeError
from rlvla3.planning import advice, rehearsal_report
from rlvla3.planning.memory_fit import GIB
from rlvla3.planning.picture import draw, need_matplotlib
from rlvla3.planning.profiles import check_profile, find_profile
from rlvla3.planning.profiling.files import lines, write_profile
from rlvla3.planning.rehearsal import MEASURED, whole_waves
from rlvla3.planning.rehearsal import rehearse as rehearse_run
from rlvla3.planning.search import Search
from rlvla3.planning.space import Space
from rlvla3.planning.timeline import Timeline, write_trace
from rlvla3.runtimes.virtual.costs import Profile
from rlvla3.scheduling.placement import Cluster

DEVICES = 8
"""Of a host, unless the user says how many hosts there are."""


def profile(start: Path, overrides: Sequence[str], out: Path | None, seconds: float) -> None:
    """Measure what the stages of a recipe cost on this machine, and write it down. Nothing is left behind but the profile."""
    from rlvla3.preflight import preflight

    recipe = load_recipe(start, overrides)
    preflight(recipe)  # a mistake is answered before torch is imported
    from rlvla3.planning.profiling.profiler import profile_of

    place = out or Path(f"{start.stem}.profile.yaml")
    measured = profile_of(recipe, start.stem, seconds, rehearsal_report.notice)
    write_profile(measured, place)
    print("\n".join(lines(measured)))
    print(f"{place}: use it with `rlvla3 rehearse {start} --profile {place} --cluster 1`")


def rehearse(
    words: Sequence[str],
    profile_name: str | None,
    cluster_name: str | None,
    seed: int,
    updates: int | None,
    figures: Path | None,
    trace: Path | None,
    picture: Path | None,
) -> None:
    """Run a recipe on a virtual cluster and say what it does; figures, trace and picture go into files. words: the recipe, and settings that win over its."""
    recipe, profile = _start("rehearse", words, profile_name)
    if cluster_name is None:
        raise RecipeError("rehearse needs a cluster: give --cluster HOSTSxDEVICES, for example --cluster 4x8")
    cluster = Cluster.parse(cluster_name)
    if picture:
        need_matplotlib()
    measured = updates or whole_waves(recipe.engine.max_staleness, MEASURED)
    timeline = Timeline() if trace or picture else None
    rehearsal = rehearse_run(recipe, profile, cluster, seed=seed, updates=measured, timeline=timeline)
    title = rehearsal_report.title_of(recipe, profile, cluster)
    content = rehearsal_report.content(rehearsal, recipe, profile, cluster, seed)
    if figures:
        _write(figures, content)
    if timeline and trace:
        write_trace(timeline, trace, content)
    if timeline and picture:
        draw(timeline, picture, title)
    rehearsal_report.tell(rehearsal, title)


def rehearse_paper(name: str, figures: Path | None) -> None:
    """Rehearse a published measurement, and compare."""
    from rlvla3.planning import papers

    papers.main(name, figures)


def plan(
    words: Sequence[str],
    profile_name: str | None,
    gpus: int | None,
    hosts: int | None,
    cluster_name: str | None,
    memory_gib: float | None,
    max_staleness: int | None,
    figures: Path | None,
    best: int,
    seed: int,
) -> None:
    """Look for the fastest settings of a recipe on a cluster, and say what they are. words: the recipe, and settings that win over its."""
    recipe, profile = _start("plan", words, profile_name)
    cluster = _cluster(gpus, hosts, cluster_name)
    most = recipe.engine.max_staleness if max_staleness is None else max_staleness
    if most < 0 or (memory_gib is not None and memory_gib <= 0):
        raise RecipeError(f"--max-staleness is {most} and --memory {memory_gib} GiB: give 0 updates or more, and more than 0 GiB")
    if recipe.engine.offload and most:
        raise RecipeError(f"--max-staleness {most} has rollout and training work at the same time, and engine.offload=true does not: leave one of them out")
    space = Space.of(recipe, profile, cluster, most)
    memory = None if memory_gib is None else memory_gib * GIB
    found = Search(recipe, profile, cluster, space, memory=memory, seed=seed, on_progress=advice.progress).plan(best)
    about = {"profile": profile.name, "source": profile.source, "cluster": f"{cluster.hosts}x{cluster.devices}", "seed": seed, "max_staleness": most}
    if figures:
        _write(figures, advice.content(found) | about | {"recipe_settings": recipe.model_dump(mode="json")})
    advice.tell(found, f"{profile.name} on {about['cluster']} devices, staleness at most {most}")


def _cluster(gpus: int | None, hosts: int | None, name: str | None) -> Cluster:
    if (gpus is None) == (name is None):
        raise RecipeError("plan needs to know the cluster: give --gpus N (and --hosts H), or --cluster HOSTSxDEVICES, for example --cluster 4x8")
    if name is not None:
        return Cluster.parse(name)
    gpus = gpus or 0
    hosts = hosts or -(-gpus // DEVICES)
    if gpus % hosts:
        raise RecipeError(f"--gpus {gpus} cannot be dealt to {hosts} hosts evenly: give a multiple of {hosts}, or another --hosts")
    return Cluster(hosts, gpus // hosts)


def _start(command: str, words: Sequence[str], profile_name: str | None) -> tuple[Recipe, Profile]:
    """The recipe and the profile that a command is about."""
    if not words or "=" in words[0]:
        raise RecipeError(f"{command} needs a recipe before any setting, for example recipes/planned/libero_pi0.yaml")
    recipe = load_recipe(Path(words[0]), words[1:])
    if profile_name is None:
        raise RecipeError(f"{command} needs to know what stages cost: give --profile with a file, or the name of a profile that ships with rlvla3")
    profile = find_profile(profile_name)
    check_profile(profile, recipe)
    return recipe, profile


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
