"""A run on the virtual clock, and what it comes to: throughput, who is busy with what, who waits for what, how stale the data are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from rlvla3.config import Recipe
from rlvla3.observability.meter import MeterBoard
from rlvla3.observability.workers import by_kind, mean_of
from rlvla3.planning.timeline import Timeline
from rlvla3.runtimes.virtual.costs import Profile
from rlvla3.runtimes.virtual.runtime import VirtualRuntime
from rlvla3.scheduling.placement import Cluster, place

WARMUP = 2
"""Updates, beyond max_staleness, until a run has settled."""

MEASURED = 6
"""Updates that are measured after that, unless the caller says otherwise."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a run does once it has settled.

    throughput: environment steps a second (RL-VLA3 equation 2). step_time: seconds an update. utilisation, idle: for each kind of worker, the shares of its
    time by stage and by what it waits for; together they sum to 1. lanes: the share of the time that a device's compute and simulation, a host's cores and
    links are in use, in the mean. staleness: the share of episodes by lag. updates, seconds: how much was measured.
    """

    throughput: float
    step_time: float
    utilisation: Mapping[str, Mapping[str, float]]
    idle: Mapping[str, Mapping[str, float]]
    lanes: Mapping[str, float]
    staleness: Mapping[int, float]
    updates: int
    seconds: float


def whole_waves(max_staleness: int, updates: int) -> int:
    """At least `updates`, and a multiple of max_staleness + 1: where tickets have been waited for they come for that many updates at once, and so do the
    trajectories. A part of such a wave says nothing of the pace of a run."""
    wave = max_staleness + 1
    return -(-updates // wave) * wave


def rehearse(
    recipe: Recipe,
    profile: Profile,
    cluster: Cluster,
    *,
    seed: int = 0,
    updates: int = MEASURED,
    warmup: int = WARMUP,
    timeline: Timeline | None = None,
) -> Rehearsal:
    """Rehearse `updates` updates of a settled run of `recipe`, with its placement, on `cluster`.

    warmup: updates, beyond max_staleness, until it has settled. timeline: is filled with the last of them.
    """
    settling = recipe.engine.max_staleness + warmup
    last = settling + updates
    beyond = last + recipe.engine.max_staleness  # a run without a next update has no tickets to begin, and its last updates would not be settled
    training = recipe.training.model_copy(update={"updates": beyond})
    placement = place(cluster, recipe.placement.kind, recipe.placement.parts)
    board = timeline.of(placement, recipe.simulator.shards, last) if timeline else MeterBoard
    runtime = VirtualRuntime(recipe.model_copy(update={"training": training}), profile, placement, seed=seed, board=board)
    began, spent, lanes = 0.0, runtime.board.read(), runtime.machine.busy()
    steps, staleness = 0, Counter[int]()
    for published in islice(runtime.train(), last):
        if published.version <= settling:
            began, spent, lanes = published.at, runtime.board.read(), runtime.machine.busy()
        else:
            steps += sum(episode.steps for episode in published.episodes)
            staleness.update(published.staleness)
        if timeline:
            timeline.on(published)
    seconds = published.at - began
    kinds = {kind: mean_of(kind, workers) for kind, workers in by_kind(runtime.board.shares(spent)).items()}
    return Rehearsal(
        throughput=steps / seconds,
        step_time=seconds / updates,
        utilisation={kind: dict(worker.busy) for kind, worker in kinds.items()},
        idle={kind: dict(worker.idle) for kind, worker in kinds.items()},
        lanes={lane: (busy - lanes[lane]) / seconds for lane, busy in runtime.machine.busy().items()},
        staleness={lag: count / staleness.total() for lag, count in sorted(staleness.items())},
        updates=updates,
        seconds=seconds,
    )
