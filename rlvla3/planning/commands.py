"""What `rlvla3 profile`, `rehearse` and `plan` do. `rehearse` and `plan` need no torch, no simulator and no policy, only a profile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlvla3.config import Recipe, load_recipe, path_of
from rlvla3.errors import RecipeError
from rlvla3.observability.figures import write_figures
from rlvla3.observability.formatting import quantity
from rlvla3.observability.progress_line import progress
from rlvla3.observability.trust import check_trust
from rlvla3.planning import plan_report, rehearsal_report
from rlvla3.planning.memory_fit import GIB
from rlvla3.planning.profiles import check_profile, find_profile
from rlvla3.planning.profiling.profile_file import lines, write_profile
from rlvla3.planning.rehearsal import MEASURED, whole_waves
from rlvla3.planning.rehearsal import rehearse as rehearse_run
from rlvla3.planning.search import Search
from rlvla3.planning.space import Space
from rlvla3.planning.timeline import Timeline, write_trace
from rlvla3.planning.timeline_picture import draw_timeline, need_matplotlib
from rlvla3.runtimes.virtual.costs import Profile
from rlvla3.scheduling.placement import Cluster

START_S = 15.0
"""About how long the processes of a profile take to start, for the progress that a user is shown."""

DEVICES_PER_HOST = 8
"""The devices of a host, unless the user gives the number of hosts."""


def profile(start: Path, overrides: Sequence[str], out: Path | None, seconds: float, trust: bool = False) -> None:
    """Measure how long the stages of a recipe take on this machine, and write the profile. No other file is left."""
    from rlvla3.preflight import preflight

    check_trust(start, overrides, trust)
    recipe = load_recipe(start, overrides)
    preflight(recipe)  # finds mistakes before torch is imported
    from rlvla3.planning.profiling.profiler import profile_of

    path = out or Path(f"{start.stem}.profile.yaml")
    with progress(f"measuring what the stages of {start.stem} cost", expected_s=START_S + seconds):
        measured = profile_of(recipe, start.stem, seconds, rehearsal_report.print_notice)
    write_profile(measured, path)
    print("\n".join(lines(measured)))
    print(f"{path}: use it with `rlvla3 rehearse {start} --profile {path} --cluster 1`")


def rehearse(
    words: Sequence[str],
    profile_name: str | None,
    cluster_name: str | None,
    seed: int,
    updates: int | None,
    figures: Path | None,
    trace: Path | None,
    picture: Path | None,
    trust: bool = False,
) -> None:
    """Run a recipe on a virtual cluster and print the result. words: the recipe, then settings that override it. figures, trace, picture: files to write."""
    recipe, profile = _start("rehearse", words, profile_name, trust)
    if cluster_name is None:
        raise RecipeError("rehearse needs a cluster: give --cluster HOSTSxDEVICES, for example --cluster 4x8")
    cluster = Cluster.parse(cluster_name)
    if picture:
        need_matplotlib()
    measured = updates or whole_waves(recipe.engine.max_staleness, MEASURED)
    timeline = Timeline() if trace or picture else None
    with progress(f"rehearsing on {cluster_name} devices"):
        rehearsal = rehearse_run(recipe, profile, cluster, seed=seed, updates=measured, timeline=timeline)
    title = rehearsal_report.title_of(recipe, profile, cluster)
    content = rehearsal_report.content(rehearsal, recipe, profile, cluster, seed)
    if figures:
        write_figures(content, figures)
    if timeline and trace:
        write_trace(timeline, trace, content)
    if timeline and picture:
        draw_timeline(timeline, picture, title)
    rehearsal_report.print_rehearsal(rehearsal, title)


def rehearse_paper(name: str, figures: Path | None) -> None:
    """Rehearse a published measurement, and compare the two."""
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
    trust: bool = False,
) -> None:
    """Search the fastest settings of a recipe on a cluster, and print them. words: the recipe, then settings that override it."""
    recipe, profile = _start("plan", words, profile_name, trust)
    cluster = _cluster(gpus, hosts, cluster_name)
    most = recipe.engine.max_staleness if max_staleness is None else max_staleness
    if most < 0 or (memory_gib is not None and memory_gib <= 0):
        raise RecipeError(f"--max-staleness is {most} and --memory is {memory_gib} GiB: give 0 updates or more, and more than 0 GiB")
    if recipe.engine.offload and most:
        raise RecipeError(
            f"with --max-staleness {most} rollout and training run at the same time, but with engine.offload=true they take turns: leave one of them out"
        )
    space = Space.of(recipe, profile, cluster, most)
    memory = None if memory_gib is None else memory_gib * GIB
    with progress("searching for the fastest settings", unit="rehearsal") as work:

        def tell(done: int, budget: int, fastest: float) -> None:
            work.reach(done, budget, f"{quantity(fastest)} steps/s so far")

        found = Search(recipe, profile, cluster, space, memory=memory, seed=seed, on_progress=tell).plan(best)
    about = {"profile": profile.name, "source": profile.source, "cluster": f"{cluster.hosts}x{cluster.devices}", "seed": seed, "max_staleness": most}
    if figures:
        write_figures(plan_report.content(found) | about | {"recipe_settings": recipe.model_dump(mode="json")}, figures)
    plan_report.print_plan(found, f"{profile.name} on {about['cluster']} devices, staleness at most {most}")


def _cluster(gpus: int | None, hosts: int | None, name: str | None) -> Cluster:
    if (gpus is None) == (name is None):
        raise RecipeError("plan needs to know the cluster: give --gpus N (and --hosts H), or --cluster HOSTSxDEVICES, for example --cluster 4x8")
    if name is not None:
        return Cluster.parse(name)
    gpus = gpus or 0
    hosts = hosts or -(-gpus // DEVICES_PER_HOST)
    if gpus % hosts:
        raise RecipeError(f"--gpus {gpus} cannot be divided evenly among {hosts} hosts: give a multiple of {hosts}, or another --hosts")
    return Cluster(hosts, gpus // hosts)


def _start(command: str, words: Sequence[str], profile_name: str | None, trust: bool) -> tuple[Recipe, Profile]:
    """The recipe and the profile of a command."""
    if not words or "=" in words[0]:
        raise RecipeError(f"{command} needs a recipe before any setting, for example recipes/planned/libero_pi0.yaml")
    check_trust(path_of(words[0]), words[1:], trust)
    recipe = load_recipe(path_of(words[0]), words[1:])
    if profile_name is None:
        raise RecipeError(f"{command} needs a profile, which says how long stages take: give --profile with a file, or the name of a profile of rlvla3")
    profile = find_profile(profile_name)
    check_profile(profile, recipe)
    return recipe, profile
