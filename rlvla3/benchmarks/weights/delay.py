"""How soon a new version is used in a whole run: the time from the end of an update's last optimizer step to the first decision with the new version.

The samples of the trainer's stages give the end of the step and the time at which the version was on the weight plane (observability/sampling.py). The run's
record gives the time and the version of each decision (observability/run_record.py). Both use the machine's monotonic clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvla3.benchmarks.interaction import SLOW_IMAGES, interaction_recipe
from rlvla3.config import Recipe
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.run_record import RunRecord
from rlvla3.observability.sampling import NS, Samples, SamplingBoard
from rlvla3.parts import endless_ledger, training_capacity
from rlvla3.runtimes.local import LocalRuntime
from rlvla3.scheduling.recorded_run import DECISION
from rlvla3.types import Version

UPDATES, WARMUP = 30, 3
NUM_ENVS = 16


def measure_delay(scratch: Path) -> dict[str, Any]:
    """Run the recipe of the interaction benchmark in `full_async`, with its files in the folder `scratch`, and return the delays."""
    recipe = interaction_recipe(SLOW_IMAGES, NUM_ENVS, scratch, "full_async")
    samples, recording = scratch / "samples", RunRecord(scratch / "record")
    samples.mkdir()
    recording.begin(recipe)
    asyncio.run(_train(recipe, scratch, samples, recording))
    trainer = Samples.read(samples)
    decisions = np.concatenate([np.fromfile(path, DECISION) for path in sorted(recording.folder.glob("generator-*.bin"))])
    return delays(trainer.of("trainer", "train"), trainer.of("trainer", "publish"), first_decisions(decisions))


async def _train(recipe: Recipe, scratch: Path, samples: Path, recording: RunRecord) -> None:
    run = RunDirectory.create(scratch / "run", recipe)
    board = partial(SamplingBoard, folder=samples)
    async with LocalRuntime(recipe, run, capacity=training_capacity(recipe), notify=print, board=board, record=recording) as runtime:
        await runtime.guard(_updates(runtime, recipe))


async def _updates(runtime: LocalRuntime, recipe: Recipe) -> None:
    await runtime.ready()
    ledger = endless_ledger(recipe, runtime.rollouts.spec.spaces)
    async for _ in runtime.train(ledger, end=WARMUP + UPDATES):
        pass


def first_decisions(decisions: NDArray[Any]) -> dict[Version, float]:
    """The time in seconds of the first decision with each version. decisions: DECISION [n]."""
    versions, first = np.unique(decisions["version"][(order := np.argsort(decisions["at"], kind="stable"))], return_index=True)
    return dict(zip(versions.tolist(), (decisions["at"][order][first] / NS).tolist(), strict=True))


def delays(train: NDArray[Any], publish: NDArray[Any], decided: Mapping[Version, float]) -> dict[str, Any]:
    """The delays in milliseconds.

    train, publish: the samples of these trainer stages, SAMPLE [n]. The k-th publication is of version k, counted from 1. A sample of `train` with size 0 is an
    optimizer step. Versions of the warm-up are left out, and versions that made no decision: the last one, and those that the next version replaced at once.
    """
    steps = train[train["size"] == 0]["end"]
    rows = []
    for version, published in enumerate(publish, start=1):
        if version > WARMUP and version in decided:
            stepped = steps[steps <= published["end"] - published["wall"] + 1e-6].max()
            rows.append((published["wall"], decided[version] - published["end"], decided[version] - stepped))
    columns = ("publishing", "published_to_decision", "step_to_decision")
    return {"versions": len(rows)} | {name: _summary(1000 * np.array(column)) for name, column in zip(columns, zip(*rows, strict=True), strict=True)}


def _summary(milliseconds: NDArray[np.float64]) -> dict[str, float]:
    return {"median_ms": float(np.median(milliseconds)), "p90_ms": float(np.quantile(milliseconds, 0.9))}
