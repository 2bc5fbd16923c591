"""Sampling noise that depends only on the decision.

Invariant: the noise of a decision is a function of (run seed, purpose, ticket, decision) and of nothing else. The generator is counter-based (Philox 4x64). So
with the same weights, a ticket gives the same actions in any batch, process and order, and again when it is rerun.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def decision_noise(seed: int, keys: Sequence[tuple[int, int, int]], shape: tuple[int, ...], out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Standard normal noise [len(keys), *shape]. Each key is a decision: (purpose, ticket, decision).

    out: an array to write it into, of len(keys) rows or more, such as a page-locked one. What is returned is a view of its first rows.
    """
    noise = np.empty((len(keys), *shape), np.float32) if out is None else out[: len(keys)]
    bits = np.random.Philox(key=np.array([seed, 0], np.uint64), counter=np.zeros(4, np.uint64))
    generator, fresh = np.random.Generator(bits), bits.state
    key, counter = fresh["state"]["key"], fresh["state"]["counter"]
    for row, (purpose, ticket, decision) in zip(noise, keys, strict=True):
        # The lowest word of the counter counts draws. Decision and purpose are the words above it, so the draws of two decisions never overlap.
        key[1], counter[1], counter[2] = ticket, decision, purpose
        bits.state = fresh  # this is the state of a new generator with this key and counter, and takes a fraction of the time that a new one takes
        generator.standard_normal(out=row, dtype=np.float32)
    return noise
