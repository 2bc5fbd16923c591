"""A run's learning curve: success or return against environment steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Measure = Literal["success", "return"]
Floats = NDArray[np.float64]

WINDOW = 5
"""A smoothed curve averages over so many updates."""

GRID = 200
"""The number of points in a smoothed curve of several seeds."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The curve of one run, with one entry per update.

    steps: [updates], environment steps of all episodes trained on until the end of the update. episodes: [updates], episodes of the update. values: [updates],
    the share of these episodes that succeeded, or their mean return. staleness: the mean over the run's episodes, in updates.
    """

    steps: Floats
    episodes: Floats
    values: Floats
    staleness: float


def read_curve(records: Sequence[Mapping[str, Any]], measure: Measure) -> Curve:
    """The curve in the records of a metrics.jsonl. There must be at least one update."""
    updates = [record for record in records if record["event"] == "update"]
    rollouts = [update["rollouts"] for update in updates]
    episodes = np.array([rollout["episodes"] for rollout in rollouts], float)
    values = np.array([rollout["mean_return"] for rollout in rollouts], float) if measure == "return" else _column(rollouts, "successes") / episodes
    lags = [(int(lag), count) for update in updates for lag, count in update["staleness"].items()]
    return Curve(
        steps=_column(updates, "environment_steps"),
        episodes=episodes,
        values=values,
        staleness=sum(lag * count for lag, count in lags) / max(sum(count for _, count in lags), 1),
    )


def shares(curve: Curve, begin: float, end: float) -> Floats:
    """The share of the range [begin, end] of environment steps that each update's episodes fill: [updates]. They sum to 1 if the run covers the range."""
    starts = np.concatenate([[0.0], curve.steps[:-1]])
    overlap: Floats = np.minimum(curve.steps, end) - np.maximum(starts, begin)
    return overlap.clip(min=0.0) / (end - begin)


def smoothed(curve: Curve, window: int = WINDOW) -> tuple[Floats, Floats]:
    """The environment steps in the middle of every `window` successive updates, and the mean over their episodes: two arrays [updates - window + 1]."""
    window = min(window, len(curve.steps))
    starts = np.concatenate([[0.0], curve.steps])
    ones = np.ones(window)
    values = np.convolve(curve.values * curve.episodes, ones, "valid") / np.convolve(curve.episodes, ones, "valid")
    return (starts[:-window] + starts[window:]) / 2, values


def over_seeds(curves: Sequence[Curve], window: int = WINDOW) -> tuple[Floats, Floats]:
    """Smoothed curves at the same environment steps, which all of them cover: steps [GRID], values [seeds, GRID]. They are interpolated linearly."""
    lines = [smoothed(curve, window) for curve in curves]
    steps = np.linspace(max(line[0][0] for line in lines), min(line[0][-1] for line in lines), GRID)
    return steps, np.stack([np.interp(steps, *line) for line in lines])


def _column(records: Sequence[Mapping[str, Any]], key: str) -> Floats:
    return np.array([record[key] for record in records], float)
