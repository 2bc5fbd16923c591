"""The trace of a real run: every worker notes its stays in a file of its own, and RUN_DIR/trace.json is made of them when the run ends, however it ends.

    RUN_DIR/stays/trainer.samples          of workers beside the coordinator, and of trainers
    RUN_DIR/stays/host-1/shard-0.samples   of the hosts of a Ray run, whose files come back at their end

Invariants:
- a stay is in its file as soon as it is over: what a worker that was killed has noted is there;
- a file never grows past MOST_BYTES. Noting stops there, and the trace says so.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rlvla3.config import Recipe
from rlvla3.observability import trace_events
from rlvla3.observability.events import Event, UpdateFinished
from rlvla3.observability.meter import STAGES, MeterBoard
from rlvla3.observability.run_directory import RunDirectory
from rlvla3.observability.sampling import SAMPLE, SamplingBoard, read_samples
from rlvla3.observability.trace_events import TraceEvent

MOST_BYTES = 16 << 20
"""Of a worker's file: 420,000 stays, an hour of a shard that decides ten times a second. As JSON they are three times as long."""

KINDS = ("trainer", "weights", "generator", "shard")
"""Workers from the top of a trace to its bottom."""


@dataclass(frozen=True, slots=True)
class WallClock:
    """Seconds since 1970: this host's wall clock as it stood when this was made, carried on by the monotonic clock, so that no step of the wall clock is in it.

    All processes of a host that are handed one agree exactly; hosts agree as well as their wall clocks do.
    """

    epoch: float = field(default_factory=lambda: time.time() - time.monotonic())

    def __call__(self) -> float:
        return self.epoch + time.monotonic()


def board_of(recipe: Recipe, stays: Path) -> Callable[[Sequence[str]], MeterBoard]:
    """Makes the board that a run of `recipe` wants: one that only adds up, or one whose meters also note every stay in the folder `stays`."""
    if not recipe.engine.trace:
        return MeterBoard
    stays.mkdir(parents=True, exist_ok=True)
    return partial(SamplingBoard, now=WallClock(), folder=stays, most_bytes=MOST_BYTES)


@dataclass(frozen=True)
class TraceLane:
    """What one worker noted: SAMPLE [n]. host: the folder within `stays`, "" for the run's own. ended: whether noting stopped before the worker did."""

    host: str
    worker: str
    samples: NDArray[Any]
    ended: bool


class TraceFile:
    """A watcher that knows when versions came, and makes trace.json when it is closed; nothing is left of RUN_DIR/stays then.

    It is made before the workers are started, and closed after they have ended.
    """

    def __init__(self, run: RunDirectory, now: Callable[[], float] | None = None) -> None:
        self._run, self._now = run, now or WallClock()
        self._updates: list[tuple[float, UpdateFinished]] = []
        shutil.rmtree(run.stays, ignore_errors=True)  # of a run that could not make a trace of them

    def on(self, event: Event) -> None:
        if isinstance(event, UpdateFinished):
            self._updates.append((self._now(), event))

    def close(self) -> None:
        lanes = read_lanes(self._run.stays)
        if lanes:
            begin = min(float((lane.samples["end"] - lane.samples["wall"]).min()) for lane in lanes)
            trace_events.write_events(self._run.trace, self._events(lanes, begin), _about(self._run, lanes, begin))
        shutil.rmtree(self._run.stays, ignore_errors=True)

    def _events(self, lanes: Sequence[TraceLane], begin: float) -> Iterator[TraceEvent]:
        hosts = sorted({lane.host for lane in lanes})
        for number, name in enumerate(hosts):
            yield from trace_events.host(number, name.replace("-", " ") or self._run.path.name)
        for thread, lane in enumerate(lanes, 1):
            yield from _of_lane(lane, hosts.index(lane.host), thread, begin)
        for at, update in self._updates:
            if update is self._updates[0][1]:
                yield trace_events.version(update.update - 1, 0.0)
            yield trace_events.version(update.update, at - begin)
            yield trace_events.episodes(update.staleness, at - begin)


def read_lanes(stays: Path) -> list[TraceLane]:
    """What is in the folder, in the order in which it is shown; workers that noted nothing have no lane."""
    files = [(path, read_samples(path)) for path in stays.rglob("*.samples")]
    lanes = [
        TraceLane(path.parent.name if path.parent != stays else "", path.stem.replace("-", " "), samples, path.stat().st_size > MOST_BYTES - SAMPLE.itemsize)
        for path, samples in files
        if len(samples)
    ]
    return sorted(lanes, key=_place)


def _place(lane: TraceLane) -> tuple[list[int], int, list[int]]:
    """Hosts, then kinds, then workers, each by their numbers."""
    return _numbers(lane.host), KINDS.index(lane.worker.split()[0]), _numbers(lane.worker)


def _numbers(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _of_lane(lane: TraceLane, on: int, thread: int, begin: float) -> Iterator[TraceEvent]:
    yield from trace_events.lane(on, thread, lane.worker)
    for stage, size, end, wall, _, _ in lane.samples.tolist():
        if wall > 0:
            yield trace_events.stay(on, thread, STAGES[stage], end - wall - begin, end - begin, size)
    if lane.ended:
        yield trace_events.mark(on, thread, f"{MOST_BYTES >> 20} MiB are noted: no more", float(lane.samples["end"][-1]) - begin)


def _about(run: RunDirectory, lanes: Sequence[TraceLane], begin: float) -> Mapping[str, Any]:
    """ended_early: the workers of which only the beginning is shown."""
    ended = [" ".join(filter(None, (lane.host.replace("-", " "), lane.worker))) for lane in lanes if lane.ended]
    return {"run": run.path.name, "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begin)), "ended_early": ended}
