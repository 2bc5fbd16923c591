"""Watchers that write events as JSON lines: to a stream, or to metrics.jsonl of a run directory."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from rlvla3.observability.appended_file import MOST_UNWRITTEN, AppendedFile
from rlvla3.observability.continuing import Continuation, last_second, lines_until
from rlvla3.observability.event_json import event_json
from rlvla3.observability.events import Event, Resumed
from rlvla3.observability.metrics_lines import JsonObject, read_lines
from rlvla3.observability.run_directory import RunDirectory, complete_file

Clock = Callable[[], float]


class JsonLines:
    """Writes one line of JSON for each event, and flushes it at once. `seconds` in each line is the time since the run's start."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream, self._clock, self._began = stream, clock, clock()

    def on(self, event: Event) -> None:
        if (line := _line(event, self._clock() - self._began)) is not None:
            self._stream.write(_text(line))
            self._stream.flush()

    def close(self) -> None:
        """Does nothing: the owner of the stream closes it."""


class MetricsFile:
    """metrics.jsonl of a run directory.

    continued: what the run goes on from. Then lines are kept back until the run is Resumed, so that a run which is refused changes nothing. The file is then
    written anew, with the lines that stay, and `seconds` continue from the last of them.
    """

    def __init__(self, run: RunDirectory, continued: Continuation | None = None, clock: Clock = time.monotonic) -> None:
        self._path, self._file, self._clock = run.metrics, AppendedFile(run.metrics), clock
        self._began = clock() - (last_second(continued) if continued else 0.0)
        self._waits = continued is not None
        self._kept_back: deque[JsonObject] = deque(maxlen=MOST_UNWRITTEN)
        self._resumed: Continuation | None = None

    def on(self, event: Event) -> None:
        line = _line(event, self._clock() - self._began)
        if isinstance(event, Resumed):
            self._resumed = event.continuation
        elif line is not None and (self._waits or self._resumed is not None):
            self._kept_back.append(line)
            line = None
        if self._resumed is not None:
            self._write_anew(self._resumed)
        elif line is not None:
            self._file.append(_text(line).encode())

    def close(self) -> None:
        if not self._waits:
            self._file.close()

    def _write_anew(self, resumed: Continuation) -> None:
        """Write the lines that stay, and those that were kept back. Raises OSError; then the next event tries it again."""
        lines = resumed.lines if self._waits else lines_until(resumed.accounts.version, read_lines(self._path).lines)
        with complete_file(self._path) as beside:
            beside.write_text("".join(map(_text, (*lines, *self._kept_back))), encoding="utf-8")
        self._waits, self._resumed = False, None
        self._kept_back.clear()


def _line(event: Event, seconds: float) -> JsonObject | None:
    data = event_json(event)
    return None if data is None else {"seconds": round(seconds, 3), **data}


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line) + "\n"
