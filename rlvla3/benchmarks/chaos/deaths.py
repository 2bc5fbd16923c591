"""What deaths of simulators cost: environment steps per second with a death every few seconds, against the same run without (`bench deaths`).

Windows without and with deaths alternate in one run, so that whatever else the machine does meets both.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import psutil

from rlvla3.benchmarks.chaos.observed_run import ObservedRun
from rlvla3.benchmarks.chaos.settings import recipe
from rlvla3.observability.figures import write_figures

START_S, END_S = 180.0, 60.0

SETTLE_S = 5.0
"""After the start, before the first window."""


def main(shards: int, every_s: float, windows: int, seconds: float, figures: Path) -> bool:
    """Measure `windows` pairs of windows of so many seconds each, with `shards` simulators. In every second window, one of them is killed
    every `every_s` seconds.

    Returns whether the run could be measured.
    """
    with tempfile.TemporaryDirectory(prefix="rlvla3-deaths-", ignore_cleanup_errors=True) as folder:
        run = ObservedRun(Path(folder), f"deaths-{os.getpid()}", death_recipe(shards))
        try:
            if not run.begin(START_S, SETTLE_S):
                return False
            measured = [_window(run, seconds, every_s if window % 2 else None) for window in range(2 * windows)]
            run.send(signal.SIGINT)
            run.wait(END_S)
        finally:
            run.kill_all()
    quiet, deadly = measured[::2], measured[1::2]
    rates = [sum(of["steps"] for of in kind) / sum(of["seconds"] for of in kind) for kind in (quiet, deadly)]
    deaths, lost = sum(of["deaths"] for of in deadly), 1 - rates[1] / rates[0]
    print(f"{shards} simulators: {rates[0]:.1f} steps/s without deaths; {rates[1]:.1f} with one every {every_s:g} s, {deaths} in all: {100 * lost:.1f} % less")
    write_figures({"shards": shards, "every_s": every_s, "without": quiet, "with": deadly, "lost": lost}, figures)
    return deaths > 0


def death_recipe(shards: int) -> dict[str, Any]:
    """The asynchronous setting with so many simulators, which are delayed in place of computing."""
    settings = recipe("async")
    settings["simulator"] |= {"shards": shards, "delay": {"step": 0.05}}
    settings["training"] |= {"batch": 16, "checkpoint_every": 50}
    settings["engine"]["generators"] = 1
    return settings


def _window(run: ObservedRun, seconds: float, every_s: float | None) -> Mapping[str, float]:
    """Let the run go on for so many seconds, and kill a simulator at the start of each `every_s` of them (None: never)."""
    random, deaths = Random(f"{run.updates}"), 0
    before, began = _steps(run), time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0 and run.alive:
        shards = run.workers("shard")
        if every_s is not None and shards:
            with suppress(psutil.NoSuchProcess):
                random.choice([*shards.values()]).kill()
                deaths += 1
        run.wait(min(left, every_s or left))
    return {"steps": _steps(run) - before, "seconds": time.monotonic() - began, "deaths": deaths}


def _steps(run: ObservedRun) -> int:
    steps: int = run.metrics("update")[-1]["environment_steps"]
    return steps
