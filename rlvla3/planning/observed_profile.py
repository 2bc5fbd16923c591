"""The profile of a run that has been made: what its stages cost, from the times of its workers. It needs no measurement of its own.

It is coarser than `rlvla3 profile` (profiling/): the times of a run are wall times, and a cost is a mean over all calls of a stage.
- A run whose workers compute at the same time on fewer cores shares these. Its wall times are divided by that share, and the rehearsal shares the cores anew.
- Without `engine.max_batch: auto`, a run does not know what a larger inference costs. Then half of an inference is taken to be the same for any size.
- Simulation and training are taken to be proportional to the number of decisions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rlvla3.config import Recipe
from rlvla3.runtimes.virtual.costs import NOTHING, Cost, HostProfile, On, Profile

JsonObject = Mapping[str, Any]

LEAST_S = 1e-8
"""No stage takes less. Shares of time are floats, and differences of them may be a little more than 0."""

MOST_LENGTHS = 200
"""The most episode lengths in a profile."""

MOST_CORES = 1024.0
"""Of one host."""

FIXED_PART = 0.5
"""The part of an inference that does not depend on its size, where a run does not tell."""


@dataclass(frozen=True)
class Observed:
    """What a run did between two of its updates.

    seconds: of all workers, by kind of worker and by stage. waited: seconds in which shards waited for decisions. wall: seconds that passed. workers: their
    number by kind. lengths: steps of some episodes. figures: what generators have measured of an inference (observability/batching.py). batch: the mean
    decisions of an inference, None where this is not known. cores: of the run's machine, None where this is not known. gpu: whether inference and training
    ran on GPUs.
    """

    seconds: Mapping[str, Mapping[str, float]]
    waited: float
    wall: float
    workers: Mapping[str, int]
    updates: int
    episodes: int
    steps: int
    lengths: Sequence[int]
    figures: Mapping[str, float]
    batch: float | None
    cores: float | None
    gpu: bool

    @property
    def throughput(self) -> float:
        """Environment steps per second."""
        return self.steps / self.wall

    @property
    def trainer_busy(self) -> float:
        """The share of its time in which the trainer did not wait."""
        return sum(self.seconds.get("trainer", {}).values()) / (self.wall * max(self.workers.get("trainer", 1), 1))

    @property
    def at_work(self) -> float:
        """How many workers computed on the host's cores at the same time, on average."""
        on_cores = ("shard",) if self.gpu else ("shard", "generator", "trainer")
        return sum(sum(self.seconds.get(kind, {}).values()) for kind in on_cores) / self.wall


def observed_profile(recipe: Recipe, observed: Observed) -> Profile:
    """The profile. `observed.seconds` holds only stages in which a worker was busy."""
    chunk = recipe.policy.chunk
    lengths = _spread_out(observed.lengths) or [max(round(observed.steps / max(observed.episodes, 1)), 1)]
    decisions = observed.episodes * fmean(math.ceil(length / chunk) for length in lengths)
    cores = min(observed.cores or float(max(math.ceil(observed.at_work), 1)), MOST_CORES)
    own_core = min(cores / observed.at_work, 1.0) if observed.at_work else 1.0
    device: On = "compute" if observed.gpu else "cores"
    on_device = 1.0 if observed.gpu else own_core
    shard, generator, trainer = (observed.seconds.get(kind, {}) for kind in ("shard", "generator", "trainer"))
    ranks = max(observed.workers.get("trainer", 1), 1)
    batch = max(observed.batch or 1.0, 1.0)

    def each(seconds: float, calls: float, share: float) -> float:
        """Seconds of one call that has a core of its own."""
        return seconds * share / max(calls, 1.0)

    inference = each(generator.get("infer", 0.0), decisions / batch, on_device)
    learned = trainer.get("train", 0.0) + trainer.get("overhead", 0.0)
    ends = trainer.get("publish", 0.0) + trainer.get("checkpoint", 0.0)
    between = each(generator.get("overhead", 0.0), decisions / batch, own_core)
    load = each(generator.get("load_weights", 0.0), observed.updates * max(observed.workers.get("generator", 1), 1), on_device)
    return Profile(
        name="this run",
        source="the times of its own workers",
        chunk=chunk,
        episode_steps=lengths,
        reset=_cost("cores", each(shard.get("reset", 0.0), observed.episodes, own_core)),
        simulate=_cost("cores", each(shard.get("simulate", 0.0), decisions, own_core)),
        turn=_cost("cores", each(shard.get("overhead", 0.0), decisions, own_core)),
        dispatch=_cost("cores", between, proportional=False),
        infer=_inference(device, inference, batch, observed.figures),
        train=_cost(device, each(learned / ranks, recipe.training.epochs * decisions / ranks, on_device)),
        fit=_cost(device, each(trainer.get("fit_critic", 0.0) / ranks, decisions, on_device)),
        publish=_cost(device, each(ends / ranks, observed.updates, on_device)),
        load=_cost(device, load),
        host=HostProfile(cores=[float(min(jobs, cores)) for jobs in range(1, math.ceil(cores) + 1)]),
    )


def _cost(on: On, seconds: float, proportional: bool = True) -> Cost:
    """What a call takes: for each item, or whatever their number. Times that are only errors of rounding are none."""
    if seconds < LEAST_S:
        return NOTHING
    return Cost(on=on, seconds=[seconds]) if proportional else Cost(on=on, sizes=[0.0, 1.0], seconds=[seconds, seconds])


def _inference(on: On, seconds: float, batch: float, figures: Mapping[str, float]) -> Cost:
    """An inference that takes `seconds` with a batch of this mean size. figures: what a generator has measured (observability/batching.py)."""
    of_one, of_each = figures.get("inference_of_1_ms") or 0.0, figures.get("inference_each_ms") or 0.0
    if of_one > 0 and of_each >= 0:
        fixed = (of_one - of_each) / (of_one + (batch - 1) * of_each)
    else:
        fixed = FIXED_PART
    fixed = min(max(fixed, 0.0), 1.0)
    if seconds < LEAST_S:
        return NOTHING
    return Cost(on=on, sizes=[0.0, batch], seconds=[seconds * fixed, seconds])


def _spread_out(lengths: Sequence[int]) -> list[int]:
    """At most MOST_LENGTHS of the lengths, sorted, with the same distribution."""
    ordered = sorted(length for length in lengths if length > 0)
    if len(ordered) <= MOST_LENGTHS:
        return ordered
    return [ordered[round(place * (len(ordered) - 1) / (MOST_LENGTHS - 1))] for place in range(MOST_LENGTHS)]
