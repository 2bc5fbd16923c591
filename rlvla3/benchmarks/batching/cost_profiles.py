"""The costs of a trial: drawn over the whole range that GPUs and simulators have, or those of one machine that was measured."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist, fmean
from typing import Any

from rlvla3.config import Recipe, make_recipe
from rlvla3.runtimes.virtual.costs import Cost, Profile
from rlvla3.scheduling.placement import Cluster

QUANTILES = 41
"""A lognormal distribution is given by so many quantiles."""

DECISIONS = 8
"""Decisions of an episode, on average. Lengths are half of it, all of it, and one and a half of it."""

MICRO_BATCHES = 8
"""Micro-batches of an update."""


@dataclass(frozen=True, slots=True)
class CostProfile:
    """What things cost. Times in seconds.

    fixed, each: an inference of B decisions takes fixed + each B. chunk: the mean time in which a simulator executes a chunk; variation: the coefficient of
    variation of these times. environments: simulators, and episodes of an update. training: the training of an update, in multiples of a lock-step rollout.
    shared: whether inference and training use the same device.
    """

    name: str
    fixed: float
    each: float
    chunk: float
    variation: float
    environments: int
    training: float
    shared: bool

    def profile(self) -> Profile:
        """The profile of a rehearsal."""
        rollout = DECISIONS * (self.chunk + self.fixed + self.each * self.environments)
        return Profile(
            name=self.name,
            source="rlvla3/benchmarks/batching/cost_profiles.py",
            chunk=1,
            episode_steps=[DECISIONS // 2, DECISIONS, DECISIONS + DECISIONS // 2],
            simulate=Cost(on="nothing", seconds=[self.chunk], spread=lognormal(self.variation)),
            infer=Cost(on="compute", sizes=[1.0, 2.0], seconds=[self.fixed + self.each, self.fixed + 2 * self.each]),
            train=Cost(on="compute", seconds=[self.training * rollout / (self.environments * DECISIONS)]),
        )

    def recipe(self, **engine: Any) -> Recipe:
        """A recipe of that size. engine: its settings."""
        n = self.environments
        return make_recipe(
            {
                "simulator": {"name": "gymnasium:Pendulum-v1", "shards": n, "max_steps": 2 * DECISIONS},
                "policy": {"name": "actor_critic", "chunk": 1},
                "training": {"batch": n, "steps": 1, "epochs": 1, "micro_batch": -(-n * DECISIONS // MICRO_BATCHES)},
                "placement": {"kind": "colocated"} if self.shared else {"kind": "separate", "ratio": "1:1:1"},
                "engine": engine,
            }
        )

    def cluster(self) -> Cluster:
        """One device, or one for each stage."""
        return Cluster(1, 1 if self.shared else 3)


H200 = CostProfile("one H200, mini VLA of 30 M, 32 Meta-World shards", 0.0345, 0.0, 0.015, 0.3, 32, 0.1, shared=True)
"""The costs that fit the rates measured there with B_max = 8 and with no limit (docs/results.md): an inference of 1 costs as much as one of 32."""


def draw_profiles(count: int, seed: int = 0) -> list[CostProfile]:
    """The measured profile, and others drawn at random: each time is drawn evenly on a logarithmic scale."""
    return [H200, *(_draw(random.Random(f"profile {number} of seed {seed}"), number) for number in range(1, count))]


def lognormal(variation: float) -> list[float]:
    """Quantiles of a lognormal distribution with mean 1 and this coefficient of variation. Empty for 0: all times are equal."""
    if variation == 0:
        return []
    sigma = math.sqrt(math.log(1 + variation**2))
    drawn = [math.exp(sigma * NormalDist().inv_cdf((number + 0.5) / QUANTILES)) for number in range(QUANTILES)]
    mean = fmean([(low + high) / 2 for low, high in pairwise(drawn)])
    return [value / mean for value in drawn]


def _draw(random: random.Random, number: int) -> CostProfile:
    def between(low: float, high: float) -> float:
        return math.exp(random.uniform(math.log(low), math.log(high)))

    return CostProfile(
        name=f"profile {number}",
        fixed=between(0.5e-3, 0.2),
        each=random.choice([0.0, between(0.02e-3, 5e-3), between(0.02e-3, 5e-3)]),
        chunk=between(5e-3, 1.0),
        variation=random.choice([0.0, *(random.uniform(0, 1.5) for _ in range(5))]),
        environments=round(between(8, 512)),
        training=between(0.2, 3),
        shared=random.random() < 0.5,
    )
