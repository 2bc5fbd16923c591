"""The sizes of batches that a device computes. A batch of another size is filled up to the next one (padding).

A CUDA graph has one size, and each takes time at the start and memory. So there are few sizes, with at most a third of a batch between two of them. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import count


def sizes_up_to(largest: int) -> tuple[int, ...]:
    """1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, ... and `largest` itself. Raises ValueError for less than 1."""
    if largest < 1:
        raise ValueError(f"the largest batch has {largest} decisions: give 1 or more")
    below = [1, 2, 4]
    for power in count(3):
        below += [2**power, 2**power * 3 // 2]
        if below[-1] >= largest:
            return (*(size for size in below if size < largest), largest)
    raise AssertionError


def size_for(rows: int, sizes: Sequence[int]) -> int:
    """The smallest of `sizes`, which rise, that has room for so many rows. Raises ValueError where none has."""
    place = bisect_left(sizes, rows)
    if place == len(sizes):
        raise ValueError(f"a batch of {rows} decisions is larger than the largest size, {sizes[-1]}")
    return sizes[place]


def padding_seconds(measured: Mapping[int, float]) -> dict[int, float]:
    """What padding costs, for every number of rows up to the largest size: the seconds of its size, less those that it would take by itself.

    measured: the seconds of each size. Between two sizes the time is taken to rise evenly.
    """
    sizes, cost = sorted(measured), {}
    for rows in range(1, sizes[-1] + 1):
        size = size_for(rows, sizes)
        below = max((other for other in sizes if other < size), default=size)
        share = (rows - below) / (size - below) if size > below else 1.0
        cost[rows] = (1 - share) * (measured[size] - measured[below])
    return cost
