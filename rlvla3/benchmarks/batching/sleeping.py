"""An environment whose steps sleep: a simulator on another machine, as the engine sees it."""

from __future__ import annotations

import math
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray


class SleepingEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Steps sleep for a lognormal time. mean: seconds. variation: the coefficient of variation. An episode has no end: set simulator.max_steps."""

    observation_space = Box(-1, 1, (4,), np.float32)
    action_space = Discrete(2)

    def __init__(self, mean: float, variation: float) -> None:
        self._sigma = math.sqrt(math.log(1 + variation**2))
        self._median = mean * math.exp(-(self._sigma**2) / 2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        time.sleep(self._median * math.exp(self._sigma * self.np_random.standard_normal()))
        return np.zeros(4, np.float32), 0.0, False, False, {}
