"""Lines of metrics.jsonl of made-up runs, and run directories with them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlvla3.config import Recipe, make_recipe
from rlvla3.observability.intervals import wilson
from rlvla3.observability.run_directory import RunDirectory

Shares = Mapping[str, Mapping[str, float]]
BUSY_TRAINER: Mapping[str, Shares] = {
    "shard 0": {"busy": {"simulate": 0.2}, "idle": {"ticket": 0.8}},
    "generator 0": {"busy": {"infer": 0.1}, "idle": {"requests": 0.9}},
    "trainer": {"busy": {"train": 1.0}, "idle": {}},
}


def update(number: int, successes: int = 5, episodes: int = 10, workers: Mapping[str, Shares] = BUSY_TRAINER, **changes: Any) -> dict[str, Any]:
    """Update `number` of 40, ten seconds after the one before it."""
    low, high = wilson(successes, episodes)
    return {
        "seconds": 10.0 * number,
        "event": "update",
        "update": number,
        "updates": 40,
        "rollouts": {"successes": successes, "episodes": episodes, "low": low, "high": high, "mean_return": successes / episodes, "mean_steps": 50.0},
        "learner": {"effective_sample_size": 0.9},
        "environment_steps": 500 * number,
        "throughput": 50.0,
        "staleness": {"0": 4, "1": 6},
        "tickets": {"issued": 10 * number + 4, "trained": 10 * number, "rerun": 0, "set_aside": 0},
        "workers": [{"name": name, **shares} for name, shares in workers.items()],
        "batching": [],
        "wall_seconds": 10.0 * number,
    } | changes


def evaluation(when: str, version: int, successes: int, episodes: int = 96, **changes: Any) -> dict[str, Any]:
    low, high = wilson(successes, episodes)
    plain = {"successes": successes, "episodes": episodes, "low": low, "high": high, "mean_return": successes / episodes, "mean_steps": 50.0}
    return {"seconds": 1.0, "event": "evaluation", "when": when, "version": version, **plain} | changes


def notice(text: str) -> dict[str, Any]:
    return {"seconds": 1.0, "event": "notice", "text": text}


def run_of(folder: Path, lines: Iterable[Mapping[str, Any]], recipe: Recipe | None = None, ended: str | None = "finished") -> Path:
    """A run directory with these lines. ended: what its summary says; None for a run without a summary."""
    run = RunDirectory.create(folder, recipe or make_recipe({"training": {"updates": 40, "batch": 4}}))
    run.metrics.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    if ended is not None:
        run.write_summary({"ended": ended})
    return folder


def silent(folder: Path, seconds: float) -> Path:
    """Make it look as if the run had written nothing for so long."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - seconds,) * 2)
    return folder
