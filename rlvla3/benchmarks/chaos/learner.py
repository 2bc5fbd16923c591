"""A tiny policy that obeys orders (orders.py) in the generator and in the trainer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rlvla3.benchmarks.chaos.orders import obey, obey_all_the_time
from rlvla3.config import NonNegativeFloat
from rlvla3.policies.actor_critic import ActorCritic
from rlvla3.policies.base import Decisions, Evaluation, Observations
from rlvla3.policies.options import ActorCriticOptions

obey_all_the_time()


class LearnerOptions(ActorCriticOptions):
    """Those of the actor-critic, and how long training takes."""

    pass_s: NonNegativeFloat = 0.0
    """Seconds that each training pass takes longer. With a slow trainer, updates are waiting for it."""


class Learner(ActorCritic):
    """The actor-critic. Places of orders: act in the generator; evaluate and save in the trainer."""

    Options = LearnerOptions
    options: LearnerOptions

    def act(self, observations: Observations, noise: Tensor, explore: Tensor) -> Decisions:
        ordered = obey("act")
        decisions = super().act(observations, noise, explore)
        if ordered == "nan":
            decisions.logprob.fill_(torch.nan)
        return decisions

    def evaluate(self, observations: Observations, actions: Tensor, trace: Mapping[str, Tensor]) -> Evaluation:
        obey("evaluate")
        time.sleep(self.options.pass_s)
        return super().evaluate(observations, actions, trace)

    def save(self, folder: Path, name: str, weights: Mapping[str, Tensor] | None = None) -> None:
        obey("save")
        super().save(folder, name, weights)
