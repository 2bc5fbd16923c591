"""What an inference costs by its size: a line, fitted by least squares to the inferences that a generator has measured."""

from __future__ import annotations

from typing import NamedTuple

LEVEL_MEMORY, SHAPE_MEMORY = 0.95, 0.995
"""The weight of an inference is so many times smaller after each later one. About the last 20 inferences say how slow the device is now, and the last 200 how
an inference grows with its size. A neighbour on the device changes the first within moments, and the second hardly at all."""

SPREAD = 0.05
"""Sizes that differ by less than this share of their mean say nothing about growth."""


class InferenceCost(NamedTuple):
    """Seconds of an inference of B decisions: fixed + each B."""

    fixed: float
    each: float

    def of(self, size: float) -> float:
        """Seconds of an inference of `size` decisions."""
        return self.fixed + self.each * size


class Means:
    """Means over sizes and seconds of inferences, newer ones with more weight."""

    def __init__(self, memory: float) -> None:
        self._memory, self._weight = memory, 0.0
        self.size = self.seconds = self.size_size = self.size_seconds = 0.0

    def add(self, size: int, seconds: float) -> None:
        self._weight = self._weight * self._memory + 1
        for name, value in {"size": size, "seconds": seconds, "size_size": size * size, "size_seconds": size * seconds}.items():
            mean = getattr(self, name)
            setattr(self, name, mean + (value - mean) / self._weight)

    @property
    def variance(self) -> float:
        """Of sizes."""
        return self.size_size - self.size**2

    @property
    def slope(self) -> float:
        """Of seconds over sizes, by least squares."""
        return (self.size_seconds - self.size * self.seconds) / self.variance


class CostCurve:
    """The cost of inference, as a generator has measured it."""

    def __init__(self) -> None:
        self._level, self._shape = Means(LEVEL_MEMORY), Means(SHAPE_MEMORY)
        self._grows = 0.0  # each / fixed

    def add(self, size: int, seconds: float) -> None:
        """An inference of `size` decisions took `seconds`."""
        self._level.add(size, seconds)
        self._shape.add(size, seconds)
        mean = self._shape
        if mean.variance > (SPREAD * mean.size) ** 2 and mean.seconds:
            each = min(max(mean.slope, 0.0), 0.999 * mean.seconds / mean.size)  # neither part is below 0, and something is fixed
            self._grows = each / (mean.seconds - each * mean.size)

    def line(self) -> InferenceCost:
        """The cost now. Call it after the first `add`.

        As long as all inferences have had about the same size, one of a single decision is taken to cost as much as one of many: the guess that is soon put
        right, because it makes batches large.
        """
        fixed = self._level.seconds / (1 + self._grows * self._level.size)
        return InferenceCost(fixed, self._grows * fixed)
