"""A run on the virtual clock, and its result: throughput, how busy each worker is, what it waits for, and how stale the data are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

from rlvla3.config import Recipe
from rlvla3.observability.meter import MeterBoard
from rlvla3.observability.worker_times import by_kind, mean_of
from rlvla3.planning.timeline import Timeline
from rlvla3.runtimes.virtual.costs import Profile
from rlvla3.runtimes.virtual.runtime import VirtualRuntime
from rlvla3.scheduling.placement import Cluster, Placement, place

WARMUP = 2
"""A run has settled after max_staleness and so many more updates."""

MEASURED = 6
"""The default number of updates that are measured after that."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The figures of a settled run.

    throughput: environment steps per second (RL-VLA3 equation 2). step_time: seconds per update. utilisation, idle: for each kind of worker, the shares of its
    time by stage and by what it waits for; together they sum to 1. lanes: the mean share of time that a device's compute and simulation, a host's cores and
    its links are in use. staleness: the share of episodes by lag. updates, seconds: how much was measured.
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
    """The smallest multiple of max_staleness + 1 that is at least `updates`.

    If workers wait for tickets, the tickets of max_staleness + 1 updates come at once, and so do their trajectories. A throughput must be measured over whole
    waves, because a part of a wave is faster or slower than the run.
    """
    wave = max_staleness + 1
    return -(-updates // wave) * wave


def rehearse(
    recipe: Recipe,
    profile: Profile,
    cluster: Cluster | Placement,
    *,
    seed: int = 0,
    updates: int = MEASURED,
    warmup: int = WARMUP,
    timeline: Timeline | None = None,
) -> Rehearsal:
    """Rehearse `updates` updates of a settled run of `recipe`, with its placement, on `cluster`; or with the placement that is given in its stead.

    warmup: the run has settled after max_staleness + warmup updates. timeline: it records the last updates, if it is given.
    """
    settling = recipe.engine.max_staleness + warmup
    last = settling + updates
    # The run is longer than what is measured: the last updates of a run are not settled, because no tickets of later updates run beside them.
    training = recipe.training.model_copy(update={"updates": last + recipe.engine.max_staleness})
    placement = cluster if isinstance(cluster, Placement) else place(cluster, recipe.placement.kind, recipe.placement.parts)
    board = timeline.make_board_factory(placement, recipe.simulator.shards, last) if timeline else MeterBoard
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
            timeline.update_done(published)
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
