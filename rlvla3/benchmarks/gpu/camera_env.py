"""An environment with a camera and continuous actions, for machines without Meta-World. Its steps sleep like those of SlowImageEnv, and cost almost no CPU."""

from __future__ import annotations

import math
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

PICTURES = 8


class CameraEnv(gymnasium.Env[Any, NDArray[np.float32]]):
    """Shows one of PICTURES noise pictures of `image` x `image` pixels, and a state of 4 random numbers. Rewards are 0, and an episode has no end.

    A step sleeps: the median is `step_ms` milliseconds, and the logarithm has a standard deviation of `sigma`.
    """

    instruction = "press the button from above"
    action_space = Box(-1, 1, (4,), np.float32)

    def __init__(self, image: int, step_ms: float = 10.0, sigma: float = 0.5) -> None:
        self.observation_space = Dict({"corner3": Box(0, 255, (image, image, 3), np.uint8), "state": Box(-1, 1, (4,), np.float32)})
        self._pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, image, image, 3), np.uint8)
        self._median_s, self._sigma = step_ms / 1000, sigma

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        super().reset(seed=seed)
        return self._show(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        time.sleep(self.np_random.lognormal(math.log(self._median_s), self._sigma))
        return self._show(), 0.0, False, False, {}

    def _show(self) -> dict[str, NDArray[Any]]:
        state = self.np_random.uniform(-1, 1, 4).astype(np.float32)
        return {"corner3": self._pictures[int(self.np_random.integers(PICTURES))].copy(), "state": state}
