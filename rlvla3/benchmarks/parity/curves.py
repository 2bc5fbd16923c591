"""What a run's updates say of its learning, against environment steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Measure = Literal["success", "return"]
Floats = NDArray[np.float64]

WINDOW = 5
"""Updates that a smoothed curve averages over."""

GRID = 200
"""Points of a smoothed curve of several seeds."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One run, an entry an update.

    steps: environment steps [updates] of all episodes trained on by the end of the update. episodes: of the update [updates].
    values: [updates] the share of its episodes that succeeded, or their mean return. staleness: mean over the run's episodes, in updates.
    """

    steps: Floats
    episodes: Floats
    values: Floats
    staleness: float


def read_curve(records: Sequence[Mapping[str, Any]], measure: Measure) -> Curve:
    """The curve in the lines of a metrics.jsonl that holds one update at least."""
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
    """How much of [begin, end] environment steps each update's episodes fill: [updates], 1 in all where the run covers the range."""
    starts = np.concatenate([[0.0], curve.steps[:-1]])
    overlap: Floats = np.minimum(curve.steps, end) - np.maximum(starts, begin)
    return overlap.clip(min=0.0) / (end - begin)


def smoothed(curve: Curve, window: int = WINDOW) -> tuple[Floats, Floats]:
    """The mean over the episodes of every `window` updates in a row, and the environment steps in the middle of these: two [updates - window + 1]."""
    window = min(window, len(curve.steps))
    starts = np.concatenate([[0.0], curve.steps])
    ones = np.ones(window)
    values = np.convolve(curve.values * curve.episodes, ones, "valid") / np.convolve(curve.episodes, ones, "valid")
    return (starts[:-window] + starts[window:]) / 2, values


def over_seeds(curves: Sequence[Curve], window: int = WINDOW) -> tuple[Floats, Floats]:
    """Smoothed curves brought to the environment steps that all of them cover: steps [GRID], values [seeds, GRID]. Between two points they are straight."""
    lines = [smoothed(curve, window) for curve in curves]
    steps = np.linspace(max(line[0][0] for line in lines), min(line[0][-1] for line in lines), GRID)
    return steps, np.stack([np.interp(steps, *line) for line in lines])


def _column(records: Sequence[Mapping[str, Any]], key: str) -> Floats:
    return np.array([record[key] for record in records], float)
