"""Confidence intervals of success rates."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import hypot, sqrt
from statistics import NormalDist, fmean

from rlvla3.observability.events import SuccessRate
from rlvla3.types import Finished

Z95 = NormalDist().inv_cdf(0.975)


def wilson(successes: float, episodes: float, z: float = Z95) -> tuple[float, float]:
    """The 95 % Wilson score interval of a rate, as shares in [0, 1]. It is (0, 1) where there is no episode. z: the normal quantile of another level.

    Unlike the normal approximation, it stays within [0, 1] and does not collapse at 0 of n and n of n, where policies often begin and end.
    Raises ValueError unless 0 <= successes <= episodes.
    """
    if not 0 <= successes <= episodes:
        raise ValueError(f"{successes} successes of {episodes} episodes: give 0 <= successes <= episodes")
    if episodes == 0:
        return 0.0, 1.0
    rate, spread = successes / episodes, z**2 / episodes
    centre = (rate + spread / 2) / (1 + spread)
    reach = sqrt(rate * (1 - rate) * spread + spread**2 / 4) / (1 + spread)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def difference(before: tuple[float, float], after: tuple[float, float], z: float = Z95) -> tuple[float, float]:
    """The 95 % interval of the rate `after` less the rate `before`, in [-1, 1]. Each is given as (successes, episodes). z: as in `wilson`.

    It is made of the two Wilson intervals (Newcombe, Statistics in Medicine 17, 1998, method 10). Raises ValueError as `wilson` does.
    """
    (low_before, high_before), (low_after, high_after) = wilson(*before, z), wilson(*after, z)
    rate_before, rate_after = (successes / episodes if episodes else 0.5 for successes, episodes in (before, after))
    change = rate_after - rate_before
    return change - hypot(rate_after - low_after, high_before - rate_before), change + hypot(high_after - rate_after, rate_before - low_before)


def student(z: float, degrees: int) -> float:
    """The quantile of Student's t distribution at the level of the normal quantile `z`: wider, because a variance is estimated with so many degrees of freedom.

    It is a series (Abramowitz and Stegun, 26.7.5), exact to about 1 % from 8 degrees on.
    """
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def success_rate(finished: Sequence[Finished]) -> SuccessRate:
    """The success rate of `finished` with its interval, and the same for each task, sorted by name. Tickets that were set aside have no episode."""
    finished = [episode for episode in finished if not episode.set_aside]
    by_task = groupby(sorted(finished, key=_task), key=_task)
    return _rate(finished, {task: _rate(list(episodes), {}) for task, episodes in by_task})


def _task(finished: Finished) -> str:
    return finished.ticket.task


def _rate(finished: Sequence[Finished], per_task: dict[str, SuccessRate]) -> SuccessRate:
    successes = sum(episode.success for episode in finished)
    low, high = wilson(successes, len(finished))
    return SuccessRate(
        successes=successes,
        episodes=len(finished),
        low=low,
        high=high,
        per_task=per_task,
        mean_return=fmean(episode.return_ for episode in finished) if finished else 0.0,
        mean_steps=fmean(episode.steps for episode in finished) if finished else 0.0,
    )
