"""Chrome's trace events, for Perfetto (ui.perfetto.dev) and chrome://tracing. A host is a process, a worker is a thread, times are in microseconds.

Hosts are numbered from 0. The traces of runs and of rehearsals consist of the same events.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from rlvla3.observability.meter import IDLE
from rlvla3.observability.run_directory import complete_file

MICROSECONDS = 1e6

TraceEvent = dict[str, Any]


def write_events(path: Path, events: Iterable[TraceEvent], about: Mapping[str, Any]) -> None:
    """Write a trace event by event, so that a long trace need not fit into memory. about: data about the trace, which the file keeps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(path) as beside, beside.open("w") as file:
        file.write(f'{{"displayTimeUnit":"ms","otherData":{_json(about)},"traceEvents":[')
        for number, event in enumerate(events):
            file.write((",\n" if number else "\n") + _json(event))
        file.write("\n]}\n")


def host(number: int, name: str) -> Iterator[TraceEvent]:
    """The name of a host."""
    yield {"ph": "M", "name": "process_name", "pid": _process(number), "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": _process(number), "args": {"sort_index": number}}


def lane(on: int, thread: int, name: str) -> Iterator[TraceEvent]:
    """The name of a lane on a host. Lanes are shown in the order of their thread numbers, which count from 1 over all hosts."""
    where = {"ph": "M", "pid": _process(on), "tid": thread}
    yield where | {"name": "thread_name", "args": {"name": name}}
    yield where | {"name": "thread_sort_index", "args": {"sort_index": thread}}


def stage_time(on: int, thread: int, stage: str, begin: float, end: float, size: int = 0) -> TraceEvent:
    """A worker's time in a stage, busy or waiting. begin, end: seconds. size: the number of items in the work, 0 where unknown."""
    event = {
        "ph": "X",
        "name": f"waits for {stage}" if stage in IDLE else stage,
        "cat": "idle" if stage in IDLE else "busy",
        "pid": _process(on),
        "tid": thread,
        "ts": _microseconds(begin),
        "dur": round(_microseconds(end) - _microseconds(begin), 3),
    }
    return event | {"args": {"size": size}} if size else event


def mark(on: int, thread: int, name: str, at: float) -> TraceEvent:
    """An event in a lane at a time in seconds."""
    return {"ph": "i", "s": "t", "name": name, "pid": _process(on), "tid": thread, "ts": _microseconds(at)}


def version(number: int, at: float) -> TraceEvent:
    """The newest version, from a time in seconds on."""
    return {"ph": "C", "name": "version", "pid": _process(0), "ts": _microseconds(at), "args": {"version": number}}


def episodes(staleness: Mapping[int, int], at: float) -> TraceEvent:
    """The episodes of an update that finished at a time in seconds, by staleness."""
    counts = {f"staleness {lag}": count for lag, count in sorted(staleness.items())}
    return {"ph": "C", "name": "episodes", "pid": _process(0), "ts": _microseconds(at), "args": counts}


def batching(number: int, figures: Mapping[str, float], at: float) -> TraceEvent:
    """What the generator of this number had chosen at a time in seconds. A limit that is infinite is left out."""
    finite = {name: value for name, value in figures.items() if isfinite(value)}
    return {"ph": "C", "name": f"batching of generator {number}", "pid": _process(0), "ts": _microseconds(at), "args": finite}


def _process(number: int) -> int:
    return number + 1  # some viewers use 0 for the idle process


def _microseconds(seconds: float) -> float:
    return round(seconds * MICROSECONDS, 3)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
