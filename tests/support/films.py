"""Films of made-up episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.observability.film import Film
from rlvla3.types import Finished, Ticket


def film(index: int = 0, success: bool = True, when: str = "train", update: int | None = 1, decisions: int = 3, side: int = 8) -> Film:
    """Two cameras, chunks of 2 actions with 4 numbers. Rewards are 1 a step, and values 0, 1, 2, ..."""
    ticket = Ticket(index, "reach-v3", seed=index, group=index)
    finished = Finished(ticket, decisions, 2 * decisions, success, return_=2.0 * decisions, oldest=4, newest=5)
    frames = np.arange(decisions * side * side * 3, dtype=np.uint8).reshape(decisions, side, side, 3)
    arrays: dict[str, NDArray[Any]] = {
        "state": np.full((decisions, 3), 0.5, np.float32),
        "elapsed": np.linspace(0, 1, decisions, dtype=np.float32),
        "actions": np.full((decisions, 2, 4), 1.5, np.float32),
        "rewards": np.ones((decisions, 2), np.float32),
        "executed": np.full(decisions, 2, np.int16),
        "dimensions": np.full(decisions, 4, np.int16),
        "value": np.arange(decisions, dtype=np.float32),
        "version": np.full(decisions, 5, np.int32),
    }
    texts = ["reach the goal" if row < decisions - 1 else "stop" for row in range(decisions)]
    return Film(when, finished, {"front": frames, "wrist": frames[:, : side // 2]}, arrays, texts, update)
