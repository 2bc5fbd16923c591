"""Watchers that write a run down: JSON lines and TensorBoard curves."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

from rlvla3.observability.events import CloneStep, EvaluationFinished, Event, UpdateFinished
from rlvla3.observability.intervals import success_rate
from rlvla3.observability.records import record_of
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.workers import by_kind, mean_of

Clock = Callable[[], float]


class JsonLines:
    """One line of JSON an event, flushed at once. `seconds` in each line counts from the run's start."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream, self._clock, self._began = stream, clock, clock()

    def on(self, event: Event) -> None:
        record = record_of(event)
        if record is not None:
            line = {"seconds": round(self._clock() - self._began, 3), **record}
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Nothing to do: the stream is its owner's to close."""


class MetricsFile(JsonLines):
    """metrics.jsonl of a run directory; a continued run's lines, and its seconds, follow on from those before."""

    def __init__(self, run: RunDirectory, clock: Clock = time.monotonic) -> None:
        earlier = run.records()
        super().__init__(run.metrics.open("a"), clock)
        self._began -= earlier[-1]["seconds"] if earlier else 0.0

    def close(self) -> None:
        self._stream.close()


class TensorBoardWatcher:
    """TensorBoard curves in the run directory, over updates (cloning: over its steps).

    version: the update that a continued run starts from; TensorBoard then hides the curves' points after it.
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
    return curves | busy | {f"learner/{name}": value for name, value in event.learner.items()}


@contextmanager
def _without_torch() -> Iterator[None]:
    """tensorboardX imports torch, 200 MB and a second, to name one type in an annotation; it does as well where there is none."""
    absent: Any = None
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = absent
    try:
        yield
    finally:
        del sys.modules["torch"]
