"""An environment that costs next to nothing. With delays on purpose (`simulator.delay`), it is a simulator on another machine, as the engine sees it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import NDArray

PICTURES = 8


class StillEnv(gymnasium.Env[Any, NDArray[np.float32]]):
    """Shows a state of 4 random numbers, and one of PICTURES noise pictures of `image` x `image` pixels (0: no picture). Rewards are 0, and an episode has no
    end: set simulator.max_steps."""

    instruction = "press the button from above"
    action_space = Box(-1, 1, (4,), np.float32)

    def __init__(self, image: int = 0) -> None:
        shown: dict[str, gymnasium.Space[Any]] = {"state": Box(-1, 1, (4,), np.float32)}
        self.observation_space = Dict(({"corner3": Box(0, 255, (image, image, 3), np.uint8)} if image else {}) | shown)
        self._pictures = np.random.default_rng(0).integers(0, 256, (PICTURES, image, image, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        super().reset(seed=seed)
        return self._show(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, NDArray[Any]], float, bool, bool, dict[str, Any]]:
        return self._show(), 0.0, False, False, {}

    def _show(self) -> dict[str, NDArray[Any]]:
        state = self.np_random.uniform(-1, 1, 4).astype(np.float32)
        picture = {"corner3": self._pictures[int(self.np_random.integers(PICTURES))].copy()} if self._pictures.size else {}
        return picture | {"state": state}
