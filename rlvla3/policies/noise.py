"""Noise that belongs to a decision, not to a process.

Counter-based (Philox 4x64): the noise of a decision is a function of (run seed, purpose, ticket, decision) and of nothing else, so a ticket gives the same
actions with the same weights in whatever batch, process or order it runs, and again when it is rerun.
Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def decision_noise(seed: int, keys: Sequence[tuple[int, int, int]], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal noise [len(keys), *shape] for decisions named (purpose, ticket, decision)."""
    noise = np.empty((len(keys), *shape), np.float32)
    for row, (purpose, ticket, decision) in zip(noise, keys, strict=True):
        # The counter's lowest word counts draws; decision and purpose stand in the words above it, so no two decisions can overlap.
        bits = np.random.Philox(key=np.array([seed, ticket], np.uint64), counter=np.array([0, decision, purpose, 0], np.uint64))
        np.random.Generator(bits).standard_normal(out=row, dtype=np.float32)
    return noise
