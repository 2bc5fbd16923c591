"""The environment of the interaction benchmark: 84 x 84 frames from a step that takes a long and uneven time, and almost no CPU.

A step sleeps for 5 ms plus a lognormal time (median 8 ms, sigma 0.9), 250 ms at most in all: like a simulator that runs elsewhere. What a
trainer loses on it is lost by waiting, so steps per second, as a share of environments / expected_step_seconds(), measure the engine alone.
"""

from __future__ import annotations

import math
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

SHORTEST, MEDIAN_EXTRA, SIGMA, LONGEST = 0.005, 0.008, 0.9, 0.250
"""Of a step, in seconds; SIGMA is of the logarithm."""

ACTIONS = 6
REWARD = 0.1


class SlowImageEnv(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """Shows one of ACTIONS noise pictures, pays REWARD for the action of the picture's number, and never ends by itself: set simulator.max_steps.

    The pictures are drawn once, and an observation is one of them, not a copy: a step costs microseconds besides its sleep.
    """

    observation_space = Box(0, 255, (84, 84, 3), np.uint8)
    action_space = Discrete(ACTIONS)

    def __init__(self) -> None:
        self._pictures = np.random.default_rng(0).integers(0, 256, (ACTIONS, 84, 84, 3), np.uint8)
        self._pictures.flags.writeable = False
        self._shown = 0
        self._steps, self._slept = 0, 0.0

    @property
    def mean_step_seconds(self) -> float:
        """How long a step of this environment really slept, on average so far; the operating system adds to what was asked for."""
        return self._slept / max(self._steps, 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        return self._show(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        start = time.perf_counter()
        time.sleep(min(SHORTEST + self.np_random.lognormal(math.log(MEDIAN_EXTRA), SIGMA), LONGEST))
        self._slept += time.perf_counter() - start
        self._steps += 1
        reward = REWARD * (int(action) == self._shown)
        return self._show(), reward, False, False, {}

    def _show(self) -> NDArray[np.uint8]:
        self._shown = int(self.np_random.integers(ACTIONS))
        picture: NDArray[np.uint8] = self._pictures[self._shown]
        return picture


def expected_step_seconds() -> float:
    """The mean time a step asks to sleep: SHORTEST + E[min(X, cap)] of the lognormal X, in closed form; 16.9 ms."""

    def normal_cdf(z: float) -> float:
        return (1 + math.erf(z / math.sqrt(2))) / 2

    cap = LONGEST - SHORTEST
    z = (math.log(cap) - math.log(MEDIAN_EXTRA)) / SIGMA
    below_cap = MEDIAN_EXTRA * math.exp(SIGMA**2 / 2) * normal_cdf(z - SIGMA)
    return SHORTEST + below_cap + cap * (1 - normal_cdf(z))
