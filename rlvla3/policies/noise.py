"""Sampling noise that depends only on the decision.

Invariant: the noise of a decision is a function of (run seed, purpose, ticket, decision) and of nothing else. The generator is counter-based (Philox 4x64). So
with the same weights, a ticket gives the same actions in any batch, process and order, and again when it is rerun.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def decision_noise(seed: int, keys: Sequence[tuple[int, int, int]], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Standard normal noise [len(keys), *shape]. Each key is a decision: (purpose, ticket, decision)."""
    noise = np.empty((len(keys), *shape), np.float32)
    for row, (purpose, ticket, decision) in zip(noise, keys, strict=True):
        # The lowest word of the counter counts draws. Decision and purpose are the words above it, so the draws of two decisions never overlap.
        bits = np.random.Philox(key=np.array([seed, ticket], np.uint64), counter=np.array([0, decision, purpose, 0], np.uint64))
        np.random.Generator(bits).standard_normal(out=row, dtype=np.float32)
    return noise
