"""How long answers take: what the terminal and each answer say of it."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from rlvla3.serving.requests import Decided

REMEMBERED = 2048
"""Answers that percentiles are taken of: the newest ones."""

ANEW = 32
"""Percentiles for answers are computed anew after so many of them: sorting takes time in which others wait."""


class Latency:
    """Notes answers. Times are in seconds.

    answered, errors: how many there were. percentiles_ms: the p50 and p99 of answers in milliseconds, NaN before the first one.
    """

    def __init__(self) -> None:
        self.answered, self.errors = 0, 0
        self.percentiles_ms = (math.nan, math.nan)
        self._total: deque[float] = deque(maxlen=REMEMBERED)
        self._inferring: deque[float] = deque(maxlen=REMEMBERED)
        self._batches: deque[int] = deque(maxlen=REMEMBERED)

    def add(self, decided: Decided, total: float) -> None:
        """total: from a message that has come whole to its answer, which is handed to the network."""
        self.answered += 1
        self._total.append(total)
        self._inferring.append(decided.inferring)
        self._batches.append(decided.batch)
        if self.answered < ANEW or self.answered % ANEW == 0:
            self.percentiles_ms = _percentiles_ms(self._total)

    def in_words(self) -> str:
        """One line for the terminal."""
        errors = f", {self.errors} refused" if self.errors else ""
        if not self._total:
            return f"{self.answered} answers{errors}"
        (p50, p99), (infer50, infer99) = _percentiles_ms(self._total), _percentiles_ms(self._inferring)
        # Each answer of a batch of B notes B, so batches are counted by 1 / B.
        batches = np.array(self._batches)
        return (
            f"{self.answered} answers{errors}; answer p50 {p50:.1f} ms, p99 {p99:.1f} ms; inference p50 {infer50:.1f} ms, p99 {infer99:.1f} ms; "
            f"batches of {len(batches) / (1 / batches).sum():.1f} on average, {batches.max()} at most"
        )


def _percentiles_ms(seconds: deque[float]) -> tuple[float, float]:
    p50, p99 = np.percentile(np.array(seconds), [50, 99])
    return 1000 * float(p50), 1000 * float(p99)
