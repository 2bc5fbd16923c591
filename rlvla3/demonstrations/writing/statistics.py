"""The statistics of arrays, under lerobot's names: min, max, mean, std, count, and quantiles q01, q10, q50, q90 and q99.

Invariant: all of them are exact, over all frames. (lerobot's own writer looks at some of the frames, and estimates quantiles from a histogram of 5000 bins.)
Quantiles are interpolated linearly, as numpy's are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)

Statistics = dict[str, list[Any]]


def statistics(values: NDArray[Any]) -> Statistics:
    """The statistics of vectors [n, d], for each of their d numbers. n: 1 or more."""
    values = values.astype(np.float64)
    found = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return {name: array.tolist() for name, array in (found | dict(zip(QUANTILES, quantiles, strict=True))).items()} | {"count": [len(values)]}


class PixelCounts:
    """How often each of the 256 values of a pixel came, in each of three channels. A frame is uint8 [H, W, 3]."""

    def __init__(self) -> None:
        self.frames = 0
        self._counts = np.zeros((3, 256), np.int64)

    def add(self, frame: NDArray[np.uint8]) -> None:
        self.frames += 1
        for channel in range(3):
            self._counts[channel] += np.bincount(frame[..., channel].ravel(), minlength=256)

    def merge(self, other: PixelCounts) -> None:
        self.frames += other.frames
        self._counts += other._counts

    def statistics(self) -> Statistics:
        """Of the channels, as lerobot writes them: values in [0, 1], [3, 1, 1]. count: of frames."""
        values, numbers = np.arange(256) / 255, self._counts.sum(1)
        mean = self._counts @ values / numbers
        deviation = np.sqrt(np.sum(self._counts * (values - mean[:, None]) ** 2, axis=1) / numbers)
        ends = [values[np.flatnonzero(channel)[[0, -1]]] for channel in self._counts]
        found = {"min": [low for low, _ in ends], "max": [high for _, high in ends], "mean": mean, "std": deviation}
        found |= {name: [self._quantile(channel, share) for channel in self._counts] for name, share in QUANTILES.items()}
        return {name: np.reshape(array, (3, 1, 1)).tolist() for name, array in found.items()} | {"count": [self.frames]}

    def _quantile(self, counts: NDArray[np.int64], share: float) -> float:
        place = share * (counts.sum() - 1)
        below, above = np.searchsorted(counts.cumsum(), [np.floor(place), np.ceil(place)], side="right")
        return float(below + (place % 1) * (above - below)) / 255
