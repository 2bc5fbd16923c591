"""Whether a run learns: the difference of two success rates, or of two mean returns, with its 95 % interval.

Evaluations are compared where there are two: they have no exploration noise. Otherwise, the first quarter of the updates is compared with the last one.

Invariants: of a policy that does not change,
- no more than about 5 % of runs are said to learn or to get worse. Episodes of a group share an initial state, so they are alike, and count for fewer;
- no more than about 5 % of runs are said to fall on the way, however many pairs of parts are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from statistics import NormalDist, fmean, stdev
from typing import Any, Literal, NamedTuple

from rlvla3.observability.formatting import episodes_of, number_of, percent
from rlvla3.observability.intervals import Z95, difference, student, wilson
from rlvla3.page.curves import Rate
from rlvla3.page.run_metrics import WHOLE, RunMetrics

JsonObject = Mapping[str, Any]
Verdict = Literal["good", "bad", "open"]

LEAST_UPDATES = 4
"""With fewer updates, a quarter of them is none."""

LEAST_RETURNS = 8
"""The normal approximation of a mean return needs about so many updates on each side."""

LEAST_DEGREES = 8
"""How alike episodes are is estimated with so many degrees of freedom at least."""

PARTS = 12
"""A fall is looked for between so many parts of a run. With more parts, each has fewer episodes, and there are more pairs that may differ by chance."""

ERROR = 0.05
"""The share of runs without any fall that may be said to have one."""

FALL = 0.2
"""A fall is worth a sentence where success is lower by so much, and this is no chance."""

AS_GOOD_AS_SOLVED = 0.9
"""Where the interval of the first rate lies above this, a policy had little left to learn."""


@dataclass(frozen=True, slots=True)
class Change:
    """How a rate or a mean return has changed. low, high: the interval of the difference. solved: whether little is left to learn."""

    low: float
    high: float
    text: str
    solved: bool = False

    @property
    def verdict(self) -> Verdict:
        return "good" if self.low > 0 else "bad" if self.high < 0 else "open"


def learning(metrics: RunMetrics, group_size: int = 1) -> tuple[Verdict, str]:
    """Whether the run learns, as a verdict and a sentence. group_size: training episodes that share an initial state."""
    if not metrics.last and (line := metrics.ends.get("eval")):
        rate = f"success {interval(*_counts(line))} of {episodes_of(line)}"
        return "open", f"This run only measures a policy: {rate}. It trains nothing."
    measured, trained = _evaluations(metrics), list(metrics.rollouts.get(WHOLE, ()))
    if (change := _of_evaluations(measured) or _of_updates(trained, group_size)) is None:
        counted = f"{number_of(metrics.update, 'update')} and {number_of(len(measured), 'evaluation')}"
        return "open", f"Whether it learns cannot be told yet: {counted} are too few to compare."
    match change.verdict:
        case "good":
            return "good", f"It learns: {change.text}."
        case "bad":
            return "bad", f"It gets worse: {change.text}. Lower training.learning_rate, or go on from an earlier checkpoint."
        case _ if change.solved:
            return "good", f"There is little left to learn: {change.text}."
        case _:
            return "open", f"Whether it learns is not certain: {change.text}, and this difference may be chance."


def fall(metrics: RunMetrics, group_size: int = 1) -> tuple[Verdict, str] | None:
    """The deepest fall of success in training, as a verdict and a sentence. It is bad news unless success came back. None where it fell by less than FALL,
    or where this may be chance. The level of the interval is corrected for the number of pairs of parts (Bonferroni). group_size: as in `learning`."""
    ran = list(metrics.rollouts.get(WHOLE, ()))
    width = max(-(-len(ran) // PARTS), 1)
    pieces = [ran[begin : begin + width] for begin in range(0, len(ran), width)]
    if len(pieces) < 2:
        return None
    z = NormalDist().inv_cdf(1 - ERROR / (len(pieces) * (len(pieces) - 1) / 2))
    effect = _design_effect(pieces, group_size, z)
    parts = [_Part(piece[-1].place.update, *_sum(piece, effect)) for piece in pieces]
    deepest, found = 0.0, None
    for number, low in enumerate(parts[1:], 1):
        high = max(parts[:number], key=_share)
        if (change := difference(high[1:], low[1:], z)[1]) < deepest and _share(high) - _share(low) >= FALL:
            deepest, found = change, (high, low, max(map(_share, parts[number + 1 :]), default=0.0))
    if found is None:
        return None
    high, low, later = found
    fell = f"from {interval(*high[1:])} at update {high.update} to {interval(*low[1:])} at update {low.update}"
    way_out = "If this is too unsteady, lower training.learning_rate or training.epochs."
    if later - _share(low) > FALL:
        return "open", f"Training success fell {fell}. Later it came back to {percent(later)}, and the last is {percent(_share(parts[-1]))}. {way_out}"
    return "bad", f"Training success fell {fell}. {way_out}"


class _Part(NamedTuple):
    """Some updates, until `update`, with their counts as _sum has them."""

    update: int
    successes: float
    episodes: float


def _share(part: _Part) -> float:
    return part.successes / part.episodes


def _design_effect(parts: Sequence[Sequence[Rate]], group_size: int, z: float = Z95) -> float:
    """How many episodes count as one (Kish's design effect), 1 at least. parts: the updates of each have about the same rate.

    It is how much more the successes of updates vary than those of independent episodes: Pearson's chi-squared over its degrees of freedom. It is enlarged
    because it is itself estimated (Student's t). Where too few updates tell, the episodes of a group count as one.
    """
    spread, degrees = 0.0, 0
    for part in parts:
        successes, episodes = _sum(part)
        rate = successes / episodes
        if 0 < rate < 1:
            spread += sum((found.successes - found.episodes * rate) ** 2 / (found.episodes * rate * (1 - rate)) for found in part)
            degrees += len(part) - 1
    if degrees < LEAST_DEGREES:
        return float(group_size)
    return max(spread / degrees * (student(z, degrees) / z) ** 2, 1.0)


def _evaluations(metrics: RunMetrics) -> list[tuple[int, int, int]]:
    """(version, successes, episodes) of each evaluation of the run, in the order of versions. Where there are very many, neighbours are one."""
    during = [(rate.place.update, rate.successes, rate.episodes) for rate in metrics.evaluations.get(WHOLE, ())]
    ends = [(line["version"], *_counts(line)) for when, line in metrics.ends.items() if when in ("before", "after") and line["episodes"]]
    return sorted({version: found for found in (*during, *ends) for version in found[:1]}.values())


def _of_evaluations(measured: Sequence[tuple[int, int, int]]) -> Change | None:
    if len(measured) < 2 or not any(successes for _, successes, _ in measured):
        return None  # a line has the mean of the returns, and not their spread
    (first, *before), (last, *after) = measured[0], measured[-1]
    return _of_rates((before[0], before[1]), (after[0], after[1]), _version(first), _version(last))


def _version(number: int) -> str:
    """When the weights of a version were there."""
    return f"after update {number}" if number else "before training"


def _of_updates(ran: Sequence[Rate], group_size: int) -> Change | None:
    """The first and the last quarter of the updates."""
    quarter = len(ran) // LEAST_UPDATES
    if not quarter:
        return None
    first, last = ran[:quarter], ran[-quarter:]
    names = (f"until update {first[-1].place.update}", f"after update {ran[-quarter - 1].place.update}")
    if any(rate.successes for rate in ran) or not any(rate.returns for rate in ran):
        effect = _design_effect((first, last), group_size)
        return _of_rates(_sum(first, effect), _sum(last, effect), *names)
    return _of_returns([rate.returns / rate.episodes for rate in first], [rate.returns / rate.episodes for rate in last], *names)


def _of_rates(before: tuple[float, float], after: tuple[float, float], first: str, last: str) -> Change:
    """`before`, `after`: successes and episodes, as many as they count for."""
    low, high = difference(before, after)
    rates = before[0] / before[1], after[0] / after[1]
    change = f"{_points(rates[1] - rates[0])} points [{_points(low)}, {_points(high)}]"
    text = f"success went from {interval(*before)} {first} to {interval(*after)} {last}, by {change}"
    return Change(low, high, text, solved=wilson(*before)[0] >= AS_GOOD_AS_SOLVED)


def _of_returns(before: Sequence[float], after: Sequence[float], first: str, last: str) -> Change | None:
    """The mean returns of updates. Each side has a variance of its own (Welch). The degrees of freedom are the fewest that are possible, so the interval is not
    too narrow."""
    if min(len(before), len(after)) < LEAST_RETURNS:
        return None
    means = fmean(before), fmean(after)
    reach = student(Z95, min(len(before), len(after)) - 1) * hypot(*(stdev(part) / sqrt(len(part)) for part in (before, after)))
    change = means[1] - means[0]
    text = f"the mean return went from {means[0]:.4g} {first} to {means[1]:.4g} {last}, by {change:+.4g} [{change - reach:+.4g}, {change + reach:+.4g}]"
    return Change(change - reach, change + reach, text)


def _sum(rates: Sequence[Rate], effect: float = 1.0) -> tuple[float, float]:
    """Successes and episodes. effect: how many of them count as one."""
    return sum(rate.successes for rate in rates) / effect, sum(rate.episodes for rate in rates) / effect


def _counts(line: JsonObject) -> tuple[int, int]:
    return min(line["successes"], line["episodes"]), line["episodes"]


def _points(share: float) -> str:
    """A difference in percentage points, with a digit more where it is small: 0.004 -> "+0.4"."""
    return f"{100 * share:+.1f}" if abs(share) < 0.01 else f"{100 * share:+.0f}"


def interval(successes: float, episodes: float) -> str:
    """A rate with its 95 % interval: "57 % [47, 67]"."""
    low, high = wilson(successes, episodes)
    return f"{percent(successes / episodes if episodes else 0.0)} [{100 * low:.0f}, {100 * high:.0f}]"
