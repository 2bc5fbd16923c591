"""The four modes in real runs: simulators, generator and trainer on this machine, with the default settings of each mode.

Simulators are Meta-World's where it is installed, one per process, else an environment with a camera, delayed on purpose. The policy has random weights, and a
learning rate so small that it keeps them. So episodes are equally long in all modes. Steps are counted after the first updates, and over whole waves
(planning/rehearsal.py).
"""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rlvla3.benchmarks.gpu.device_watch import watched
from rlvla3.benchmarks.gpu.policies import EPISODE_STEPS, POLICIES, MeasuredPolicy
from rlvla3.benchmarks.gpu.sheet import NO_TIME, Sheet
from rlvla3.benchmarks.gpu.sizes import Sizes
from rlvla3.benchmarks.interaction import measure as measure_run
from rlvla3.config import Mode, Recipe, make_recipe
from rlvla3.observability.events import WorkerTime
from rlvla3.observability.worker_times import by_kind, mean_of
from rlvla3.planning.profiling.measuring import in_mode, settled

MODES: tuple[Mode, ...] = ("sync", "full_async", "train_async", "rollout_async")
"""In the order in which they are measured: the two that matter most come first."""

UPDATES = 2
"""The fewest updates that are measured, rounded up to whole waves."""

TASK = "button-press-topdown-v3"
TINY_STEPS = 10

SIGMA = 0.5
"""How uneven the steps are where Meta-World is missing: the standard deviation of the logarithm."""


def measure(sheet: Sheet) -> None:
    """Measure sync and full_async of each policy, then the other two modes of each. No mode says anything without sync beside it."""
    for name, mode in _order(sheet.sizes):
        lasts, what = _seconds_a_mode(sheet, name), f"{name}, {mode}"
        if mode != "sync" and "sync" not in sheet.figures.get(name, {}):
            sheet.skip(what, NO_TIME)
        elif sheet.time_for(what, 2 * lasts if mode == "sync" else lasts):
            _measure_mode(sheet, name, mode)


def recipe_for(measured: MeasuredPolicy, sizes: Sizes, mode: Mode) -> Recipe:
    """A settled run of a policy in one mode, with the settings that the mode has by default."""
    large = measured.image == 224
    shards = sizes.shards * (2 if large else 1)
    steps = EPISODE_STEPS if sizes.on_gpu else TINY_STEPS
    tree = {
        "simulator": _simulator(measured.image, sizes) | {"shards": shards, "max_steps": steps},
        "policy": measured.config.model_dump(mode="json"),
        "algorithm": {"gamma": 0.97, "correction": "none"},
        "training": {
            "batch": 64 if sizes.on_gpu else 2 * shards,
            "steps": 1 if large else 2,
            "epochs": measured.epochs,
            "micro_batch": measured.micro_batch,
        },
    }
    recipe = make_recipe(tree)
    return in_mode(settled(recipe, engine={"share": recipe.engine.share}), mode)


def _order(sizes: Sizes) -> Iterator[tuple[str, Mode]]:
    for modes in (MODES[:2], MODES[2:]):
        yield from ((name, mode) for name in sizes.running for mode in modes)


def _simulator(image: int, sizes: Sizes) -> dict[str, Any]:
    if sizes.on_gpu and find_spec("metaworld") is not None:
        return {"name": "metaworld", "tasks": [TASK], "options": {"image_size": image}}
    median_s = 0.01 if sizes.on_gpu else 0.001
    delay = {"step": {"distribution": "lognormal", "mean_s": median_s * math.exp(SIGMA**2 / 2), "sigma": SIGMA}}
    return {"name": "rlvla3.benchmarks.still_env:StillEnv", "options": {"kwargs": {"image": image}}, "delay": delay}


def _seconds_a_mode(sheet: Sheet, name: str) -> float:
    """How long a mode will take: as long as the last one of this policy, else a guess."""
    taken = [figures["seconds_in_all"] for figures in sheet.figures.get(name, {}).values()]
    guess = (110.0 if "pi0" in name else 40.0) if sheet.sizes.on_gpu else 1.0
    return taken[-1] if taken else guess


def _measure_mode(sheet: Sheet, name: str, mode: Mode) -> None:
    sizes = sheet.sizes
    recipe = recipe_for(POLICIES[name], sizes, mode)
    wave, until = recipe.engine.max_staleness + 1, sheet.left

    def enough(updates: int, seconds: float) -> bool:
        return updates >= UPDATES and seconds >= sizes.shortest_s and updates % wave == 0

    with tempfile.TemporaryDirectory(prefix="rlvla3-bench-") as scratch, watched(sizes.device) as seen:
        found = asyncio.run(measure_run(recipe, Path(scratch), enough))
        device = seen()
    before = sheet.figures.get(name, {}).get("sync", {}).get("steps_per_second")
    rate = found["steps_per_second"]
    figures = {
        "steps_per_second": rate,
        "ratio_to_sync": rate / before if before else (1.0 if mode == "sync" else None),
        "seconds": found["seconds"],
        "seconds_in_all": until - sheet.left,
        "staleness": found["staleness"],
        "workers": _kinds(found["workers"]),
        "host_memory_gib": found["memory_mb"] * 1e6 / 2**30,
    }
    simulator = {"simulator": recipe.simulator.name, "environments": recipe.environments}
    sheet.write(name, mode, **figures, **simulator, **device)


def _kinds(workers: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """The mean shares of each kind of worker, busy by stage and idle by what it waits for."""
    kinds = by_kind(WorkerTime(worker["name"], worker["busy"], worker["idle"]) for worker in workers)
    means = {kind: mean_of(kind, of_kind) for kind, of_kind in kinds.items()}
    return {kind: {"busy": dict(mean.busy), "idle": dict(mean.idle)} for kind, mean in means.items()}
