"""An environment and a policy that use the processor on purpose, for as long as they are told to."""

from __future__ import annotations

import time
from typing import Any

from rlvla3.policies.actor_critic import ActorCritic
from tests.support.troublesome import Countdown

LEARNING_S = 0.15


def spin(seconds: float) -> None:
    """Use so much processor time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class SpinningCountdown(Countdown):
    def __init__(self, spin_s: float = 0.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.spin_s = spin_s

    def step(self, action):
        spin(self.spin_s)
        return super().step(action)


class SpinsToLearn(ActorCritic):
    def evaluate(self, *arguments, **settings):
        spin(LEARNING_S)
        return super().evaluate(*arguments, **settings)
