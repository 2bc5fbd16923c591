"""What `rlvla3 bench batching` does: it checks the claims of `engine.max_batch: auto` and prints whether each of them holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rlvla3.benchmarks.batching.cost_profiles import draw_profiles
from rlvla3.benchmarks.batching.real import PROFILES, try_for_real
from rlvla3.benchmarks.batching.rehearsed import Trial, run_trials
from rlvla3.observability.figures import write_figures

SLOWEST, MEAN, NEAR, SHARE = 0.98, 1.3, 0.95, 0.95
"""The claims: never below SLOWEST of sync, MEAN times sync in the geometric mean, at least NEAR of the best of the grid in a SHARE of the profiles."""


def main(figures: Path, profiles: int, gridded: int, jobs: int, real_seconds: float) -> None:
    """Rehearse `profiles` profiles, `gridded` of them with the grid, or, if real_seconds is not 0, train so long with each setting of four profiles."""
    trials = list(_for_real(real_seconds)) if real_seconds else run_trials(draw_profiles(profiles), gridded, jobs)
    lines = list(claims(trials))
    write_figures({"claims": lines, "trials": [asdict(trial) for trial in trials]}, figures)
    print("\n".join(lines))


def _for_real(seconds: float) -> Iterator[Trial]:
    for costs in PROFILES:
        trial = try_for_real(costs, seconds)
        print(f"{costs.name}: sync {trial.sync:.0f}, shipped {trial.shipped:.0f}, best of the grid {max(trial.grid.values()):.0f} steps/s", flush=True)
        yield trial


def claims(trials: Sequence[Trial]) -> Iterator[str]:
    """Each claim with what was measured."""
    slowest, old = min(trials, key=lambda trial: trial.ratio_to_sync), min(trials, key=_old_ratio)
    yield _claim(f"never below {SLOWEST} of sync: {slowest.ratio_to_sync:.3f} ({slowest.costs.name})", slowest.ratio_to_sync >= SLOWEST)
    yield f"control, B_max = 8: down to {_old_ratio(old):.3f} of sync, below {SLOWEST} in {sum(_old_ratio(trial) < SLOWEST for trial in trials)} profiles"
    mean = geometric_mean([trial.ratio_to_sync for trial in trials])
    yield _claim(f"geometric mean of {len(trials)} profiles: {mean:.2f} times sync, {MEAN} asked", mean >= MEAN)
    tried = [trial for trial in trials if trial.grid]
    if tried:
        near, worst = sum(trial.ratio_to_best >= NEAR for trial in tried), min(tried, key=lambda trial: trial.ratio_to_best)
        found = f"at least {NEAR} of the best of the grid in {near} of {len(tried)} profiles ({100 * near / len(tried):.1f} %)"
        yield _claim(f"{found}, worst {worst.ratio_to_best:.3f} ({worst.costs.name})", near >= SHARE * len(tried))


def geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _old_ratio(trial: Trial) -> float:
    return trial.old_preset / trial.sync


def _claim(text: str, holds: bool) -> str:
    return f"{'holds' if holds else 'FAILS'}: {text}"
