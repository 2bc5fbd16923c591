"""The environment of the interaction benchmark: 84 x 84 frames, and steps that take a long and uneven time but almost no CPU.

A step sleeps for 5 ms plus a lognormal time (median 8 ms, sigma 0.9), at most 250 ms in all. This is like a simulator that runs on another machine. A training
run can lose time on it only by waiting. So steps per second, as a share of environments / expected_step_seconds(), measures the engine alone.
"""

from __future__ import annotations

import math
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

SHORTEST_S, MEDIAN_EXTRA_S, SIGMA, LONGEST_S = 0.005, 0.008, 0.9, 0.250
"""The duration of a step in seconds: its minimum, the median of the lognormal part, and its maximum. SIGMA is the standard deviation of the logarithm."""

ACTIONS = 6
REWARD = 0.1


class SlowImageEnv(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """Shows one of ACTIONS noise pictures. The action that is the picture's number earns REWARD. An episode has no end: set simulator.max_steps.

    The pictures are drawn once, and an observation is one of them, not a copy. So a step takes only microseconds beside its sleep.
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
        """The mean time that a step has slept so far. The operating system sleeps a little longer than it is asked to."""
        return self._slept / max(self._steps, 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        return self._show(), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        start = time.perf_counter()
        time.sleep(min(SHORTEST_S + self.np_random.lognormal(math.log(MEDIAN_EXTRA_S), SIGMA), LONGEST_S))
        self._slept += time.perf_counter() - start
        self._steps += 1
        reward = REWARD * (int(action) == self._shown)
        return self._show(), reward, False, False, {}

    def _show(self) -> NDArray[np.uint8]:
        self._shown = int(self.np_random.integers(ACTIONS))
        picture: NDArray[np.uint8] = self._pictures[self._shown]
        return picture


def expected_step_seconds() -> float:
    """The expected sleep of a step in seconds: SHORTEST_S + E[min(X, cap)] for the lognormal X, in closed form. It is 0.0169."""

    def normal_cdf(z: float) -> float:
        return (1 + math.erf(z / math.sqrt(2))) / 2

    cap = LONGEST_S - SHORTEST_S
    z = (math.log(cap) - math.log(MEDIAN_EXTRA_S)) / SIGMA
    below_cap = MEDIAN_EXTRA_S * math.exp(SIGMA**2 / 2) * normal_cdf(z - SIGMA)
    return SHORTEST_S + below_cap + cap * (1 - normal_cdf(z))
