"""The difference of full_async minus sync at equal environment steps, with confidence intervals.

Each run gives one number: its mean success or return over a range of environment steps. full_async and sync are compared seed by seed, because both have the
same tickets for a seed. There are two intervals for the mean difference over the seeds:
- over seeds: Student's t on the differences of the seeds. It includes everything that makes runs differ, so judge by this one. With three seeds it is wide.
- of episodes: the interval if seeds differed only by the chance in their episodes. If the interval over seeds is much smaller, this was luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

import numpy as np

from rlvla3.benchmarks.parity.curves import Curve, Measure, shares
from rlvla3.observability.intervals import Z95

RANGES = {"the whole range": 0.0, "its last half": 0.5}
"""The ranges over which a comparison averages: the name, and the share of the common environment steps at which the range begins. The whole range shows how
fast a run learns, the last half how far."""

STUDENT_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""The 97.5 % quantile of Student's t with 1 to 30 degrees of freedom (NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One comparison.

    begin, end: the range of environment steps. sync, full_async: means over the seeds. seeds: full_async - sync for each seed.
    over_seeds, of_episodes: half the width of the two 95 % intervals around `mean`; None if there are too few data.
    episodes: the numbers of episodes of sync and of full_async in the range. staleness: the mean of full_async's episodes, in updates.
    """

    begin: float
    end: float
    sync: float
    full_async: float
    seeds: tuple[float, ...]
    over_seeds: float | None
    of_episodes: float | None
    episodes: tuple[int, int]
    staleness: float

    @property
    def mean(self) -> float:
        return self.full_async - self.sync

    @property
    def within(self) -> bool | None:
        """Whether the interval over seeds contains 0, so that no difference was found. None if there is no interval."""
        return None if self.over_seeds is None else abs(self.mean) <= self.over_seeds


def difference(sync: Sequence[Curve], full_async: Sequence[Curve], measure: Measure, begins: float) -> Difference:
    """Compare the runs over the environment steps that all of them cover, from the share `begins` of these on.

    sync, full_async: one curve per seed, in the same order of seeds.
    """
    end = float(min(curve.steps[-1] for curve in (*sync, *full_async)))
    begin = begins * end
    means = [[float(shares(curve, begin, end) @ curve.values) for curve in curves] for curves in (sync, full_async)]
    per_seed = tuple(theirs - ours for ours, theirs in zip(*means, strict=True))
    chance = [variance_of_mean(curve, begin, end, measure) for curve in (*sync, *full_async)]
    known = [variance for variance in chance if variance is not None]
    return Difference(
        begin=begin,
        end=end,
        sync=fmean(means[0]),
        full_async=fmean(means[1]),
        seeds=per_seed,
        over_seeds=t_half_width(per_seed),
        of_episodes=Z95 * sqrt(sum(known)) / len(per_seed) if len(known) == len(chance) else None,
        episodes=(_episodes(sync, begin, end), _episodes(full_async, begin, end)),
        staleness=fmean(curve.staleness for curve in full_async),
    )


def t_half_width(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % t interval around the mean of `values`; None for fewer than two values. For more than 31 values it is slightly too wide."""
    if len(values) < 2:
        return None
    return STUDENT_T[min(len(values) - 1, len(STUDENT_T)) - 1] * stdev(values) / sqrt(len(values))


def variance_of_mean(curve: Curve, begin: float, end: float, measure: Measure) -> float | None:
    """The variance of a run's mean over [begin, end] environment steps, as far as it comes from the chance in the episodes.

    Success: binomial, with two successes and two failures added (Agresti and Coull), so that the variance is not 0 if all episodes succeed.
    Return: the records have only the mean of each update. Their variance is half the mean square of their successive differences (von Neumann), which cancels a
    trend. None if fewer than two updates are in the range.
    """
    share = shares(curve, begin, end)
    inside = share > 0
    if measure == "success":
        episodes = float(curve.episodes[inside].sum())
        rate = (float(share @ curve.values) * episodes + 2) / (episodes + 4)
        return float(rate * (1 - rate) * np.sum(share[inside] ** 2 / curve.episodes[inside]))
    if inside.sum() < 2:
        return None
    return float(np.mean(np.diff(curve.values[inside]) ** 2) / 2 * np.sum(share**2))


def _episodes(curves: Sequence[Curve], begin: float, end: float) -> int:
    """The number of episodes in the range. An update that is partly in the range counts in part."""
    lengths = [np.diff(curve.steps, prepend=0.0) for curve in curves]
    return round(sum(float(np.sum(curve.episodes * shares(curve, begin, end) * (end - begin) / length)) for curve, length in zip(curves, lengths, strict=True)))
