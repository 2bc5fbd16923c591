"""What an inference costs by its size: a line, fitted to the inferences that a generator has measured."""

from __future__ import annotations

from typing import NamedTuple

MEMORY = 0.95
"""The weight of an inference is so many times smaller after each later one. So about the last 20 inferences count."""

SPREAD = 0.05
"""Sizes that differ by less than this share of their mean say nothing about the slope."""


class InferenceCost(NamedTuple):
    """Seconds of an inference of B decisions: fixed + each B."""

    fixed: float
    each: float

    def of(self, size: float) -> float:
        """Seconds of an inference of `size` decisions."""
        return self.fixed + self.each * size


class CostCurve:
    """Fits the cost by least squares, newer inferences with more weight. So it follows a change of the policy, or a neighbour on the device."""

    def __init__(self) -> None:
        self._weight = self._size = self._seconds = self._size_size = self._size_seconds = 0.0
        self._grows = 0.0  # each / fixed, as it was last seen

    def add(self, size: int, seconds: float) -> None:
        """An inference of `size` decisions took `seconds`."""
        self._weight = self._weight * MEMORY + 1
        self._size = self._size * MEMORY + size
        self._seconds = self._seconds * MEMORY + seconds
        self._size_size = self._size_size * MEMORY + size * size
        self._size_seconds = self._size_seconds * MEMORY + size * seconds
        self._look_at_growth()

    def line(self) -> InferenceCost:
        """The cost. Call it after the first `add`.

        While all inferences have about the same size, the line has the shape that was seen before. If none was, an inference of one costs as much as one of
        many: the guess that is soon put right, because it makes batches large.
        """
        size, seconds = self._size / self._weight, self._seconds / self._weight
        fixed = seconds / (1 + self._grows * size)
        return InferenceCost(fixed, self._grows * fixed)

    def _look_at_growth(self) -> None:
        """Fit the slope, if the sizes of the last inferences say something about it."""
        size, seconds = self._size / self._weight, self._seconds / self._weight
        variance = self._size_size / self._weight - size * size
        if variance > (SPREAD * size) ** 2:
            slope = (self._size_seconds / self._weight - size * seconds) / variance
            each = min(max(slope, 0.0), 0.999 * seconds / size)  # neither part is below 0, and something is fixed
            self._grows = each / (seconds - each * size) if seconds else 0.0
