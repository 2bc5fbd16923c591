"""An environment whose episodes all have the same length, so that the steps of a run can be foretold. It obeys orders (orders.py). Without torch."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from rlvla3.benchmarks.chaos.orders import obey, obey_all_the_time

LENGTH = 6
"""Steps of every episode."""

obey_all_the_time()


class World(gymnasium.Env[NDArray[np.float32], int]):
    """Ends after LENGTH steps. The reward of an action is the action. Places of orders: build, reset, step, close."""

    observation_space: Any = Box(-1, 1, (3,), np.float32)
    action_space: Any = Discrete(2)

    def __init__(self) -> None:
        obey("build")
        self._left = LENGTH

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        obey("reset")
        self._left = LENGTH
        return self._look(), {}

    def step(self, action: int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        ordered = obey("step")
        self._left -= 1
        over = self._left == 0
        return self._look(), float("nan") if ordered == "nan" else float(action), over, False, {"success": over}

    def close(self) -> None:
        obey("close")

    def _look(self) -> NDArray[np.float32]:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)
