"""Chrome's trace events, which Perfetto (ui.perfetto.dev) and chrome://tracing show: a process a host, a thread a worker, times in microseconds.

Hosts count from 0. The trace of a run and that of a rehearsal are made of the same events.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlvla3.observability.meter import IDLE
from rlvla3.observability.run_directory import complete

MICROSECONDS = 1e6

TraceEvent = dict[str, Any]


def write_events(path: Path, events: Iterable[TraceEvent], about: Mapping[str, Any]) -> None:
    """Write a trace, event by event: of whatever length, it is never in memory as a whole. about: what it is the trace of, kept in the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete(path) as beside, beside.open("w") as file:
        file.write(f'{{"displayTimeUnit":"ms","otherData":{_json(about)},"traceEvents":[')
        for number, event in enumerate(events):
            file.write((",\n" if number else "\n") + _json(event))
        file.write("\n]}\n")


def host(number: int, name: str) -> Iterator[TraceEvent]:
    """What a host is called."""
    yield {"ph": "M", "name": "process_name", "pid": _process(number), "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": _process(number), "args": {"sort_index": number}}


def lane(on: int, thread: int, name: str) -> Iterator[TraceEvent]:
    """What a lane on a host is called; lanes lie in the order of their threads, which count from 1 over all hosts."""
    where = {"ph": "M", "pid": _process(on), "tid": thread}
    yield where | {"name": "thread_name", "args": {"name": name}}
    yield where | {"name": "thread_sort_index", "args": {"sort_index": thread}}


def stay(on: int, thread: int, stage: str, begin: float, end: float, size: int = 0) -> TraceEvent:
    """A worker's stay in a stage, busy or waiting, in seconds. size: of how many items the work was (0: not said)."""
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
    """Something that happened in a lane, at a moment in seconds."""
    return {"ph": "i", "s": "t", "name": name, "pid": _process(on), "tid": thread, "ts": _microseconds(at)}


def version(number: int, at: float) -> TraceEvent:
    """The newest version, from a moment on."""
    return {"ph": "C", "name": "version", "pid": _process(0), "ts": _microseconds(at), "args": {"version": number}}


def episodes(staleness: Mapping[int, int], at: float) -> TraceEvent:
    """The episodes of an update that was done at a moment, by staleness."""
    counts = {f"staleness {lag}": count for lag, count in sorted(staleness.items())}
    return {"ph": "C", "name": "episodes", "pid": _process(0), "ts": _microseconds(at), "args": counts}


def _process(number: int) -> int:
    return number + 1  # 0 stands for the idle process in some viewers


def _microseconds(seconds: float) -> float:
    return round(seconds * MICROSECONDS, 3)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
