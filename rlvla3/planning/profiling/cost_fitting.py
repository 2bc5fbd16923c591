"""From samples to costs. This file has only arithmetic on arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.observability.sampling import seconds_asleep
from rlvla3.runtimes.virtual.costs import NOTHING, Cost, On

QUANTILES = 100
"""A distribution is stored as the bounds of so many parts of equal probability."""

MIN_SIZE_RATIO = 1.25
"""Sizes that differ by less than this factor are merged. Otherwise noise between them would look like a slope and be extrapolated."""

MIN_SAMPLES = 3
"""Sizes with fewer samples are left out, if any size has so many."""

DIGITS, WAIT_DECIMALS = 6, 6
"""DIGITS: significant digits of a figure. WAIT_DECIMALS: decimals of a wait in seconds; it is a difference of measurements and no better than a microsecond."""


def cost_of(samples: NDArray[Any], on: On, around: float = 0.0) -> Cost:
    """The cost of a call by its size. On the cores, work and sleep are separate. On a device, the whole call is the device's work.

    around: additional seconds of work on the cores for every call.
    """
    if not len(samples):
        return NOTHING
    seconds = samples["work"] if on == "cores" else samples["wall"] - samples["delay"]
    waits = seconds_asleep(samples) if on == "cores" else np.zeros(len(samples))
    sizes, work = by_size(np.maximum(samples["size"], 1), seconds)
    return Cost(
        on=on,
        sizes=rounded(sizes),
        seconds=rounded(second + around for second in work),
        waits=round(float(waits.mean()), WAIT_DECIMALS),
    )


def by_size(sizes: NDArray[Any], seconds: NDArray[Any]) -> tuple[list[float], list[float]]:
    """The mean size and the mean seconds of each group of similar sizes. A cost that is linear in the size stays exactly linear."""
    groups: list[list[float]] = []
    counted = [(float(size), float(seconds[sizes == size].sum()), int((sizes == size).sum())) for size in np.unique(sizes)]
    enough = [entry for entry in counted if entry[2] >= MIN_SAMPLES] or counted
    first = 0.0
    for size, total, count in enough:
        if groups and size < first * MIN_SIZE_RATIO:
            groups[-1] = [groups[-1][0] + size * count, groups[-1][1] + total, groups[-1][2] + count]
        else:
            groups.append([size * count, total, count])
            first = size
    return [group[0] / group[2] for group in groups], [group[1] / group[2] for group in groups]


def relative_durations(samples: NDArray[Any]) -> NDArray[np.float64]:
    """The durations of the calls of the most frequent size, divided by their mean: [n]. Time spent waiting for a core is not counted."""
    most_frequent = samples[samples["size"] == np.bincount(samples["size"]).argmax()]
    seconds: NDArray[np.float64] = most_frequent["work"] + seconds_asleep(most_frequent)
    seconds /= seconds.mean()
    return seconds


def spread_of(seconds: NDArray[Any]) -> list[float]:
    """The distribution of calls as Cost.spread: quantiles, divided by the mean. Empty if there are too few calls.

    The last value is not the maximum. It is chosen so that the slowest part keeps its mean: a straight line to the maximum would make slow calls too frequent.
    """
    if len(seconds) < QUANTILES:
        return []
    quantiles = np.quantile(seconds, np.linspace(0, 1, QUANTILES + 1))
    slowest = seconds[seconds >= quantiles[-2]]
    quantiles[-1] = max(2 * slowest.mean() - quantiles[-2], quantiles[-2])
    between = (quantiles[1:] + quantiles[:-1]) / 2
    return rounded(quantiles / between.mean()) if between.mean() > 0 else []


def per_call(samples: NDArray[Any], calls: int) -> float:
    """The seconds of work in all `samples`, divided by the number of `calls`."""
    return float(samples["work"].sum()) / max(calls, 1)


def fit_cost(samples: NDArray[Any], decisions: Sequence[int], kept: int, on: On) -> Cost:
    """The cost of the critic's fit at the end of an update, in proportion to the update's decisions.

    samples: one per update. decisions: the decisions of each update. kept: the fit goes over the decisions of so many last updates. Early updates have fewer,
    so each sample is divided by the decisions that it went over. The first update is left out.
    """
    rates = [
        float(sample["work"] if on == "cores" else sample["wall"] - sample["delay"]) / sum(decisions[max(update - kept + 1, 0) : update + 1])
        for update, sample in zip(range(len(decisions)), samples, strict=False)
    ][1:]
    return Cost(on=on, seconds=[_round(float(np.mean(rates)) * kept)]) if rates else NOTHING


def core_throughputs(measured: Sequence[tuple[int, float]]) -> list[float]:
    """Work per second with 1, 2, ... jobs at once, from pairs (jobs, CPU seconds of a round of the same work).

    It is linear between the measured numbers of jobs, and never less than with fewer jobs.
    """
    alone = measured[0][1]
    jobs = [count for count, _ in measured]
    together = np.maximum.accumulate([min(count * alone / seconds, count) for count, seconds in measured])
    return rounded(np.interp(range(1, jobs[-1] + 1), jobs, together))


def powers_of_two_up_to(most: int) -> Iterator[int]:
    """The powers of two below `most`, and `most`: 1, 2, 4, ..., `most`."""
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most


def rounded(values: Any) -> list[float]:
    """The values with DIGITS significant digits."""
    return [_round(float(value)) for value in values]


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
