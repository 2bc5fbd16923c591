"""The watcher that writes events as TensorBoard curves."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from statistics import fmean
from typing import Any

from rlvla3.observability.batching import by_name
from rlvla3.observability.events import CloneStep, EvaluationFinished, Event, UpdateFinished
from rlvla3.observability.intervals import success_rate
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.worker_times import by_kind, mean_of


class TensorBoardWatcher:
    """Writes TensorBoard curves into the run directory. Their x axis is the update, for cloning the step.

    version: the update that a continued run starts from. TensorBoard hides the points after it that an earlier run wrote.
    """

    def __init__(self, run: RunDirectory, version: int | None = None) -> None:
        with _without_torch():
            tensorboard = importlib.import_module("tensorboardX")
        self._writer = tensorboard.SummaryWriter(str(run.path), purge_step=None if version is None else version + 1, flush_secs=5)

    def on(self, event: Event) -> None:
        match event:
            case UpdateFinished():
                self._write(_curves(event), event.update)
            case EvaluationFinished():
                rates = {"success": event.success, **(event.success.per_task if len(event.success.per_task) > 1 else {})}
                self._write({f"evaluation/{name}": rate.successes / max(rate.episodes, 1) for name, rate in rates.items()}, event.version)
            case CloneStep():
                self._write({"clone/loss": event.loss}, event.step)

    def close(self) -> None:
        self._writer.close()

    def _write(self, curves: Mapping[str, float], step: int) -> None:
        for name, value in curves.items():
            self._writer.add_scalar(name, value, step)


def _curves(event: UpdateFinished) -> dict[str, float]:
    rollouts, episodes = success_rate(event.episodes), max(len(event.episodes), 1)
    curves = {
        "rollouts/success": rollouts.successes / episodes,
        "rollouts/return": rollouts.mean_return,
        "rollouts/steps": rollouts.mean_steps,
        "engine/throughput": event.throughput,
        "engine/environment_steps": float(event.environment_steps),
        "engine/staleness": sum(lag * count for lag, count in event.staleness.items()) / max(sum(event.staleness.values()), 1),
    }
    busy = {f"busy/{kind}": sum(mean_of(kind, workers).busy.values()) for kind, workers in by_kind(event.workers).items()}
    means = {name: fmean(values) for name, values in by_name(event.batching).items()}
    batching = {f"batching/{name}": mean for name, mean in means.items() if isfinite(mean)}
    return curves | busy | batching | {f"learner/{name}": value for name, value in event.learner.items()}


@contextmanager
def _without_torch() -> Iterator[None]:
    """Hide torch from imports in this block. tensorboardX would import it (200 MB and a second) for one type annotation, and works without it."""
    absent: Any = None
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = absent
    try:
        yield
    finally:
        del sys.modules["torch"]
