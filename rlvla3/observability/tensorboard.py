"""The watcher that writes events as TensorBoard curves."""

from __future__ import annotations

import importlib
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from statistics import fmean
from typing import Any

from rlvla3.observability.appended_file import AppendedFile
from rlvla3.observability.batching import by_name
from rlvla3.observability.events import CloneStep, EvaluationFinished, Event, Resumed, SuccessRate, UpdateFinished
from rlvla3.observability.intervals import success_rate
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.worker_times import by_kind, mean_of


class TensorBoardWatcher:
    """Writes TensorBoard curves into the run directory. Their x axis is the update, for cloning the step.

    Where the run goes on from an update, TensorBoard hides the points after it that were written before.

    The entries are written here and not by tensorboardX's own writer: that one has a thread which ends with its first error, and then blocks its caller.
    """

    def __init__(self, run: RunDirectory) -> None:
        with _without_torch():
            importlib.import_module("tensorboardX")
        self._proto, self._summary = (importlib.import_module(f"tensorboardX.proto.{kind}_pb2") for kind in ("event", "summary"))
        self._checksum = importlib.import_module("tensorboardX.record_writer").masked_crc32c
        # The form of the name is TensorBoard's: it reads files in the order of their names.
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._file = AppendedFile(run.path / name, head=self._entry(file_version="brain.Event:2"))

    def on(self, event: Event) -> None:
        match event:
            case Resumed(continuation):
                began = self._proto.SessionLog(status=self._proto.SessionLog.START)
                self._file.append(self._entry(step=continuation.accounts.version + 1, session_log=began))
            case UpdateFinished():
                self._write(_curves(event), event.update)
            case EvaluationFinished():
                rates = {"success": event.success, **(event.success.per_task if len(event.success.per_task) > 1 else {})}
                curves = [rate_curves("evaluation", name, rate) for name, rate in rates.items()]
                self._write({curve: value for found in curves for curve, value in found.items()}, event.version)
            case CloneStep():
                self._write({"clone/loss": event.loss}, event.step)

    def close(self) -> None:
        self._file.close()

    def _write(self, curves: Mapping[str, float], step: int) -> None:
        values = [self._summary.Summary.Value(tag=name, simple_value=value) for name, value in curves.items()]
        self._file.append(self._entry(step=step, summary=self._summary.Summary(value=values)))

    def _entry(self, **content: Any) -> bytes:
        """One entry of an event file, in TFRecord's format: length, its checksum, the event, its checksum."""
        event: bytes = self._proto.Event(wall_time=time.time(), **content).SerializeToString()
        length = struct.pack("<Q", len(event))
        return length + struct.pack("<I", self._checksum(length)) + event + struct.pack("<I", self._checksum(event))


def rate_curves(group: str, name: str, rate: SuccessRate) -> dict[str, float]:
    """A success rate, and beside it the ends of its 95 % interval and the number of its episodes: {curve: value}."""
    return {
        f"{group}/{name}": rate.successes / max(rate.episodes, 1),
        f"{group}_low/{name}": rate.low,
        f"{group}_high/{name}": rate.high,
        f"{group}_episodes/{name}": float(rate.episodes),
    }


def _curves(event: UpdateFinished) -> dict[str, float]:
    rollouts = success_rate(event.episodes)
    curves = {
        **rate_curves("rollouts", "success", rollouts),
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
