"""A policy whose inference takes as long for one decision as for many, on a device that all generators share."""

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
