"""The last updates of a rehearsal as a timeline: a trace for Perfetto (ui.perfetto.dev) or chrome://tracing. Its picture is in picture.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvla3.observability.meter import IDLE
from rlvla3.observability.run_directory import complete
from rlvla3.runtimes.names import TRAINER, generator_name, shard_name
from rlvla3.runtimes.virtual.runtime import Published
from rlvla3.runtimes.virtual.spans import Span, SpanBoard
from rlvla3.scheduling.placement import Placement

UPDATES = 2
"""Settled updates that a timeline shows."""

MOST_LANES = 64
"""Workers of one kind that have a lane, taken at equal distances: the timeline of 256 GPUs is no longer than that of 8."""

MICROSECONDS = 1e6


@dataclass(frozen=True, slots=True)
class Lane:
    """One worker's line of a timeline. kind: shard, generator or trainer."""

    worker: str
    kind: str
    host: int
    device: int


class Timeline:
    """What a rehearsal of some workers looks like, update by update. Hand it to `rehearse`; then `write_trace` and `draw` show it.

    spans: of the workers that have lanes, over the last UPDATES updates, which last from `begin` to `end`, in virtual seconds. published: those updates.
    """

    def __init__(self) -> None:
        self.published: list[Published] = []
        self._lanes: list[Lane] = []
        self._board: SpanBoard | None = None
        self._last = 0

    def of(self, placement: Placement, shards: int, last: int) -> Callable[[Sequence[str], Callable[[], float]], SpanBoard]:
        """The board of a run of `last` updates, with some workers' lanes. For whoever makes the run."""
        self._last = last
        self._lanes = [Lane(TRAINER, "trainer", placement.cluster.host(placement.trainers[0]), placement.trainers[0])]
        for number in _some(len(placement.generators)):
            device = placement.generators[number]
            self._lanes.append(Lane(generator_name(number), "generator", placement.cluster.host(device), device))
        for number in _some(shards):
            device = placement.simulator_of(number)
            self._lanes.append(Lane(shard_name(number), "shard", placement.cluster.host(device), device))

        def board(workers: Sequence[str], now: Callable[[], float]) -> SpanBoard:
            self._board = SpanBoard(workers, now, [lane.worker for lane in self._lanes])
            return self._board

        return board

    def on(self, published: Published) -> None:
        """An update of that run is done."""
        if published.version > self._last - UPDATES:
            self.published.append(published)
        if published.version == self._last - UPDATES:
            self.board.begin_recording()
        elif published.version == self._last:
            self.board.end_recording()

    @property
    def board(self) -> SpanBoard:
        if self._board is None:
            raise RuntimeError("a timeline is empty before a rehearsal: rehearse(..., timeline=timeline)")
        return self._board

    @property
    def spans(self) -> Sequence[Span]:
        return self.board.spans

    @property
    def begin(self) -> float:
        return self.board.begin

    @property
    def end(self) -> float:
        return self.board.end

    @property
    def lanes(self) -> Sequence[Lane]:
        return self._lanes

    def count(self, kind: str) -> int:
        """How many workers of a kind there are, with and without a lane."""
        return sum(worker.split()[0] == kind for worker in self.board.workers)


def write_trace(timeline: Timeline, path: Path, about: dict[str, Any]) -> None:
    """Write the timeline as Chrome's trace events, which Perfetto shows too: a process a host, a thread a worker, microseconds of virtual time.

    about: what was rehearsed, kept in the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    trace = {"displayTimeUnit": "ms", "otherData": about, "traceEvents": [*_names(timeline), *_spans(timeline), *_counters(timeline)]}
    with complete(path) as beside:
        beside.write_text(json.dumps(trace, separators=(",", ":")) + "\n")


def _names(timeline: Timeline) -> Iterator[dict[str, Any]]:
    for host in sorted({lane.host for lane in timeline.lanes}):
        yield {"ph": "M", "name": "process_name", "pid": _process(host), "args": {"name": f"host {host}"}}
        yield {"ph": "M", "name": "process_sort_index", "pid": _process(host), "args": {"sort_index": host}}
    for thread, lane in enumerate(timeline.lanes, 1):
        where = {"ph": "M", "pid": _process(lane.host), "tid": thread}
        on = "all ranks" if lane.kind == "trainer" else f"device {lane.device}"
        yield where | {"name": "thread_name", "args": {"name": f"{lane.worker}, {on}"}}
        yield where | {"name": "thread_sort_index", "args": {"sort_index": thread}}


def _spans(timeline: Timeline) -> Iterator[dict[str, Any]]:
    threads = {lane.worker: (_process(lane.host), thread) for thread, lane in enumerate(timeline.lanes, 1)}
    for span in timeline.spans:
        process, thread = threads[span.worker]
        yield {
            "ph": "X",
            "name": f"waits for {span.stage}" if span.stage in IDLE else span.stage,
            "cat": "idle" if span.stage in IDLE else "busy",
            "pid": process,
            "tid": thread,
            "ts": _microseconds(span.begin),
            "dur": round(_microseconds(span.end) - _microseconds(span.begin), 3),
        }


def _counters(timeline: Timeline) -> Iterator[dict[str, Any]]:
    """The version, and the staleness of what it was trained on, from the moment that it is everywhere."""
    first = timeline.published[0].version - 1
    for version, at in [(first, timeline.begin), *((published.version, published.at) for published in timeline.published)]:
        yield {"ph": "C", "name": "version", "pid": _process(0), "ts": _microseconds(at), "args": {"version": version}}
    for published in timeline.published:
        episodes = {f"staleness {lag}": count for lag, count in sorted(published.staleness.items())}
        yield {"ph": "C", "name": "episodes", "pid": _process(0), "ts": _microseconds(published.at), "args": episodes}


def _process(host: int) -> int:
    return host + 1  # 0 stands for the idle process in some viewers


def _microseconds(seconds: float) -> float:
    return round(seconds * MICROSECONDS, 3)


def _some(count: int) -> list[int]:
    """At most MOST_LANES of `count` numbers, at equal distances."""
    lanes = min(count, MOST_LANES)
    return [lane * count // lanes for lane in range(lanes)]
