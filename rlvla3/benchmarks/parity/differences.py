"""Full_async less sync at equal environment steps, and how sure one can be of it.

Each run becomes one number, its mean success or return over a range of environment steps; full_async and sync are compared seed by seed, since a seed's
tickets are the same in both. Two intervals say how sure the mean over the seeds is:
- over seeds: Student's t on the differences of the seeds. Whatever makes runs differ is in it, the chance in each episode among the rest, so this is the one
  to judge by; three seeds make it wide.
- of episodes: what would be left if seeds differed by the chance in their episodes alone. An interval over seeds far below it was lucky.
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
"""Which of the environment steps that all runs of a comparison cover are averaged over, by the share at which they begin: how fast, and how far."""

STUDENT_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""The 97.5 % quantile of Student's t with 1 to 30 degrees of freedom (NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2)."""


@dataclass(frozen=True, slots=True)
class Difference:
    """begin, end: the range of environment steps. sync, full_async: means over the seeds; seeds: full_async - sync of each.

    over_seeds, of_episodes: half the width of the two 95 % intervals around `mean`; None where there is too little to know it.
    episodes: that fall in the range, of sync and of full_async. staleness: mean of full_async's episodes, in updates.
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
        """Whether the interval over seeds holds 0: the difference is less than what one can be sure of."""
        return None if self.over_seeds is None else abs(self.mean) <= self.over_seeds


def difference(sync: Sequence[Curve], full_async: Sequence[Curve], measure: Measure, begins: float) -> Difference:
    """Over the environment steps that all of these runs cover, from the share `begins` of them on. sync, full_async: one curve a seed, in the same order."""
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
    """Half the width of the 95 % t interval around the mean of `values`; None for fewer than two. Above 31 values it is a little too wide."""
    if len(values) < 2:
        return None
    return STUDENT_T[min(len(values) - 1, len(STUDENT_T)) - 1] * stdev(values) / sqrt(len(values))


def variance_of_mean(curve: Curve, begin: float, end: float, measure: Measure) -> float | None:
    """The variance that chance in the episodes gives to a run's mean over [begin, end] environment steps.

    Success: binomial, with two successes and two failures added (Agresti and Coull), so that it does not vanish where all succeed.
    Return: the records have means of updates alone; their variance is half the mean square of their successive differences (von Neumann), in which a trend
    cancels. None with fewer than two updates in the range.
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
    """Episodes in the range; of an update that is partly in it, that part."""
    lengths = [np.diff(curve.steps, prepend=0.0) for curve in curves]
    return round(sum(float(np.sum(curve.episodes * shares(curve, begin, end) * (end - begin) / length)) for curve, length in zip(curves, lengths, strict=True)))
