"""The last updates of a rehearsal as a timeline: a trace for Perfetto (ui.perfetto.dev) or chrome://tracing. Its picture is in picture.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvla3.observability import trace_events
from rlvla3.observability.trace_events import TraceEvent, write_events
from rlvla3.runtimes.virtual.runtime import RehearsedUpdate
from rlvla3.runtimes.virtual.spans import Span, SpanBoard
from rlvla3.runtimes.worker_names import TRAINER, generator_name, shard_name
from rlvla3.scheduling.placement import Placement

UPDATES = 2
"""Settled updates that a timeline shows."""

MOST_LANES = 64
"""Workers of one kind that have a lane, taken at equal distances: the timeline of 256 GPUs is no longer than that of 8."""


@dataclass(frozen=True, slots=True)
class TimelineLane:
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
        self.published: list[RehearsedUpdate] = []
        self._lanes: list[TimelineLane] = []
        self._board: SpanBoard | None = None
        self._last = 0

    def of(self, placement: Placement, shards: int, last: int) -> Callable[[Sequence[str], Callable[[], float]], SpanBoard]:
        """The board of a run of `last` updates, with some workers' lanes. For whoever makes the run."""
        self._last = last
        self._lanes = [TimelineLane(TRAINER, "trainer", placement.cluster.host(placement.trainers[0]), placement.trainers[0])]
        for number in _some(len(placement.generators)):
            device = placement.generators[number]
            self._lanes.append(TimelineLane(generator_name(number), "generator", placement.cluster.host(device), device))
        for number in _some(shards):
            device = placement.simulator_of(number)
            self._lanes.append(TimelineLane(shard_name(number), "shard", placement.cluster.host(device), device))

        def board(workers: Sequence[str], now: Callable[[], float]) -> SpanBoard:
            self._board = SpanBoard(workers, now, [lane.worker for lane in self._lanes])
            return self._board

        return board

    def on(self, published: RehearsedUpdate) -> None:
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
    def lanes(self) -> Sequence[TimelineLane]:
        return self._lanes

    def count(self, kind: str) -> int:
        """How many workers of a kind there are, with and without a lane."""
        return sum(worker.split()[0] == kind for worker in self.board.workers)


def write_trace(timeline: Timeline, path: Path, about: dict[str, Any]) -> None:
    """Write the timeline as a trace, in virtual time. about: what was rehearsed, kept in the file."""
    write_events(path, _events(timeline), about)


def _events(timeline: Timeline) -> Iterator[TraceEvent]:
    for host in sorted({lane.host for lane in timeline.lanes}):
        yield from trace_events.host(host, f"host {host}")
    threads = {lane.worker: (lane.host, thread) for thread, lane in enumerate(timeline.lanes, 1)}
    for lane in timeline.lanes:
        on = "all ranks" if lane.kind == "trainer" else f"device {lane.device}"
        yield from trace_events.lane(*threads[lane.worker], f"{lane.worker}, {on}")
    for span in timeline.spans:
        yield trace_events.stay(*threads[span.worker], span.stage, span.begin, span.end)
    yield trace_events.version(timeline.published[0].version - 1, timeline.begin)
    for published in timeline.published:
        # What is new and how stale its episodes were, from the moment that it is everywhere.
        yield trace_events.version(published.version, published.at)
        yield trace_events.episodes(published.staleness, published.at)


def _some(count: int) -> list[int]:
    """At most MOST_LANES of `count` numbers, at equal distances."""
    lanes = min(count, MOST_LANES)
    return [lane * count // lanes for lane in range(lanes)]
