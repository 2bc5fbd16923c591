"""How many environment steps a second a run trains on, with its evaluations beside training, if it has any.

Steps count when their update is published. Those of evaluations never do, and neither do the first updates, which fill the pipeline.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvla3.benchmarks.interaction import WARMUP_UPDATES
from rlvla3.config import Recipe
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.parts import beside_capacity, endless_ledger, training_capacity
from rlvla3.policies.trained_on import TrainedOn
from rlvla3.runtimes.beside import EvaluationsBeside
from rlvla3.runtimes.registry import make_runtime
from rlvla3.runtimes.runtime import Runtime
from rlvla3.types import Finished, Version


@dataclass
class TrainedRate:
    """steps_per_second: trained on. evaluated: the versions that were evaluated beside training."""

    steps_per_second: float = 0.0
    evaluated: list[Version] = field(default_factory=list)


async def trained_rate(recipe: Recipe, scratch: Path, seconds: float) -> TrainedRate:
    """Train for at least `seconds`, and with `evaluation.every` until one evaluation has ended. recipe: of a run without an end."""
    run, room = RunDirectory.create(scratch / "run", recipe), training_capacity(recipe)
    async with make_runtime(recipe, run, capacity=room, beside=beside_capacity(recipe), notify=print) as runtime:
        await runtime.guard(runtime.ready())
        return await runtime.guard(_train(runtime, recipe, seconds))


async def _train(runtime: Runtime, recipe: Recipe, seconds: float) -> TrainedRate:
    rate, steps, began = TrainedRate(), 0, time.monotonic()

    def over(version: Version, _: Sequence[Finished], __: TrainedOn) -> Mapping[str, Any]:
        rate.evaluated.append(version)
        return {"when": "during", "version": version}

    beside = EvaluationsBeside(recipe, runtime, over, notify=print)
    ledger = endless_ledger(recipe, runtime.rollouts.spec.spaces)
    async for published, episodes in runtime.train(ledger, end=recipe.training.updates, beside=beside):
        if published.version <= WARMUP_UPDATES:
            began = time.monotonic()
            continue
        steps += sum(episode.steps for episode in episodes)
        if time.monotonic() - began >= seconds and (rate.evaluated or not recipe.evaluation.every):
            break
    rate.steps_per_second = steps / (time.monotonic() - began)
    return rate
