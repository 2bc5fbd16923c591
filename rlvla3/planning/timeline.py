"""The last updates of a rehearsal as a timeline, and its trace for Perfetto (ui.perfetto.dev) or chrome://tracing. timeline_picture.py draws it."""

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
"""The number of settled updates that a timeline shows."""

MAX_LANES = 64
"""The most lanes for workers of one kind, evenly spread over all of them. So the timeline of 256 GPUs is no longer than that of 8."""


@dataclass(frozen=True, slots=True)
class TimelineLane:
    """One worker's lane in a timeline. kind: shard, generator or trainer."""

    worker: str
    kind: str
    host: int
    device: int


class Timeline:
    """Records what workers do in the last UPDATES updates of a rehearsal. Pass it to `rehearse`; then `write_trace` and `draw_timeline` show it.

    spans: what the workers with a lane did from `begin` to `end`, in virtual seconds. published: the updates in this time.
    """

    def __init__(self) -> None:
        self.published: list[RehearsedUpdate] = []
        self._lanes: list[TimelineLane] = []
        self._board: SpanBoard | None = None
        self._last = 0

    def make_board_factory(self, placement: Placement, shards: int, last: int) -> Callable[[Sequence[str], Callable[[], float]], SpanBoard]:
        """Choose the lanes of a run of `last` updates, and return the function that makes the run's meter board. `rehearse` calls it."""
        self._last = last
        self._lanes = [TimelineLane(TRAINER, "trainer", placement.cluster.host(placement.trainers[0]), placement.trainers[0])]
        for number in _spread_out(len(placement.generators)):
            device = placement.generators[number]
            self._lanes.append(TimelineLane(generator_name(number), "generator", placement.cluster.host(device), device))
        for number in _spread_out(shards):
            device = placement.simulator_of(number)
            self._lanes.append(TimelineLane(shard_name(number), "shard", placement.cluster.host(device), device))

        def board(workers: Sequence[str], now: Callable[[], float]) -> SpanBoard:
            self._board = SpanBoard(workers, now, [lane.worker for lane in self._lanes])
            return self._board

        return board

    def update_done(self, published: RehearsedUpdate) -> None:
        """Record that an update of the run is done. `rehearse` calls it."""
        if published.version > self._last - UPDATES:
            self.published.append(published)
        if published.version == self._last - UPDATES:
            self.board.begin_recording()
        elif published.version == self._last:
            self.board.end_recording()

    @property
    def board(self) -> SpanBoard:
        if self._board is None:
            raise RuntimeError("a timeline is empty before its rehearsal: call rehearse(..., timeline=timeline) first")
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
        """The number of workers of a kind, with and without a lane."""
        return sum(worker.split()[0] == kind for worker in self.board.workers)


def write_trace(timeline: Timeline, path: Path, about: dict[str, Any]) -> None:
    """Write the timeline as a trace, in virtual time. about: what was rehearsed; it is stored in the file."""
    write_events(path, _events(timeline), about)


def _events(timeline: Timeline) -> Iterator[TraceEvent]:
    for host in sorted({lane.host for lane in timeline.lanes}):
        yield from trace_events.host(host, f"host {host}")
    threads = {lane.worker: (lane.host, thread) for thread, lane in enumerate(timeline.lanes, 1)}
    for lane in timeline.lanes:
        on = "all ranks" if lane.kind == "trainer" else f"device {lane.device}"
        yield from trace_events.lane(*threads[lane.worker], f"{lane.worker}, {on}")
    for span in timeline.spans:
        yield trace_events.stage_time(*threads[span.worker], span.stage, span.begin, span.end)
    yield trace_events.version(timeline.published[0].version - 1, timeline.begin)
    for published in timeline.published:
        # The new version and the staleness of its episodes, at the moment when the version has arrived everywhere.
        yield trace_events.version(published.version, published.at)
        yield trace_events.episodes(published.staleness, published.at)


def _spread_out(count: int) -> list[int]:
    """At most MAX_LANES of the numbers below `count`, evenly spread."""
    lanes = min(count, MAX_LANES)
    return [lane * count // lanes for lane in range(lanes)]
