"""Policies that take their time: one whose inference takes as long for one decision as for many, on a device that all generators share, and one that learns
slowly."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

from rlvla3.policies.actor_critic import ActorCritic

INFERENCE_S = 0.03


class SlowActorCritic(ActorCritic):
    def act(self, observations, noise, explore):
        with Path(__file__).open() as device:
            fcntl.flock(device, fcntl.LOCK_EX)  # until it is closed
            time.sleep(INFERENCE_S)
        return super().act(observations, noise, explore)


LEARNING_S = 0.2


class SlowToLearn(ActorCritic):
    """With it, simulators are ahead of the trainer by as much as staleness allows."""

    def evaluate(self, *arguments, **settings):
        time.sleep(LEARNING_S)
        return super().evaluate(*arguments, **settings)
