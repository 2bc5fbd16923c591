"""From samples to costs: arithmetic on arrays, nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.observability.sampling import slept
from rlvla3.runtimes.virtual.costs import NOTHING, Cost, On

QUANTILES = 100
"""Equal parts that a distribution is kept in."""

APART = 1.25
"""Sizes that are nearer than this factor are taken for one: between them noise would pass for a slope, and be extrapolated."""

FEWEST = 3
"""Samples that a size needs, where any has so many."""

DIGITS, MICRO = 6, 6
"""Significant ones of a figure; and decimals of a wait, which is the rest of a difference and no better than a microsecond."""


def cost_of(samples: NDArray[Any], on: On, around: float = 0.0) -> Cost:
    """What a call costs, by its size: work and, apart from it, sleeping. On a device the whole call is the device's work.

    around: seconds of work on the cores that every call needs besides.
    """
    if not len(samples):
        return NOTHING
    seconds = samples["work"] if on == "cores" else samples["wall"] - samples["delay"]
    waits = slept(samples) if on == "cores" else np.zeros(len(samples))
    sizes, work = by_size(np.maximum(samples["size"], 1), seconds)
    return Cost(
        on=on,
        sizes=rounded(sizes),
        seconds=rounded(second + around for second in work),
        waits=round(float(waits.mean()), MICRO),
    )


def by_size(sizes: NDArray[Any], seconds: NDArray[Any]) -> tuple[list[float], list[float]]:
    """Mean size and mean seconds of each group of sizes that are alike; a cost that is linear in the size stays exactly that."""
    groups: list[list[float]] = []
    counted = [(float(size), float(seconds[sizes == size].sum()), int((sizes == size).sum())) for size in np.unique(sizes)]
    enough = [entry for entry in counted if entry[2] >= FEWEST] or counted
    first = 0.0
    for size, total, count in enough:
        if groups and size < first * APART:
            groups[-1] = [groups[-1][0] + size * count, groups[-1][1] + total, groups[-1][2] + count]
        else:
            groups.append([size * count, total, count])
            first = size
    return [group[0] / group[2] for group in groups], [group[1] / group[2] for group in groups]


def differences(samples: NDArray[Any]) -> NDArray[np.float64]:
    """How much longer than their mean calls of the commonest size take, with nobody waiting for a core: ratios [n]."""
    alike = samples[samples["size"] == np.bincount(samples["size"]).argmax()]
    seconds: NDArray[np.float64] = alike["work"] + slept(alike)
    seconds /= seconds.mean()
    return seconds


def spread_of(seconds: NDArray[Any]) -> list[float]:
    """How calls differ, as Cost.spread has it: quantiles over the mean. The last is set so that the slowest part keeps its mean, and with it the tail its
    weight: with the maximum there, a straight line to it would make slow calls too many. Empty where there are too few calls to tell.
    """
    if len(seconds) < QUANTILES:
        return []
    quantiles = np.quantile(seconds, np.linspace(0, 1, QUANTILES + 1))
    slowest = seconds[seconds >= quantiles[-2]]
    quantiles[-1] = max(2 * slowest.mean() - quantiles[-2], quantiles[-2])
    between = (quantiles[1:] + quantiles[:-1]) / 2
    return rounded(quantiles / between.mean()) if between.mean() > 0 else []


def per_call(samples: NDArray[Any], calls: int) -> float:
    """Seconds of work in all of `samples`, for each of `calls`."""
    return float(samples["work"].sum()) / max(calls, 1)


def fit_cost(samples: NDArray[Any], decisions: Sequence[int], kept: int, on: On) -> Cost:
    """What an update ends with, in proportion to the decisions of the last `kept` updates, which it goes over; the first update is no example.

    samples: one for each update; decisions: of each update. Early updates have less to go over than the settled run that a cost is for.
    """
    rates = [
        float(sample["work"] if on == "cores" else sample["wall"] - sample["delay"]) / sum(decisions[max(update - kept + 1, 0) : update + 1])
        for update, sample in zip(range(len(decisions)), samples, strict=False)
    ][1:]
    return Cost(on=on, seconds=[_round(float(np.mean(rates)) * kept)]) if rates else NOTHING


def speeds(measured: Sequence[tuple[int, float]]) -> list[float]:
    """Work a second with 1, 2, ... jobs at once, from (jobs, CPU seconds of a round of the same work), linear between; never less than with fewer jobs."""
    alone = measured[0][1]
    jobs = [count for count, _ in measured]
    together = np.maximum.accumulate([min(count * alone / seconds, count) for count, seconds in measured])
    return rounded(np.interp(range(1, jobs[-1] + 1), jobs, together))


def doublings(most: int) -> Iterator[int]:
    """1, 2, 4, ... and `most`."""
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most


def rounded(values: Any) -> list[float]:
    """To as many digits as a measurement is worth."""
    return [_round(float(value)) for value in values]


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
