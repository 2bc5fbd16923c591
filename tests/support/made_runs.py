"""Run directories that are made up: as long, as good and as damaged as a test needs them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rlvla3.config import make_recipe, write_recipe
from rlvla3.observability.intervals import wilson

RECIPE: dict[str, Any] = {
    "simulator": {"name": "metaworld", "tasks": ["push-v3", "reach-v3"], "shards": 3},
    "training": {"updates": 60, "batch": 16},
    "evaluation": {"every": 10},
}


def rate(successes: int, episodes: int, per_task: dict[str, Any] | None = None) -> dict[str, Any]:
    low, high = wilson(successes, episodes)
    plain = {"successes": successes, "episodes": episodes, "low": low, "high": high, "mean_return": successes / max(episodes, 1), "mean_steps": 40.0}
    return plain | ({"per_task": per_task} if per_task else {})


def update_line(
    number: int, updates: int = 60, seed: int = 0, success: float | None = None, waits: float = 0.3, rerun: int = 0, shards: int = 3
) -> dict[str, Any]:
    """The line of an update. success: the rate of its 16 episodes. waits: the share of time in which shards wait for a decision."""
    draw = np.random.default_rng((seed, number))
    chance = number / updates if success is None else success
    push, reach = int(draw.binomial(8, chance)), int(draw.binomial(8, min(1.5 * chance, 1.0)))
    shard = {"busy": {"simulate": 0.9 - waits, "overhead": 0.05}, "idle": {"decision": waits, "ticket": 0.05}}
    return {
        "seconds": 20.0 + 5.0 * number,
        "event": "update",
        "update": number,
        "updates": updates,
        "rollouts": rate(push + reach, 16, {"push-v3": rate(push, 8), "reach-v3": rate(reach, 8)}),
        "learner": {"policy_loss": float(draw.normal()), "approx_kl": 0.01, "ratio_p05": 0.9, "ratio_p50": 1.0, "ratio_p95": 1.1, "entropy": 1.0},
        "environment_steps": 640 * number,
        "throughput": 128.0 + float(draw.normal()),
        "staleness": {"0": 4, "1": 12},
        "tickets": {"issued": 16 * number + 8, "trained": 16 * number, "rerun": rerun, "set_aside": 0},
        "workers": [
            *({"name": f"shard {row}", **shard} for row in range(shards)),
            {"name": "generator 0", "busy": {"infer": 0.6}, "idle": {"requests": 0.4}},
            {"name": "trainer", "busy": {"train": 0.2, "publish": 0.05}, "idle": {"trajectories": 0.75}},
        ],
        "batching": [{"max_batch": 8.0, "max_wait_ms": 2.0, "inference_of_1_ms": 5.0, "inference_each_ms": 1.0, "expected_batch": 2.5, "expected_rate": 90.0}],
        "wall_seconds": 5.0 * number,
    }


def lines(updates: int = 60, **options: Any) -> Iterator[dict[str, Any]]:
    """The lines of a run that has finished. options: as `update_line` has them."""
    yield {"seconds": 0.5, "event": "notice", "text": "drawing: OSMesa on the CPU"}
    yield {"seconds": 1.0, "event": "phase", "phase": "train", "total": updates}
    for number in range(1, updates + 1):
        yield update_line(number, updates, **options)
        if number % 10 == 0:
            successes = int(32 * (number / updates if options.get("success") is None else options["success"]))
            yield {"seconds": 21.0 + 5.0 * number, "event": "evaluation", "when": "during", "version": number, **rate(successes, 32)}


def write_lines(folder: Path, found: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
    """Append to metrics.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in found)


def make_run(folder: Path, updates: int = 60, ended: str = "finished", settings: dict[str, Any] | None = None, **options: Any) -> Path:
    """A run directory. settings: sections of its recipe that differ from RECIPE; None leaves one out. options: as `update_line` has them."""
    folder.mkdir(parents=True)
    recipe = {section: found for section, found in (RECIPE | (settings or {})).items() if found is not None}
    write_recipe(make_recipe(recipe), folder / "config.yaml")
    write_lines(folder, lines(updates, **options))
    (folder / "summary.json").write_text(json.dumps({"ended": ended}))
    return folder
