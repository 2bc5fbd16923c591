"""Watchers that write events as JSON lines: to a stream, or to metrics.jsonl of a run directory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TextIO

from rlvla3.observability.appended_file import AppendedFile
from rlvla3.observability.event_json import event_json
from rlvla3.observability.events import Event
from rlvla3.observability.run_directory import RunDirectory

Clock = Callable[[], float]


class JsonLines:
    """Writes one line of JSON for each event to a stream, at once. `seconds` in each line is the time since the run's start."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream, self._clock, self._began = stream, clock, clock()

    def on(self, event: Event) -> None:
        if (line := _line(event, self._clock() - self._began)) is not None:
            self._stream.write(line)
            self._stream.flush()

    def close(self) -> None:
        """Does nothing: the owner of the stream closes it."""


class MetricsFile:
    """metrics.jsonl of a run directory. A continued run appends its lines, and its seconds continue from the last line."""

    def __init__(self, run: RunDirectory, clock: Clock = time.monotonic) -> None:
        earlier = run.metric_lines()
        self._clock, self._began = clock, clock() - (earlier[-1]["seconds"] if earlier else 0.0)
        self._file = AppendedFile(run.metrics)

    def on(self, event: Event) -> None:
        if (line := _line(event, self._clock() - self._began)) is not None:
            self._file.append(line.encode())

    def close(self) -> None:
        self._file.close()


def _line(event: Event, seconds: float) -> str | None:
    data = event_json(event)
    return None if data is None else json.dumps({"seconds": round(seconds, 3), **data}) + "\n"
