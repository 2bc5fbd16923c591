"""What generators have chosen with `engine.max_batch: auto`, for metrics and trace. It is in shared memory: generators write it, the coordinator reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from rlvla3.scheduling.limits import Choice
from rlvla3.shared_memory import SharedArrays
from rlvla3.types import Field

FIGURES = ("max_batch", "max_wait_ms", "inference_of_1_ms", "inference_each_ms", "expected_batch", "expected_rate")
"""The limits (inf where there is none); the time of an inference of one decision, and of each further one; and what the model of the queue expects: decisions
in an inference, and decisions per second."""


class BatchingChoices:
    """The present choice of each generator."""

    def __init__(self, generators: int) -> None:
        self._arrays = SharedArrays({"figures": Field((generators, len(FIGURES)), np.float64)})
        self._figures[:] = np.nan
        self._written: Choice | None = None

    def write(self, generator: int, choice: Choice | None) -> None:
        """A generator has this choice now. None: its limits are fixed, or it has not chosen yet."""
        if choice is self._written or choice is None:
            return
        self._written = choice
        limits, cost, predicted = choice.limits, choice.cost, choice.prediction
        milliseconds = 1000 * limits.max_wait, 1000 * cost.of(1), 1000 * cost.each
        self._figures[generator] = limits.max_batch, *milliseconds, predicted.batch, predicted.rate

    def read(self) -> list[dict[str, float]]:
        """The figures of each generator, by name. Empty for a generator that has not chosen."""
        return [{} if np.isnan(row[0]) else dict(zip(FIGURES, row.tolist(), strict=True)) for row in self._figures]

    @property
    def _figures(self) -> NDArray[np.float64]:
        figures: NDArray[np.float64] = self._arrays["figures"]
        return figures


def by_name(batching: Iterable[Mapping[str, float | None]]) -> dict[str, list[float | None]]:
    """Each figure of all generators that have chosen. None where one has no such limit, or does not say."""
    chosen = [figures for figures in batching if figures]
    return {name: [figures.get(name) for figures in chosen] for name in FIGURES} if chosen else {}
